"""What a task is: which data it reads, what is kept of a model's output, and how that is scored.

A task is to data and scores what a method is to tokens. Adding one is adding one file beside this one; `--plugin` loads
one from elsewhere. Runs, rows, tables and the page know a task only by what it declares here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict

from tokenbench.measure.verdicts import Difference

if TYPE_CHECKING:  # so that reports, which need the metrics only, do without torch
    from torch import Tensor, nn

    from tokenbench.backbones import Backbone
    from tokenbench.maps.scenes import Scene


@dataclass(frozen=True)
class Metric:
    """A number that a task measures. `name` is its key in rows; with an interval, `name_low` and `name_high` are its
    95 % ends.
    """

    name: str
    short: str  # what tables call it, without the unit
    title: str = ""  # what charts call it, if not as tables do
    unit: str = ""  # "%"
    better: Literal["up", "down"] = "up"
    digits: int = 1  # after the decimal point
    interval: bool = False
    shown: bool = True  # in tables; all metrics are in the CSV and the page
    of_two: bool = False  # tells of a model and the dense one, such as how often both say the same

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.better == "up" else -1

    @property
    def heading(self) -> str:
        """Its name in tables, with the unit."""
        return f"{self.short} {self.unit}".rstrip()

    @property
    def axis(self) -> str:
        """Its name in charts, with the unit."""
        return f"{self.title or self.short}{f', {self.unit}' if self.unit else ''}"

    @property
    def noun(self) -> str:
        """What it measures, in a sentence: accuracy."""
        return (self.title or self.short).split()[-1]

    @property
    def points(self) -> str:
        """The unit of a difference."""
        return "points" if self.unit == "%" else self.unit

    @property
    def names(self) -> tuple[str, ...]:
        """Its keys in rows."""
        return (self.name, f"{self.name}_low", f"{self.name}_high") if self.interval else (self.name,)


# The main metric minus the dense model's, on the same items: every task that can pair its items gives these.
PAIRED = ("diff_dense", "diff_dense_low", "diff_dense_high", "p_value")


class Loader(Protocol):
    """Batches of (images (B, channels, H, W), targets), and what a row says of them.

    With `after(items)`, the same without so many first items, a pass that was cut short loads only what is left.
    """

    name: str
    split: str
    total: int  # items chosen
    available: int  # items there are
    sample_hash: str  # says which were chosen
    skipped: list[tuple[str, str]]  # name and reason of each that could not be read in the latest pass

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        """One pass."""


class Scored(Protocol):
    """What one model said of every item, in the order of the data."""

    def __len__(self) -> int:
        """Number of items."""

    def save(self, path: str | Path) -> None:
        """Keep it, so that two models can be compared later."""


class Task(BaseModel):
    """A setting of a task. Its fields are its knobs, as a method's are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]  # settings are ranked by the first
    intervals: ClassVar[Mapping[str, str]] = {}  # by which formula `score` finds the ends of a metric, by its name
    items: ClassVar[str] = "images"
    scored: ClassVar[str] = "accuracy"  # what there is none of where weights are random
    reads_head: ClassVar[bool] = True  # False: a head that is random does not matter
    layout: ClassVar[str] = ""  # how --data-dir is laid out, a sentence
    any_size: ClassVar[bool] = False  # True: models take images of any size, so the backbone is built at its own
    on_pyramid: ClassVar[bool] = False  # True: on feature pyramids, which not all methods make
    has_head: ClassVar[bool] = False  # True: models have a head of the task's own, trained for it with each method
    depends: ClassVar[bool] = True  # whether what a model costs may depend on what an image shows
    batch: ClassVar[int | None] = None  # that is timed where none is asked for; None: 32, on a GPU 128
    parts: ClassVar[tuple[str, ...]] = ()  # of its models that are measured apart, of several GMACs and times
    built: ClassVar[frozenset[str]] = frozenset()  # knobs that decide a model, which its weights hold to
    counted_items: ClassVar[int] = 32  # that multiply-adds and tokens are counted on, where they depend on the item
    rate: ClassVar[str] = "img/s"  # what a model does in a second, as tables call it
    looks: ClassVar[tuple[str, ...]] = ("mean", "std", "crop_pct", "interpolation")  # of timm's config, what it heeds

    def caveats(self, image_size: tuple[int, int] | None) -> Sequence[str]:
        """What must be known to read a row of this setting, as clauses; `image_size` is what was asked for."""
        return ()

    @classmethod
    def metric_names(cls) -> tuple[str, ...]:
        """The keys of `Row.metrics`."""
        return (*(name for metric in cls.metrics for name in metric.names), *PAIRED)

    def on(self, backbone: Backbone) -> Backbone:
        """The backbone as this task runs it: as it is, if it takes images.

        Raises:
            Unsupported: it does not take what the task has; the message says what to give.
        """
        from tokenbench.errors import Unsupported

        if backbone.clips:
            raise Unsupported(f"{backbone.name} takes clips and {self.name} has images; give --task video.")
        return backbone

    def open(self, folder: Path | None, backbone: Backbone) -> Any:
        """The data in a folder, or what ships for this backbone where none was given; None if nothing does.

        Raises:
            DataError: the folder cannot be used, or not with this backbone.
        """
        raise NotImplementedError

    def loader(self, data: Any, backbone: Backbone, batch: int, workers: int, limit: int | None) -> Loader:
        """Batches of the data as the backbone wants them."""
        raise NotImplementedError

    def pixels(self, backbone: Backbone) -> object:
        """What decides the pixels that a model sees: where it is equal, models share a pass over the data."""
        raise NotImplementedError

    def classes(self, data: Any) -> tuple[str, ...] | None:
        """The names of what a head of the task's own tells apart in this data; None where it has none."""
        return None

    def size(self, backbone: Backbone, image_size: tuple[int, int] | None) -> tuple[int, int]:
        """Height and width that models are counted and timed at; `image_size` is what was asked for."""
        return backbone.input_size[1], backbone.input_size[2]

    def timed(self, data: Any, backbone: Backbone, batch: int, seed: int, size: tuple[int, int]) -> Tensor:
        """Images (B, channels, *size) to count and time with: noise, unless the cost depends on what they show."""
        import torch

        return torch.randn(batch, backbone.input_size[0], *size, generator=torch.Generator().manual_seed(seed))

    def model(self, model: nn.Module, classes: int, recipe: Any = None) -> nn.Module:
        """What is run of a setting's `tokenbench.Model`: itself, or with a head of the task's own for so many classes.

        `recipe` is how it is going to be trained, if it is.

        Raises:
            Unsupported: the method or backbone cannot serve this task; the message gives the reason.
        """
        return model

    def counted(self, model: nn.Module) -> nn.Module:
        """What multiply-adds are counted on: the model, or a form of it whose cost does not depend on the image."""
        return model

    def answer(self, model: nn.Module, images: Tensor, targets: Any, precision: str, name: str) -> Any:
        """What is kept of a model's output on one batch, on the CPU; `name` is what to call it in messages.

        Raises:
            TokenbenchError: the output cannot be scored, such as logits that are NaN.
        """
        raise NotImplementedError

    def gather(self, answers: Sequence[Any], targets: Sequence[Any]) -> Scored:
        """The answers of all batches, with their targets, as one."""
        raise NotImplementedError

    def load(self, path: Path) -> Scored:
        """What a `Scored` saved there; with `join`, what a pass that is killed goes on from.

        Raises:
            ResultsError: the file holds no such thing.
        """
        raise NotImplementedError

    def join(self, parts: Sequence[Any]) -> Scored:
        """What was said of the items of several stretches, one after the other, as one."""
        raise NotImplementedError

    @property
    def keeps_parts(self) -> bool:
        """Whether it has both."""
        return type(self).load is not Task.load and type(self).join is not Task.join

    def recipes(self, method: Any) -> Mapping[str, Any]:
        """The recipes, the first by default, by which a method is trained for this task: the method's own."""
        return type(method).recipes  # type: ignore[no-any-return]

    def open_training(self, folder: Path) -> tuple[Any, Any]:
        """The data to learn from, and what is held out to score on.

        Raises:
            BadData: the folder cannot be used for training.
            Unsupported: the task has no training.
        """
        from tokenbench.errors import Unsupported

        raise Unsupported(f"Task {self.name} has no training; give another --task.")

    def lessons(self, data: Any, backbone: Backbone, recipe: Any, seed: int) -> Any:
        """Augmented images with targets, as `tokenbench.training.stream.Stream` takes them."""
        return None

    def terms(self, model: nn.Module, images: Tensor, target: Any) -> Mapping[str, Tensor]:
        """Terms of the loss of a model with a head of the task's own, weighted; their sum is the loss."""
        raise NotImplementedError

    def told(self, setting: Mapping[str, Any]) -> Task:
        """This setting, with the knobs of `built` as weights say that they were trained with.

        Raises:
            BadSetting: another value was asked for.
        """
        from tokenbench.core.settings import make
        from tokenbench.errors import BadSetting

        stored = {knob: setting[knob] for knob in self.built if knob in setting}
        for knob, value in stored.items():
            if knob in self.model_fields_set and getattr(self, knob) != value:
                raise BadSetting(
                    f"The weights are of {self.name}[{knob}={value}], and {knob}={getattr(self, knob)} was asked for; "
                    "leave it out, or give other weights."
                )
        given = {knob: getattr(self, knob) for knob in self.model_fields_set}
        return make(type(self), {**given, **stored})

    def scenes(
        self, model: nn.Module, data: Any, backbone: Backbone, limit: int | None, device: str
    ) -> Iterator[Scene]:
        """What is drawn of images of the data, for models with a head of the task's own."""
        raise NotImplementedError

    def derived(self, measured: Mapping[str, Any]) -> Mapping[str, float | None]:
        """Metrics that follow from what else a row holds, such as its `gmacs` or `images_per_s`, where it has them."""
        return {}

    def export(self, own: Any, path: Path) -> None:
        """Write what `gather` gave for other tools, beside the predictions at `path`."""

    def score(self, own: Any, dense: Any | None, seed: int) -> Mapping[str, float | None]:
        """Every metric of `keys` that can be told; `dense` is what the dense model said of the same items."""
        raise NotImplementedError

    def changes(self, own: Any, reference: Any, seed: int) -> Mapping[str, Difference | float]:
        """Metrics of one model minus those of another, by name, where they can be paired item by item: the main one,
        unless a task can more. Metrics `of_two` are given as they are.

        Raises:
            UsageError: they are of other items.
        """
        found = self.score(own, reference, seed)
        value, low, high, p = (found.get(name) for name in PAIRED)
        return {} if value is None or p is None else {self.metrics[0].name: Difference(value, low, high, p)}


def of_other_sizes(short: int, long: int, size: tuple[int, int]) -> list[str]:
    """That images are scored at other sizes than costs are of, if they are: by their sides, or where `short` is 0 at
    their own.
    """
    if short and size == (short, long):
        return []
    how = f"brought to {short} pixels a short side and {long} a long one at most" if short else "at their own sizes"
    return [f"GMACs and times are of {size[0]}x{size[1]} pixels, and scores are of images {how}"]


def by_class(path: Path, names: Sequence[str], columns: Mapping[str, Sequence[float | None]]) -> None:
    """Write numbers of each class as CSV beside predictions at `path`; empty where a class is nowhere.

    Raises:
        ResultsError: it cannot be written.
    """
    import csv
    import io

    from tokenbench.core import atomic
    from tokenbench.errors import ResultsError

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", *columns])
    for name, *values in zip(names, *columns.values(), strict=True):
        writer.writerow([name, *("" if value is None else f"{value:.2f}" for value in values)])
    atomic.write(path.with_suffix(".classes.csv"), text.getvalue(), ResultsError)
