"""Token maps of clips: every frame is an image among the maps, and tokens of all frames are seen in each."""

from __future__ import annotations

from pathlib import Path

import moving
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import tiny_vit

from tokenbench import backbones
from tokenbench.backbones import Backbone
from tokenbench.backbones.frames import FramesViT, JointViT
from tokenbench.cli import main
from tokenbench.errors import BadSetting
from tokenbench.maps import overtime
from tokenbench.maps.files import load
from tokenbench.maps.following import follow
from tokenbench.methods.stvit.stvit import STViT
from tokenbench.methods.tome import ToMe
from tokenbench.reports.maps import overlays, viewer


def test_frames_of_video_swin() -> None:
    backbone = backbones.create("swin3d_femto", (112, 112))
    found = follow(STViT(), backbone, torch.randn(2, 3, 6, 112, 112), ["a.mp4", "b.mp4"])
    assert found.frames == 3 and found.names[:4] == ("a.mp4 00", "a.mp4 01", "a.mp4 02", "b.mp4 00")
    assert found.pictures.shape == (6, 112, 112, 3) and found.grid == (28, 28)
    assert found.weights[-1].shape == (6, 4, 28 * 28)
    assert found.counts[0] == 28 * 28 and found.counts[-4:] == (9, 9, 9, 4)
    with pytest.raises(BadSetting, match="takes clips, and these are images; give --task video"):
        follow(STViT(), backbone, torch.randn(1, 3, 112, 112), ["a.jpg"])


@pytest.mark.parametrize(("frames", "steps"), [(5, [0, 2, 4]), (6, [0, 2, 4]), (1, [0])])
def test_a_step_shows_the_first_of_its_two_frames(frames: int, steps: list[int]) -> None:
    """The last of an odd number makes a step alone."""
    clip = torch.arange(frames).float()[None, None, :, None, None].expand(1, 3, frames, 4, 4)
    assert overtime.shown(clip, len(steps))[:, 0, 0, 0].tolist() == steps


@pytest.mark.parametrize("joint", [False, True])
def test_frames_of_a_vit(joint: bool) -> None:
    backbone = Backbone(tiny_vit())
    adapted = (JointViT if joint else FramesViT)(backbone, 3)  # type: ignore[arg-type]
    clips = torch.randn(2, 3, 3, *backbone.input_size[1:])
    found = follow(ToMe(r=3), adapted, clips, ["a", "b"])
    patches = backbone.grid[0] * backbone.grid[1]
    assert found.frames == 3 and len(found.names) == 6 and found.grid == backbone.grid
    last = found.weights[-1]
    assert last.shape[::2] == (6, patches) and (last.sum(1) == 1).all(), "every patch of every frame is in one token"
    over = (last.reshape(2, 3, -1, patches).sum(-1) > 0).sum(1)  # frames that each token has patches of
    if joint:
        assert over.max() > 1, "tokens are merged over time"
    first = clips[0, :, 1].permute(1, 2, 0)
    mean, std = (torch.tensor(backbone.config.get(key, (0.5,) * 3)) for key in ("mean", "std"))
    want = ((first * std + mean).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    assert np.abs(found.pictures[1].astype(int) - want).max() <= 1 or backbone.config.get("mean") is None


def test_traced_clips_are_a_strip_and_play(tmp_path: Path) -> None:
    """From videos and folders of frames to the page, and read again."""
    folder = moving.kinetics(tmp_path / "squares", val=1)
    moving.write(folder / "val" / "right" / "film.mp4", moving.square(9, False))
    out = tmp_path / "maps"
    done = CliRunner().invoke(
        main,
        ["trace", "--task", "video", "--backbone", "swin3d_femto", "--methods", "dense,stvit", "--weights", "random",
         "--frames", "4", "--stride", "1", "--image-size", "112", "--images", str(folder / "val" / "right"),
         "-o", str(out)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert {"film-0-frames.png", "clip1-1-frames.png", "maps.html"} <= {path.name for path in out.iterdir()}
    page = (out / "maps.html").read_text()
    assert '"frames": 2' in page and 'class="play"' in page
    maps = load(out)
    assert maps[0].frames == 2
    assert sorted(maps[0].names) == ["clip1 00", "clip1 01", "film.mp4 00", "film.mp4 01"]
    assert len(overlays.over_time(maps, 1).axes) == 2 * 3, "two frames of the clip, and of both methods"
    first = maps[0].names[0].rpartition(" ")[0]
    shown = [image["name"] for image in viewer.payload(maps, most=3)["images"]]
    assert shown == [f"{first} 00", f"{first} 01"], "clips are shown whole"


def test_it_asks_for_videos() -> None:
    done = CliRunner().invoke(main, ["trace", "--task", "video", "--backbone", "swin3d_t", "--methods", "stvit"])
    assert done.exit_code == 2 and "--images" in done.output
