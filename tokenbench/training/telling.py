"""What a run says of its images: which they are, and which could not be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenbench.backbones import Backbone
from tokenbench.core.processes import Processes
from tokenbench.core.words import counted
from tokenbench.data import unreadable
from tokenbench.tasks.base import Loader, Task
from tokenbench.training.stream import Stream

if TYPE_CHECKING:
    from tokenbench.training.loop import Watch


class Once:
    """Someone who looks on, and hears no sentence twice: runs of a sweep have much in common."""

    def __init__(self, watch: Watch) -> None:
        self.stretch, self.step, self.note, self._say = watch.stretch, watch.step, watch.note, watch.say
        self._said = set[str]()

    def say(self, text: str) -> None:
        """A sentence, if it is new."""
        if text not in self._said:
            self._said.add(text)
            self._say(text)


def what_on(images: Any, held_out: Any, backbone: Backbone, task: Task) -> Iterator[str]:
    """What is trained and measured on, in sentences."""
    classes = counted(len(images.classes), "class", "classes")
    yield (
        f"Training is on {images.split} of {images.name}, {len(images)} {task.items} of {classes}; "
        f"{task.scored} is measured on {held_out.split}, {len(held_out)} {task.items}."
    )
    yield from (*images.notes, *held_out.notes)
    if backbone.unseen and not task.any_size:
        yield f"{backbone.name}: {backbone.unseen}."


@dataclass
class Unreadable:
    """Images that cannot be read: listed in `unreadable.txt` in the run's folder, and told whenever more are found."""

    folder: Path
    processes: Processes
    say: Callable[[str], None]
    items: str = "images"  # what to call them
    told: dict[str, int] = field(default_factory=dict)  # how many of each split

    def training(self, stream: Stream) -> None:
        """Those met in training so far, by all processes; called by each of them."""
        skipped = self.processes.gathered(stream.skipped)
        self._list(stream.images.name, stream.images.split, skipped, len(stream.images), keep=True)

    def held_out(self, loader: Loader) -> None:
        """Those of the pass just made."""
        self._list(loader.name, loader.split, dict(loader.skipped), loader.total, keep=False)

    def _list(self, name: str, split: str, skipped: dict[str, str], total: int, keep: bool) -> None:
        if not self.processes.leads:
            return
        path = self.folder / "unreadable.txt"
        unreadable.write(path, f"{name} {split}", skipped, keep)
        if len(skipped) > self.told.get(split, 0):
            self.told[split] = len(skipped)
            self.say(f"{split}: {unreadable.told(skipped, total, path, self.items)}")
