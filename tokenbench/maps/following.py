"""Follow patches through a model: from names and images to `TokenMaps`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tokenbench.backbones import Backbone
from tokenbench.backbones.frames import JointViT
from tokenbench.core.tokens import Tokens
from tokenbench.data import pictures
from tokenbench.data.viewing import Views
from tokenbench.errors import BadSetting, DataError, Unsupported
from tokenbench.maps import overtime
from tokenbench.maps.arrays import READ, TokenMaps
from tokenbench.methods import get
from tokenbench.methods.base import Method, make
from tokenbench.weights import sources
from tokenbench.weights.checkpoints import Weights
from tokenbench.weights.choice import ALL, Take

CELLS = 2**20  # entries of a map in one pass: 27 images of 196 patches, or one of 1024


def trace(
    method: str,
    backbone: str | nn.Module,
    images: Tensor | Sequence[str | Path | Image.Image],
    *,
    weights: str = "auto",
    seed: int = 0,
    image_size: tuple[int, int] | None = None,
    **knobs: object,
) -> TokenMaps:
    """Which patch went into which token, after every block.

    Args:
        method: a name that `tokenbench list` shows.
        backbone: a short name (`deit_s`), any timm name, or a timm model of your own, which keeps its weights.
        images: files or PIL images of any mode and size, which are resized and cropped as the model wants; or a
            normalised batch (B, channels, H, W).
        weights: for names: "auto" (shipped with the method or without, hub, else random), "dense", "random", or a file.
        seed: for random weights, and for the parameters that a method adds.
        image_size: for names: height and width, if other than the model's own.
        knobs: the method's, as `tokenbench show METHOD` lists them.

    Raises:
        UsageError: an unknown name, a knob out of range, or a method that cannot run on this backbone.
        DataError: no images, or one that cannot be read.
        WeightsError: a weights file that does not fit.
    """
    setting = make(get(method), knobs)
    own: Path | None = None
    if isinstance(backbone, nn.Module):
        adapted, note = Backbone(backbone), ""
    else:
        given = sources.find(weights, backbone)
        adapted, found = prepare(backbone, given, seed, image_size)
        own, note = given.trained(setting, backbone), _note(found)
        if found.note and own is None:
            warnings.warn(found.note, stacklevel=2)
    if isinstance(images, Tensor):
        batch, names = images, tuple(f"image {i}" for i in range(len(images)))
    else:
        opened = [image if isinstance(image, Image.Image) else pictures.open_image(image) for image in images]
        names = tuple(f"image {i}" if isinstance(x, Image.Image) else Path(x).name for i, x in enumerate(images))
        batch = pictures.inputs(opened, adapted.config) if opened else torch.empty(0)
    return follow(setting, adapted, batch, names, note, seed, own)


@dataclass(frozen=True)
class Ready:
    """Settings that can run on a backbone, each with its file of weights, and the images that they are followed on."""

    settings: Sequence[tuple[Method, Path | None]]
    backbone: Backbone
    names: Sequence[str]
    batch: Tensor
    note: str
    seed: int

    def maps(self, at_once: int | None = None) -> Iterator[list[TokenMaps]]:
        """The maps of every setting, on so many images at a time, or on all."""
        parts = self.batch.split(at_once or len(self.batch))
        for i, batch in zip(range(0, len(self.batch), len(parts[0])), parts, strict=True):
            names = tuple(self.names[i : i + len(batch)])
            yield [follow(m, self.backbone, batch, names, self.note, self.seed, own) for m, own in self.settings]


def trace_all(
    methods: Sequence[Method], backbone: str, images: Sequence[str | Path] = (), **options: Any
) -> list[TokenMaps]:
    """The maps of several settings on the same images and backbone; all is given and raised as for `ready`."""
    return next(ready(methods, backbone, images, **options).maps())


def ready(
    methods: Sequence[Method],
    backbone: str,
    images: Sequence[str | Path] = (),
    *,
    weights: str = "auto",
    seed: int = 0,
    image_size: tuple[int, int] | None = None,
    device: str = "cpu",
    limit: int | None = None,
    pixels: Mapping[str, Any] | None = None,
    take: Take = ALL,
    task: str = sources.CLASSIFIER,
    on: Callable[[Backbone], Backbone] | None = None,
    views: Views | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Ready:
    """All that the maps of several settings on the same images and backbone are made of.

    Args:
        methods: the settings; one that cannot run on this backbone is left out, and `say` is told why.
        backbone: a short name or any timm name.
        images: files and folders, a folder with all below it; those that cannot be read are left out and told. If
            none are given: the photographs that ship, or for deit_nano some of the images it was trained for.
        weights, seed, image_size: as for `trace`.
        device: where to run.
        limit: if given, use this many images, spread evenly.
        pixels: mean, std, crop_pct and interpolation, where other than the model's own.
        take: which weights, of a file that holds several.
        task: that models are for.
        on: makes of the backbone what takes clips; `images` are videos then, or folders of frames.
        views: what of clips is seen.
        say: told of each thing left out, in a sentence.

    Raises:
        TokenbenchError: as `trace`, and where nothing is left to trace.
    """
    files = pictures.find(images, limit) if images and views is None else []
    given = sources.find(weights, backbone, take, task)
    adapted, found = prepare(backbone, given, seed, image_size, pixels)
    adapted = adapted if on is None else on(adapted)
    adapted.vit.to(device)
    if found.note:
        say(f"{found.note[0].upper()}{found.note[1:]}.")
    if adapted.unseen:
        say(f"{backbone}: {adapted.unseen}.")
    settings = []
    for method in (method.on(adapted) for method in methods):
        reason = method.refusal(adapted)
        if reason:
            say(f"{method.label} is left out on {backbone}: {reason}.")
        else:
            settings.append((method, given.trained(method, backbone)))
    if not settings:
        raise Unsupported(f"None of the methods given can run on {backbone}; see `tokenbench list --backbones`.")
    if views is None:
        names, opened = _opened(files, say) if images else pictures.sample(adapted.input_size[0] == 1, limit)
        batch = pictures.inputs(opened, adapted.config)
    else:
        names, batch = overtime.opened(images, adapted, views, limit, say)
    return Ready(settings, adapted, names, batch, _note(found), seed)


def prepare(
    name: str,
    given: sources.Sources,
    seed: int,
    image_size: tuple[int, int] | None,
    pixels: Mapping[str, Any] | None = None,
) -> tuple[Backbone, Weights]:
    """A backbone in eval mode with its dense weights, and where they are from."""
    with torch.random.fork_rng(devices=[]):  # timm draws weights that are replaced at once
        adapted = given.create(name, image_size, pixels=pixels)
    found = given.load(adapted, seed)
    adapted.vit.eval()
    return adapted, found


def follow(
    method: Method,
    backbone: Backbone,
    images: Tensor,
    names: Sequence[str],
    note: str = "",
    seed: int = 0,
    own: Path | None = None,
) -> TokenMaps:
    """The maps of a setting on images (B, channels, H, W), normalised; they go through a few at a time, in eval mode.

    `own` is a file of weights trained with the method; without it a method that needs its own training is noted
    "untrained", and the seed decides the parameters that it adds.

    Raises:
        Unsupported: the method cannot run on this backbone.
        DataError: there are no images.
        BadSetting: images of another size than the model takes.
    """
    if len(images) == 0:
        raise DataError("No images were given to trace; give one at least.")
    if backbone.clips != (images.dim() == 5):
        takes, has = ("clips", "images; give --task video") if backbone.clips else ("images", "clips")
        raise BadSetting(f"{backbone.name} takes {takes}, and these are {has}.")
    own_size = (images.shape[1], *images.shape[-2:]) == backbone.input_size
    if not own_size and not getattr(backbone.vit, "dynamic_img_size", False):
        raise BadSetting(
            f"Images of {tuple(images.shape[1:])} are not what {backbone.name} takes, {backbone.input_size} "
            "(channels, height, width); give files, or a batch of that shape."
        )
    method, was_training, like = method.on(backbone), backbone.vit.training, next(backbone.vit.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = sources.model(method, backbone, own)[0]
    frames = images.shape[2] if backbone.clips else 1
    at_once = max(1, CELLS // (frames * (backbone.grid[0] * backbone.grid[1]) ** 2))
    with torch.inference_mode():
        passes = [model.run(chunk.to(like), trace=True).trace for chunk in images.split(at_once)]
    backbone.vit.train(was_training)
    blocks = list(zip(*passes, strict=True))  # of each block, the tokens of every chunk
    first, joint = blocks[0][0], isinstance(backbone, JointViT)
    steps = frames if joint else first.frames  # rows of the batch that a clip has in the maps
    each = np.array([torch.cat([overtime.counts(t, steps) for t in tokens]).tolist() for tokens in blocks])
    return TokenMaps(
        method=method.name,
        label=method.label,
        backbone=backbone.name,
        note=", ".join(filter(None, ["untrained" if method.trained and own is None else "", "" if own else note])),
        names=tuple(overtime.called(names, steps) if backbone.clips else names),
        pictures=pictures.pixels(overtime.shown(images, steps) if backbone.clips else images, backbone.config),
        grid=(first.grid[0] // steps, first.grid[1]) if joint else first.grid,
        weights=_joined([overtime.split(t.source, steps, joint, 2) for t in tokens] for tokens in blocks),
        fused=tuple(
            array > 0
            for array in _joined([overtime.split(t.fused, steps, joint, 1) for t in tokens] for tokens in blocks)
        ),
        frames=steps,
        counts=tuple(each.max(1).tolist()),
        each=each if np.ptp(each, axis=1).any() else None,
        features=() if backbone.clips else tuple(_features(tokens, model.backbone) for tokens in blocks),
    )


def _features(parts: Sequence[Tokens], backbone: Backbone) -> dict[str, np.ndarray]:
    """Of all images after a block, (B, C) each: the class token, where there is one, and the mean of the others."""
    read: list[list[Tensor]] = []
    for tokens in parts:
        live = tokens.live.unsqueeze(-1)
        mean = tokens.patches.where(live, 0).sum(1) / live.sum(1).clamp(min=1)
        read.append([tokens.x[:, 0], mean] if tokens.prefix and backbone.has_class_token else [mean])
    return {
        name: torch.cat(each).float().cpu().numpy()
        for name, each in zip(READ[-len(read[0]) :], zip(*read, strict=True), strict=True)
    }


def _note(found: Weights) -> str:
    return "random weights" if found.kind == "random" else ""


def _opened(files: Sequence[Path], say: Callable[[str], None]) -> tuple[list[str], list[Image.Image]]:
    """The names and images of the files that can be read; `say` is told of the others."""
    names, opened = [], []
    for file in files:
        try:
            opened.append(pictures.open_image(file))
            names.append(file.name)
        except DataError as error:
            say(f"Left out: {error}")
    if not opened:
        raise DataError(f"None of the {len(files)} images can be read; give JPEG or PNG files.")
    return names, opened


def _joined(blocks: Iterable[Sequence[Tensor | None]]) -> tuple[np.ndarray, ...]:
    """Maps of all images, an array a block, from the parts of each block; one that did not change is not copied.

    Maps of only 0 and 1 become bytes, for they are large.
    """
    arrays: list[np.ndarray] = []
    before: Sequence[Tensor | None] = ()
    for parts in blocks:
        if len(before) == len(parts) and all(a is b for a, b in zip(before, parts, strict=True)):
            arrays.append(arrays[-1])
            continue
        before = parts
        array = np.concatenate(_even([part.float().cpu().numpy() for part in parts if part is not None]))
        hard = bool(((array == 0) | (array == 1)).all())
        arrays.append(array.astype(np.uint8) if hard else array)
    return tuple(arrays)


def _even(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Maps (B, T, P) with zeros up to the largest T: each part was padded for its own images."""
    most = max(part.shape[1] for part in parts)
    return [p if p.shape[1] == most else np.pad(p, ((0, 0), (0, most - p.shape[1]), (0, 0))) for p in parts]
