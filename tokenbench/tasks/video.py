"""Video recognition: the class of a video, by several clips of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PositiveInt

from tokenbench.tasks.base import Loader, Metric, Task

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tokenbench.backbones import Backbone
    from tokenbench.data.clips import Clips
    from tokenbench.data.viewing import Views
    from tokenbench.measure.views import Viewed


def _by(value: Any) -> Any:
    """On the command line views are written 4x3."""
    return tuple(value.lower().replace("/", "x").split("x")) if isinstance(value, str) else value


class Video(Task):
    """Video recognition: how often the class of a video is right, by the mean of the probabilities of several clips."""

    name = "video"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("top1", "video top-1", "video top-1 accuracy", "%", interval=True),
        Metric("top5", "video top-5", "video top-5 accuracy", "%"),
        Metric("clip_top1", "clip top-1", "clip top-1 accuracy", "%"),
        Metric("clip_top5", "clip top-5", "clip top-5 accuracy", "%"),
        Metric("agreement", "agreement with dense", unit="%", shown=False),
        Metric("video_gmacs", "GMAC x views", "GMACs of all views of a video", better="down"),
        Metric("frames_per_s", "frames/s", "frames a second through the model", digits=0),
        Metric("decoded_per_s", "decoded/s", "frames decoded a second in one process", digits=0),
    )
    intervals: ClassVar[Mapping[str, str]] = {"top1": "Wilson", "diff_dense": "Tango"}
    items: ClassVar[str] = "videos"
    rate: ClassVar[str] = "clips/s"
    layout: ClassVar[str] = (
        "a folder of videos, or of folders of frames, for each class, in `val` or `test` (and `train`); or clips and "
        "an index such as `val.csv`"
    )
    batch: ClassVar[int | None] = 1
    looks: ClassVar[tuple[str, ...]] = ("mean", "std")
    counted_items: ClassVar[int] = 2
    built: ClassVar[frozenset[str]] = frozenset(("joint",))

    frames: int = Field(32, ge=1, description="frames of a clip")
    stride: int = Field(2, ge=1, description="every how manyth frame of the video")
    views: Annotated[tuple[PositiveInt, PositiveInt], BeforeValidator(_by)] = Field(
        (4, 3), description="clips of a video: in time, by crops along its longer side, as 4x3"
    )
    joint: bool = Field(False, description="plain ViTs: the tokens of all frames attend to each other")
    reader: Literal["auto", "pyav", "torchcodec"] = Field(
        "auto", description="what reads videos; auto is torchcodec where it can be imported"
    )
    clips: str | None = Field(None, description="index of videos with their classes, and splits if it has several")
    class_order: str = Field("auto", description="auto, natural (1, 2, 10), lexical (1, 10, 2), or a file")
    restrict_classes: bool = Field(False, description="guess only from the classes that the data has")

    def on(self, backbone: Backbone) -> Backbone:
        """Video Swin as it is; a plain ViT on frames."""
        from tokenbench.backbones import ViT
        from tokenbench.backbones.frames import FramesViT, JointViT
        from tokenbench.backbones.videoswin import VideoSwin
        from tokenbench.errors import Unsupported

        if isinstance(backbone, VideoSwin):
            if self.joint:
                raise Unsupported(f"{backbone.name} attends over time by itself; leave joint out.")
            backbone.frames = self.frames
            return backbone
        if type(backbone) is not ViT:
            raise Unsupported(f"{backbone.name} takes no clips; give swin3d_t, swin3d_s, swin3d_b or a plain ViT.")
        return (JointViT if self.joint else FramesViT)(backbone, self.frames)

    def open(self, folder: Path | None, backbone: Backbone) -> Clips | None:
        """Videos in folders of classes or by an index; None where no data was given."""
        from tokenbench import data
        from tokenbench.data.clips import open_clips

        if folder is None:
            return None
        found = open_clips(folder, None, self._index, self.class_order, self.reader)
        found = data.match(found, backbone.vit.num_classes, backbone.name, backbone.class_names)  # type: ignore[assignment]
        kept = data.restricted(found) if self.restrict_classes else data.told_of_part(found, backbone.name)
        return kept  # type: ignore[return-value]

    def open_training(self, folder: Path) -> tuple[Clips, Clips]:
        """The videos of `train`, and those of its validation split."""
        from tokenbench.data.clips import open_training
        from tokenbench.errors import UsageError

        if self.restrict_classes:
            raise UsageError(
                "restrict_classes says nothing to training, whose head has the data's classes; leave it out."
            )
        return open_training(folder, self._index, self.class_order, self.reader)

    def recipes(self, method: Any) -> Mapping[str, Any]:
        """Those of clips, whatever the method."""
        from tokenbench.clips.recipes import VIDEO

        return VIDEO

    def lessons(self, data: Clips, backbone: Backbone, recipe: Any, seed: int) -> Any:
        """A clip of each video, cropped and mirrored as the recipe says."""
        from tokenbench.clips.lessons import Lessons

        return Lessons(data, backbone.config, recipe, seed, self.frames, self.stride)

    def loader(self, data: Any, backbone: Backbone, batch: int, workers: int, limit: int | None) -> Loader:
        """All clips of each video, which is decoded once."""
        from tokenbench.data.viewing import ViewLoader

        return ViewLoader(data, backbone.config, self._views, batch, workers, limit)

    def pixels(self, backbone: Backbone) -> object:
        """Mean, deviation and size."""
        from tokenbench.data.viewing import Normalise

        return (Normalise(backbone.config).key, backbone.input_size)

    def timed(self, data: Any, backbone: Backbone, batch: int, seed: int, size: tuple[int, int]) -> Tensor:
        """Views (B, 3, frames, *size) of noise."""
        import torch

        shape = (batch, backbone.input_size[0], self.frames, *size)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def answer(self, model: nn.Module, images: Tensor, targets: Any, precision: str, name: str) -> Any:
        """The best classes by all views and by each."""
        from tokenbench.measure import views

        return views.answer(model, images, targets, precision, name)

    def gather(self, answers: Sequence[Any], targets: Sequence[Any]) -> Viewed:
        """The best classes of every video, and the right one."""
        from tokenbench.measure import views

        return views.gather(answers, targets)

    def load(self, path: Path) -> Viewed:
        """What `Viewed.save` wrote."""
        from tokenbench.measure.views import Viewed

        return Viewed.load(path)

    def join(self, parts: Sequence[Viewed]) -> Viewed:
        """Of all videos, in order."""
        from tokenbench.measure import views

        return views.join(parts)

    def score(self, own: Viewed, dense: Viewed | None, seed: int) -> Mapping[str, float | None]:
        """Top-1 and top-5 of videos and of clips; with `dense`, agreement and the paired difference."""
        from tokenbench.tasks.classification import Classification

        found = Classification().score(own.whole, None if dense is None else dense.whole, seed)
        alone = {"clip_top1": own.alone.top1, "clip_top5": own.alone.top5}
        return {**found, **alone, "decoded_per_s": own.decoding}

    def derived(self, measured: Mapping[str, Any]) -> Mapping[str, float | None]:
        """GMACs of all views, and frames a second."""
        gmacs, rate = measured.get("gmacs"), measured.get("images_per_s")
        return {
            "video_gmacs": None if gmacs is None else gmacs * self.views[0] * self.views[1],
            "frames_per_s": None if rate is None else rate * self.frames,
        }

    @property
    def _index(self) -> Path | None:
        return None if self.clips is None else Path(self.clips)

    @property
    def _views(self) -> Views:
        from tokenbench.data.viewing import Views

        return Views(self.frames, self.stride, *self.views)
