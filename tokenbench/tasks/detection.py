"""Detection and instance segmentation: where the objects of an image are, and of which pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tokenbench.measure.verdicts import Difference
from tokenbench.tasks.base import Loader, Metric, Task, by_class, of_other_sizes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tokenbench.backbones import Backbone
    from tokenbench.data.coco import Scenes
    from tokenbench.maps.scenes import Scene
    from tokenbench.measure.detections import Detections

SHOWN = 0.3  # least score of a detection that is drawn
_SIZES = (("", ""), ("50", " 50"), ("75", " 75"), ("_s", " s"), ("_m", " m"), ("_l", " l"))
_RECALLS = (("1", " 1"), ("10", " 10"), ("", ""), ("_s", " s"), ("_m", " m"), ("_l", " l"))


def _metrics(kind: str) -> tuple[Metric, ...]:
    """COCO's twelve of boxes or masks; the recalls are in files only."""
    precision, *others = (
        Metric(f"{kind}_ap{end}", f"{kind} AP{text}", f"{kind} average precision{text}" if not end else "", "%")
        for end, text in _SIZES
    )
    first = Metric(precision.name, precision.short, precision.title, "%", interval=True)
    recalls = (Metric(f"{kind}_ar{end}", f"{kind} AR{text}", unit="%", shown=False) for end, text in _RECALLS)
    return (first, *others, *recalls)


class Detection(Task):
    """Detection: average precision of boxes and masks, as COCO has it, on a feature pyramid of the backbone."""

    name = "detection"
    metrics: ClassVar[tuple[Metric, ...]] = (*_metrics("box"), *_metrics("mask"))
    intervals: ClassVar[Mapping[str, str]] = dict.fromkeys(("box_ap", "mask_ap", "diff_dense"), "bootstrap")
    scored: ClassVar[str] = "average precision"
    reads_head: ClassVar[bool] = False
    layout: ClassVar[str] = "`annotations/instances_val.json` and the images in `val`, as COCO has them"
    any_size: ClassVar[bool] = True
    on_pyramid: ClassVar[bool] = True
    has_head: ClassVar[bool] = True
    depends: ClassVar[bool] = False
    batch: ClassVar[int | None] = 1
    looks: ClassVar[tuple[str, ...]] = ("mean", "std")
    parts: ClassVar[tuple[str, ...]] = ("backbone", "neck", "rpn", "heads", "post-processing")
    built: ClassVar[frozenset[str]] = frozenset(
        ("head", "masks", "width", "box_convs", "fc", "mask_convs", "anchor", "samples")
    )

    head: Literal["cascade", "mask"] = Field("cascade", description="Cascade R-CNN, or Mask R-CNN's one stage")
    masks: bool = Field(True, description="find masks too; false: boxes only")
    width: int = Field(256, ge=8, description="channels of the feature pyramid network and of the heads")
    box_convs: int = Field(4, ge=0, description="convolutions of each box head of the cascade")
    fc: int = Field(1024, ge=8, description="width of each box head's linear layer")
    mask_convs: int = Field(4, ge=1, description="convolutions of each mask head")
    anchor: float = Field(
        32, gt=0, description="side of the smallest anchor, in pixels; each level's is twice the last's"
    )
    samples: int = Field(0, ge=0, description="samples along a cell of RoIAlign; 0: one a pixel, as published")
    before: int = Field(1000, ge=1, description="proposals a level before suppression")
    after: int = Field(1000, ge=1, description="proposals of an image after suppression")
    min_score: float = Field(0.05, ge=0, lt=1, description="least score of a detection")
    nms: float = Field(0.5, gt=0, le=1, description="overlap from which on the worse of two boxes goes")
    cap: int = Field(100, ge=1, description="detections an image, found and scored; COCO has 100")
    norm: Literal["frozen", "train", "sync"] = Field(
        "train", description="BatchNorm of a stem that has it, in training"
    )
    short: int = Field(800, ge=0, description="short side of an image, in pixels; 0 leaves its size")
    long: int = Field(1333, ge=1, description="longest side of an image, in pixels, where short is given")
    split: str = Field("val", description="split of the data that is scored")
    images: str | None = Field(None, description="folder of the images, where it is not in --data-dir")
    annotations: str | None = Field(None, description="file of the annotations, where it is not in --data-dir")
    strict: bool = Field(False, description="take anything odd in the annotations for an error")

    def caveats(self, image_size: tuple[int, int] | None) -> Sequence[str]:
        """That costs are of one size."""
        return of_other_sizes(self.short, self.long, self.size(None, image_size))  # type: ignore[arg-type]

    def open(self, folder: Path | None, backbone: Backbone) -> Scenes | None:
        """Images with objects, in COCO's layout; None where no data was given."""
        from tokenbench.data.coco import masks_api, open_scored

        if folder is None and self.annotations is None:
            return None
        masks_api()
        images, annotations = (None if name is None else Path(name) for name in (self.images, self.annotations))
        found = open_scored(folder, self.split, images, annotations, self.strict)
        if self.masks and not any(thing.outline for things in found.things for thing in things) and any(found.things):
            none = f"{found.name}: no object of split '{found.split}' has an outline, so masks are not scored."
            return replace(found, notes=(*found.notes, none))
        return found

    def loader(self, data: Any, backbone: Backbone, batch: int, workers: int, limit: int | None) -> Loader:
        """Images by their sides, padded to one size a batch."""
        from tokenbench.data.scening import SceneLoader, scaled

        return SceneLoader(
            data, backbone.config, lambda size: scaled(size, self.short, self.long), batch, workers, limit
        )

    def pixels(self, backbone: Backbone) -> object:
        """Mean, deviation and sides."""
        from tokenbench.data.scening import Normalise

        return (Normalise(backbone.config).key, self.short, self.long)

    def classes(self, data: Scenes) -> tuple[str, ...]:
        """The names of its categories."""
        return data.classes

    def size(self, backbone: Backbone, image_size: tuple[int, int] | None) -> tuple[int, int]:
        """As asked for, or the sides that images are brought to."""
        return image_size or ((self.short, self.long) if self.short else (512, 512))

    def timed(self, data: Any, backbone: Backbone, batch: int, seed: int, size: tuple[int, int]) -> Tensor:
        """The first images of the data, stretched to that size: of noise, nothing would reach the heads."""
        import torch

        from tokenbench.data.scening import SceneLoader

        if data is None:
            return super().timed(data, backbone, batch, seed, size)
        found, _ = next(iter(SceneLoader(data, backbone.config, lambda _: size, min(batch, len(data)))))
        return torch.cat([found] * -(-batch // len(found)))[:batch]

    def recipes(self, method: Any) -> Mapping[str, Any]:
        """Those of detectors, whatever the method."""
        from tokenbench.heads.recipes import DETECTION

        return DETECTION

    def open_training(self, folder: Path) -> tuple[Scenes, Scenes]:
        """The splits `train` and that which is scored."""
        from tokenbench.data.coco import masks_api, of_folder_only, open_coco
        from tokenbench.errors import BadData

        of_folder_only(images=self.images, annotations=self.annotations)
        masks_api()
        train, held_out = (open_coco(folder, split, strict=self.strict) for split in ("train", self.split))
        for found in (train, held_out):
            if not found.classes or not any(found.things):
                raise BadData(f"{found.name} has no objects in split '{found.split}'; give annotations that have.")
            if self.masks and not found.with_masks:
                raise BadData(
                    f"{found.name} has objects without outlines in split '{found.split}'; find boxes only, by "
                    "--task detection[masks=false]."
                )
        if train.classes != held_out.classes:
            raise BadData(f"{train.name} has other categories in split 'train' than in '{held_out.split}'; mend one.")
        return train, held_out

    def lessons(self, data: Scenes, backbone: Backbone, recipe: Any, seed: int) -> Any:
        """Cropped, resized, mirrored and turned as the recipe says."""
        from tokenbench.heads.lessons import Lessons

        return Lessons(data, backbone.config, recipe, seed, self.masks)

    def terms(self, model: nn.Module, images: Tensor, target: Any) -> Mapping[str, Tensor]:
        """The detector's losses."""
        return model(images, target.sizes, target.each)  # type: ignore[no-any-return]

    def model(self, model: nn.Module, classes: int, recipe: Any = None) -> nn.Module:
        """A detector on the model's feature pyramid."""
        from tokenbench.heads.detector import Design, Detector
        from tokenbench.heads.regions import Sampling
        from tokenbench.pyramid import pyramid

        design = Design(**{f.name: getattr(self, f.name) for f in fields(Design)})
        sampling = None if recipe is None else Sampling(**recipe.sampling)
        return Detector(pyramid(model), classes, design, sampling)  # type: ignore[arg-type]

    def counted(self, model: nn.Module) -> nn.Module:
        """1000 boxes and 100 masks, whatever is found, as the printed costs have it."""
        from tokenbench.heads.detector import Counted

        return Counted(model)  # type: ignore[arg-type]

    def answer(self, model: nn.Module, images: Tensor, targets: Any, precision: str, name: str) -> Any:
        """Of each image its boxes, labels, scores and encoded masks, in pixels of its file."""
        from tokenbench.errors import TokenbenchError
        from tokenbench.heads.results import plain
        from tokenbench.measure.running import forward

        def detect(batch: Tensor) -> Any:
            return model(batch, sizes=targets.sizes, originals=targets.originals)

        found: Any = forward(detect, images, precision, name)  # type: ignore[arg-type]
        if not all(bool(one["boxes"].isfinite().all()) for one in found):
            raise TokenbenchError(f"{name} gave boxes that are NaN or infinite; check its weights and precision.")
        return [plain(one) for one in found]

    def gather(self, answers: Sequence[Any], targets: Sequence[Any]) -> Detections:
        """What was found beside what is there."""
        from tokenbench.heads.truth import beside

        return beside([one for batch in answers for one in batch], targets)

    def load(self, path: Path) -> Detections:
        """What `Detections.save` wrote."""
        from tokenbench.measure.detections import Detections

        return Detections.load(path)

    def join(self, parts: Sequence[Detections]) -> Detections:
        """In all images, in order."""
        from tokenbench.measure.detections import joined

        return joined(parts)

    def score(self, own: Detections, dense: Detections | None, seed: int) -> Mapping[str, float | None]:
        """COCO's numbers of boxes, and of masks where there are any; with `dense` the paired difference of box AP."""
        from tokenbench.measure.precision import bootstrap, evaluate

        if dense is not None:
            own.same_images(dense)
        boxes = evaluate(own, "bbox", self.cap)
        scores = {f"box_{name}": value for name, value in boxes.numbers.items()}
        sure = bootstrap(boxes, None if dense is None else evaluate(dense, "bbox", self.cap), seed)
        if sure is not None:
            scores |= {"box_ap_low": sure.low, "box_ap_high": sure.high}
        if self.masks and all(own.truth.masks):
            masks = evaluate(own, "segm", self.cap)
            scores |= {f"mask_{name}": value for name, value in masks.numbers.items()}
            sure_of_masks = bootstrap(masks, None, seed)
            if sure_of_masks is not None:
                scores |= {"mask_ap_low": sure_of_masks.low, "mask_ap_high": sure_of_masks.high}
        if dense is not None and sure is not None and sure.p is not None:
            theirs = evaluate(dense, "bbox", self.cap).numbers["ap"]
            mine = boxes.numbers["ap"]
            if mine is not None and theirs is not None:
                scores |= {"diff_dense": mine - theirs, "p_value": sure.p}
                scores |= {"diff_dense_low": sure.change_low, "diff_dense_high": sure.change_high}
        return scores

    def changes(self, own: Detections, reference: Detections, seed: int) -> Mapping[str, Difference | float]:
        """Average precision of boxes, and of masks where both have them, by a bootstrap over images."""
        from tokenbench.measure.precision import bootstrap, evaluate

        own.same_images(reference)
        masks = self.masks and all(own.truth.masks)
        found: dict[str, Difference | float] = {}
        kinds: tuple[tuple[str, Literal["bbox", "segm"]], ...] = (("box_ap", "bbox"), ("mask_ap", "segm"))
        for name, kind in kinds[: 1 + masks]:
            mine, theirs = (evaluate(one, kind, self.cap) for one in (own, reference))
            sure = bootstrap(mine, theirs, seed)
            a, b = mine.numbers["ap"], theirs.numbers["ap"]
            if sure is not None and sure.p is not None and a is not None and b is not None:
                found[name] = Difference(a - b, sure.change_low, sure.change_high, sure.p)
        return found

    def scenes(
        self, model: nn.Module, data: Scenes, backbone: Backbone, limit: int | None, device: str
    ) -> Iterator[Scene]:
        """Objects that are there and those found with a score of `SHOWN` or more."""
        import numpy as np
        import torch

        from tokenbench.data.coco import decoded
        from tokenbench.maps.scenes import Scene, choices, of_boxes, units

        for images, batch in self.loader(data, backbone, 1, 0, limit):
            index, size = batch.indices[0], batch.originals[0]
            images = images.to(device)
            with torch.inference_mode():
                found = model(images, sizes=batch.sizes, originals=batch.originals)[0]
            shown = {name: value[found["scores"] >= SHOWN].cpu().numpy() for name, value in found.items()}
            words = [
                f"{data.classes[label - 1]} {100 * score:.0f}"
                for label, score in zip(shown["labels"], shown["scores"], strict=True)
            ]
            masks = shown.get("masks", [None] * len(words))
            things = data.things[index]
            outlines = [None if t.outline is None else decoded(t.outline, size) for t in things]
            corners = [(x, y, x + w, y + h) for x, y, w, h in (t.box for t in things)]
            yield Scene(
                data.label(index),
                np.asarray(data.open(index)),
                of_boxes(outlines, corners, [data.classes[t.label] for t in things], size),
                of_boxes(masks, shown["boxes"], words, size),
                units(model.body, images),  # type: ignore[arg-type]
                choices(model.body, images),  # type: ignore[arg-type]
            )

    def export(self, own: Detections, path: Path) -> None:
        """COCO's `results.json` beside the predictions, and average precision by class."""
        from tokenbench.measure.precision import evaluate

        own.write_coco(path.with_suffix(".results.json"))
        columns = {"box_ap": evaluate(own, "bbox", self.cap).by_class}
        if self.masks and all(own.truth.masks):
            columns["mask_ap"] = evaluate(own, "segm", self.cap).by_class
        by_class(path, own.names, columns)
