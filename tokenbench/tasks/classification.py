"""Image classification: one class an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from tokenbench.measure.verdicts import Difference
from tokenbench.tasks.base import Loader, Metric, Task

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tokenbench.backbones import Backbone
    from tokenbench.data import Images
    from tokenbench.measure.predictions import Predictions


class Classification(Task):
    """Classification: how often the first of a model's guesses is right, on folders of labelled images."""

    name = "classification"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("top1", "top-1", "top-1 accuracy", "%", interval=True),
        Metric("top5", "top-5", "top-5 accuracy", "%"),
        Metric("agreement", "agreement with dense", unit="%", shown=False, of_two=True),
    )
    intervals: ClassVar[Mapping[str, str]] = {"top1": "Wilson", "diff_dense": "Tango"}
    layout: ClassVar[str] = "a folder of images for each class, in `val` or at the top; or Parquet, hfds/NAME, wds/PATH"
    class_order: str = Field("auto", description="auto, natural (1, 2, 10), lexical (1, 10, 2), imagenet, or a file")
    labels: str | None = Field(None, description="a file with the label of each image, or the column that has it")
    restrict_classes: bool = Field(False, description="guess only from the classes that the data has")

    def open(self, folder: Path | None, backbone: Backbone) -> Images | None:
        """Folders of classes; what ships is Fashion-MNIST, for deit_nano."""
        from tokenbench import data

        if folder is None:
            fitting = backbone.name == "deit_nano" and backbone.vit.num_classes == len(data.SAMPLE_CLASSES)
            return data.sample() if fitting else None
        labels = None if self.labels is None else Path(self.labels)
        images = data.open_folder(folder, order=self.class_order, labels=labels)
        images = data.match(images, backbone.vit.num_classes, backbone.name, backbone.class_names)
        return data.restricted(images) if self.restrict_classes else data.told_of_part(images, backbone.name)

    def open_training(self, folder: Path) -> tuple[Images, Images]:
        """Its training images and those of its validation split."""
        from tokenbench import data

        return data.open_training(folder, self.class_order, None if self.labels is None else Path(self.labels))

    def loader(self, data: Any, backbone: Backbone, batch: int, workers: int, limit: int | None) -> Loader:
        """timm's evaluation transforms; (B,) class indices are the targets."""
        from tokenbench.data import loader

        return loader(data, backbone.config, batch, workers, limit)

    def pixels(self, backbone: Backbone) -> object:
        """What of the data config decides the transforms."""
        from tokenbench.data import transform_key

        return transform_key(backbone.config)

    def answer(self, model: nn.Module, images: Tensor, targets: Any, precision: str, name: str) -> Tensor:
        """The best five classes (B, 5)."""
        from tokenbench.data import Among
        from tokenbench.measure import accuracy

        if isinstance(targets, Among):
            return accuracy.answer(model, images, targets.targets, precision, name, targets.logits)
        return accuracy.answer(model, images, targets, precision, name)

    def gather(self, answers: Sequence[Any], targets: Sequence[Any]) -> Predictions:
        """The best classes of every image, and the right one."""
        from tokenbench.data import Among
        from tokenbench.measure import accuracy

        return accuracy.gather(answers, [t.targets if isinstance(t, Among) else t for t in targets])

    def load(self, path: Path) -> Predictions:
        """The classes that `Predictions.save` wrote."""
        from tokenbench.measure.predictions import Predictions

        return Predictions.load(path)

    def join(self, parts: Sequence[Predictions]) -> Predictions:
        """Of all images, in order."""
        from tokenbench.measure import predictions

        return predictions.join(parts)

    def score(self, own: Predictions, dense: Predictions | None, seed: int) -> Mapping[str, float | None]:
        """Top-1 and top-5; with `dense`, agreement and the paired difference."""
        from tokenbench.measure.predictions import paired

        low, high = own.interval
        scores: dict[str, float | None] = {"top1": own.top1, "top1_low": low, "top1_high": high, "top5": own.top5}
        if dense is None:
            return scores
        change = paired(own, dense).told
        return scores | {
            "agreement": own.agreement(dense),
            "diff_dense": change.value,
            "diff_dense_low": change.low,
            "diff_dense_high": change.high,
            "p_value": change.p,
        }

    def changes(self, own: Predictions, reference: Predictions, seed: int) -> Mapping[str, Difference | float]:
        """Top-1 by Tango's interval and McNemar's test, and how often both guess the same."""
        return {**super().changes(own, reference, seed), "agreement": own.agreement(reference)}
