"""Semantic segmentation: the class of each pixel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PositiveFloat

from tokenbench.tasks.base import Loader, Metric, Task, by_class, of_other_sizes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tokenbench.backbones import Backbone
    from tokenbench.data.labelled import Pictures
    from tokenbench.maps.scenes import Scene
    from tokenbench.measure.confusion import Labelled


def _split(value: Any) -> Any:
    """On the command line a list is written 0.5/1/1.5."""
    return tuple(value.split("/")) if isinstance(value, str) else value


class Segmentation(Task):
    """Segmentation: mean IoU of the class of each pixel, of one confusion matrix, on a feature pyramid."""

    name = "segmentation"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("miou", "mIoU", "mean IoU", "%", interval=True),
        Metric("pixel_accuracy", "pixels right", unit="%"),
    )
    intervals: ClassVar[Mapping[str, str]] = dict.fromkeys(("miou", "diff_dense"), "bootstrap")
    scored: ClassVar[str] = "mean IoU"
    reads_head: ClassVar[bool] = False
    layout: ClassVar[str] = "`images/val`, `masks/val` (PNG of class indices, 255 ignored) and `classes.txt`; or COCO's"
    any_size: ClassVar[bool] = True
    on_pyramid: ClassVar[bool] = True
    has_head: ClassVar[bool] = True
    depends: ClassVar[bool] = False
    batch: ClassVar[int | None] = 1
    looks: ClassVar[tuple[str, ...]] = ("mean", "std")
    parts: ClassVar[tuple[str, ...]] = ("backbone", "heads", "post-processing")
    built: ClassVar[frozenset[str]] = frozenset(("head", "width", "auxiliary"))

    head: Literal["upernet", "light"] = Field("upernet", description="UPerNet, or a head that adds up all levels")
    width: int = Field(512, ge=8, description="channels of the head")
    dropout: float = Field(0.1, ge=0, lt=1, description="of channels before the classes, in training")
    auxiliary: float = Field(0.4, ge=0, description="weight of a second head on the third map, in training; 0: none")
    norm: Literal["frozen", "train", "sync"] = Field(
        "train", description="BatchNorm of a stem that has it, in training"
    )
    reduce_zero_label: bool = Field(False, description="label 0 is no class and is ignored, as in ADE20K")
    short: int = Field(512, ge=0, description="short side of an image, in pixels; 0 leaves its size")
    long: int = Field(2048, ge=1, description="longest side of an image, in pixels, where short is given")
    slide: int = Field(
        0, ge=0, description="test by windows of so many pixels, two thirds of that apart; 0: whole images"
    )
    ratios: Annotated[tuple[PositiveFloat, ...], BeforeValidator(_split)] = Field(
        (1.0,), min_length=1, description="sizes of the image that are tested, relative to its own, as 0.5/1/1.5"
    )
    flip: bool = Field(False, description="test the mirror image too")
    split: str = Field("val", description="split of the data that is scored")
    images: str | None = Field(None, description="folder of the images of COCO's annotations, if not in --data-dir")
    annotations: str | None = Field(None, description="file of COCO's annotations, if not in --data-dir")
    strict: bool = Field(False, description="take anything odd in masks or annotations for an error")

    def caveats(self, image_size: tuple[int, int] | None) -> Sequence[str]:
        """That costs are of one pass, where several are scored, and of one size."""
        passes = len(self.ratios) * (1 + self.flip)
        how = [f"of {passes} passes"] * (passes > 1) + [f"by windows of {self.slide} pixels"] * bool(self.slide)
        how += [f"at {self.ratios[0]:g} of its size"] * (len(self.ratios) == 1 and self.ratios[0] != 1)
        told = [f"GMACs and times are of one pass over one whole image, and mIoU is {' '.join(how)}"] if how else []
        return [*told, *of_other_sizes(self.short, self.long, self.size(None, image_size))]  # type: ignore[arg-type]

    def open(self, folder: Path | None, backbone: Backbone) -> Pictures | None:
        """Images with masks, or with objects in COCO's layout; None where no data was given."""
        return None if folder is None and self.annotations is None else self._open(folder, self.split)

    def _open(self, folder: Path | None, split: str) -> Pictures:
        from tokenbench.data.coco import has_coco, open_scored
        from tokenbench.data.labelled import from_objects, open_masks
        from tokenbench.errors import UsageError

        images, given = (None if name is None else Path(name) for name in (self.images, self.annotations))
        if folder is not None and given is None and not has_coco(folder, split):
            if images is not None:
                raise UsageError(
                    f"images={images} is of COCO's annotations, and {folder} has masks; leave it out, or give "
                    "annotations."
                )
            return open_masks(folder, split, self.reduce_zero_label, self.strict)
        if self.reduce_zero_label:
            raise UsageError(
                f"reduce_zero_label is of masks, and {given or folder} has COCO's objects, beside which 0 is "
                "background; leave it out."
            )
        return from_objects(open_scored(folder, split, images, given, self.strict))

    def loader(self, data: Any, backbone: Backbone, batch: int, workers: int, limit: int | None) -> Loader:
        """Images by their sides, padded to one size a batch, with their masks beside them."""
        from tokenbench.data.scening import SceneLoader, scaled

        def size(original: tuple[int, int]) -> tuple[int, int]:
            return scaled(original, self.short, self.long)

        return SceneLoader(data, backbone.config, size, batch, workers, limit, data.mask)

    def pixels(self, backbone: Backbone) -> object:
        """Mean, deviation and sides."""
        from tokenbench.data.scening import Normalise

        return (Normalise(backbone.config).key, self.short, self.long)

    def classes(self, data: Pictures) -> tuple[str, ...]:
        """The names of its classes."""
        return data.classes

    def size(self, backbone: Backbone, image_size: tuple[int, int] | None) -> tuple[int, int]:
        """As asked for, or the sides that images are brought to."""
        return image_size or ((self.short, self.long) if self.short else (512, 512))

    def recipes(self, method: Any) -> Mapping[str, Any]:
        """Those of segmenters, whatever the method."""
        from tokenbench.heads.recipes import SEGMENTATION

        return SEGMENTATION

    def open_training(self, folder: Path) -> tuple[Pictures, Pictures]:
        """The splits `train` and that which is scored."""
        from tokenbench.data.coco import of_folder_only
        from tokenbench.errors import BadData

        of_folder_only(images=self.images, annotations=self.annotations)
        train, held_out = self._open(folder, "train"), self._open(folder, self.split)
        if train.classes != held_out.classes:
            raise BadData(f"{train.name} has other categories in split 'train' than in '{held_out.split}'; mend one.")
        return train, held_out

    def lessons(self, data: Pictures, backbone: Backbone, recipe: Any, seed: int) -> Any:
        """Resized, cropped and mirrored as the recipe says."""
        from tokenbench.heads.maskedlessons import Lessons

        return Lessons(data, backbone.config, recipe, seed)

    def terms(self, model: nn.Module, images: Tensor, target: Any) -> Mapping[str, Tensor]:
        """Cross-entropy, and that of the auxiliary head."""
        return model(images, target)  # type: ignore[no-any-return]

    def model(self, model: nn.Module, classes: int, recipe: Any = None) -> nn.Module:
        """A segmenter on the model's feature pyramid."""
        from tokenbench.heads.segmenter import Design, Segmenter
        from tokenbench.pyramid import pyramid

        design = Design(**{f.name: getattr(self, f.name) for f in fields(Design)})
        return Segmenter(pyramid(model), classes, design)  # type: ignore[arg-type]

    def answer(self, model: nn.Module, images: Tensor, targets: Any, precision: str, name: str) -> Any:
        """Confusion matrices (B, K, K) of the images, their logits brought to the sizes of their files."""
        import numpy as np

        from tokenbench.errors import TokenbenchError
        from tokenbench.heads.segmenter import merged
        from tokenbench.measure.confusion import count
        from tokenbench.measure.running import forward

        def segment(batch: Tensor) -> Tensor:
            return merged(model, batch, self.ratios, self.flip, self.slide)

        matrices = []
        for i, (size, original) in enumerate(zip(targets.sizes, targets.originals, strict=True)):
            found = forward(segment, images[i : i + 1, :, : size[0], : size[1]], precision, name)  # type: ignore[arg-type]
            if not bool(found.isfinite().all()):
                raise TokenbenchError(f"{name} gave logits that are NaN or infinite; check its weights and precision.")
            labels = _labels(found, original)
            matrices.append(count(labels, targets.beside[i], found.shape[1]))
        return np.stack(matrices)

    def gather(self, answers: Sequence[Any], targets: Sequence[Any]) -> Labelled:
        """The matrices of all images."""
        import numpy as np

        from tokenbench.measure.confusion import Labelled

        data = targets[0].data
        images = tuple(data.label(index) for batch in targets for index in batch.indices)
        return Labelled(np.concatenate(list(answers)), data.classes, images)

    def load(self, path: Path) -> Labelled:
        """What `Labelled.save` wrote."""
        from tokenbench.measure.confusion import Labelled

        return Labelled.load(path)

    def join(self, parts: Sequence[Labelled]) -> Labelled:
        """Of all images, in order."""
        from tokenbench.measure.confusion import joined

        return joined(parts)

    def score(self, own: Labelled, dense: Labelled | None, seed: int) -> Mapping[str, float | None]:
        """Mean IoU and right pixels; with `dense` the paired difference."""
        low, high = own.interval(seed)
        scores = {"miou": own.miou, "miou_low": low, "miou_high": high, "pixel_accuracy": own.accuracy}
        change = None if dense is None else own.change(dense, seed)
        if change is not None:
            value, low, high, p = change
            scores |= {"diff_dense": value, "diff_dense_low": low, "diff_dense_high": high, "p_value": p}
        return scores

    def scenes(
        self, model: nn.Module, data: Pictures, backbone: Backbone, limit: int | None, device: str
    ) -> Iterator[Scene]:
        """The class of each pixel, as it is and as it was found."""
        import numpy as np
        import torch

        from tokenbench.heads.segmenter import IGNORED, merged
        from tokenbench.maps.scenes import Layer, Scene, choices, units

        none = np.zeros((0, 4))
        for images, batch in self.loader(data, backbone, 1, 0, limit):
            images = images.to(device)
            with torch.inference_mode():
                labels = _labels(merged(model, images, self.ratios, self.flip, self.slide), batch.originals[0])
            truth = batch.beside[0].astype(np.int64)
            yield Scene(
                data.label(batch.indices[0]),
                np.asarray(data.open(batch.indices[0])),
                Layer(np.where(truth == IGNORED, -1, truth), none),
                Layer(labels, none),
                units(model.body, images),  # type: ignore[arg-type]
                choices(model.body, images),  # type: ignore[arg-type]
            )

    def export(self, own: Labelled, path: Path) -> None:
        """IoU by class, beside the predictions."""
        from tokenbench.measure.confusion import ious

        found = [None if value != value else float(value) for value in ious(own.total).tolist()]
        by_class(path, own.names, {"iou": found})


def _labels(found: Tensor, size: tuple[int, int]) -> Any:
    """The best class of each pixel (H, W) at the size of a file."""
    import torch.nn.functional as F

    full = found if found.shape[2:] == size else F.interpolate(found, size, mode="bilinear", align_corners=False)
    return full.argmax(dim=1)[0].cpu().numpy()
