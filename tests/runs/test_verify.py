"""What papers printed is counted again, and what is off without a reason is not passed over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from refusals import refused
from rows import row
from torch import nn

from tokenbench import data, methods
from tokenbench.cli import main
from tokenbench.errors import BadData, UsageError
from tokenbench.methods import all_methods, get
from tokenbench.methods.base import Method, Reported
from tokenbench.runs import printed
from tokenbench.runs.plan import Plan
from tokenbench.runs.results import Results, load
from tokenbench.runs.verify import Check, checks
from tokenbench.weights.checkpoints import SHIPPED


class Printed(Method):
    """Does nothing, and its paper printed numbers."""

    name = "printed"

    def reducers(self, vit: object) -> dict[int, list[nn.Module]]:
        return {}


def reporting(patch: pytest.MonkeyPatch, *reported: Reported) -> None:
    patch.setattr(Printed, "reported", reported)
    patch.setattr("tokenbench.runs.verify.all_methods", lambda: {"printed": Printed})


@pytest.mark.parametrize(
    ("published", "counted", "reason", "same", "off"),
    [
        (4.0, 4.049, "", True, False),
        (4.0, 4.051, "", False, True),
        (2.9, 2.981, "cut off", False, False),
        (2.9, 2.995, "cut off", False, True),  # more than a reason explains
        (22.774, 22.7744, "", True, False),
        (22.774, 22.7746, "", False, True),
        (16, 16, "", True, False),
        (16, 17, "", False, True),
    ],
)
def test_the_last_printed_digit_decides(published: float, counted: float, reason: str, same: bool, off: bool) -> None:
    check = Check("tome", "deit_s", "GMAC", published, counted, reason)
    assert (check.same, check.off) == (same, off)


def test_a_saving_may_be_three_points_off_with_a_reason() -> None:
    assert (
        not Check("a", "b", "GMAC saved %", 24, 21.1, "why").off
        and Check("a", "b", "GMAC saved %", 24, 20.9, "why").off
    )


def test_each_number_is_counted_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeiT-T by hand: 12 blocks of 12 n w^2 + 2 n^2 w on n = 197 tokens of w = 192, patches and head."""
    by_hand = (12 * (12 * 197 * 192**2 + 2 * 197**2 * 192) + 196 * 768 * 192 + 192 * 1000) / 1e9
    own = Reported(
        "deit_t", {}, 72.2, round(by_hand, 3), params_m=5.717416, saved=0, tokens=197, reason="for GMACs only"
    )
    reporting(monkeypatch, own, Reported("deit_t", {}, 72.2))
    found = {check.what: check for check in checks()}
    assert set(found) == {"GMAC", "GMAC saved %", "params M", "tokens at the end"} and all(
        c.same for c in found.values()
    )
    assert found["GMAC"].counted == pytest.approx(by_hand) and found["GMAC"].setting == "printed"
    reporting(monkeypatch, Reported("deit_t", {}, None, 1.26, params_m=5.8, tokens=196, reason="for GMACs only"))
    assert {check.what: check.off for check in checks()} == {"GMAC": False, "params M": True, "tokens at the end": True}


def test_the_command_fails_where_one_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    reporting(monkeypatch, Reported("deit_t", {}, gmacs=1.3), Reported("deit_t", {}, gmacs=1.5, reason="nobody knows"))
    done = CliRunner().invoke(main, ["verify"])
    assert done.exit_code == 1 and "2 published numbers, 1 off without a reason." in done.stdout
    assert "OFF" in done.stdout and "nobody knows" in done.stdout and done.stderr == ""
    reporting(monkeypatch, Reported("deit_t", {}, gmacs=1.3), Reported("deit_t", {}, gmacs=1.27, reason="with norms"))
    done = CliRunner().invoke(main, ["verify"])
    assert done.exit_code == 0 and "with norms" in done.stdout and "0 off" in done.stdout


def test_accuracies_of_rows_are_set_beside_too(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    reporting(monkeypatch)
    made = {"backbone": "deit_s", "images": 50_000, "images_total": 50_000, "dataset": "imagenet"}
    for top1, code in ((79.9, 0), (78.0, 1)):
        file = f"{tmp_path}/{code}.jsonl"
        Results(file).append(row(**made, top1=top1, top1_low=top1 - 0.3, top1_high=top1 + 0.3))
        done = CliRunner().invoke(main, ["verify", file])
        assert done.exit_code == code and "79.86" in done.stdout and f"{top1}" in done.stdout
    Results(f"{tmp_path}/other.jsonl").append(row(**made | {"dataset": "photos"}, top1_low=69.0, top1_high=71.0))
    done = CliRunner().invoke(main, ["verify", f"{tmp_path}/other.jsonl"])
    assert done.exit_code == 0 and "measured on photos (val)" in done.stdout


def counted(name: str) -> bool:
    """Whether anything but accuracies was printed of it."""
    return any((r.gmacs, r.params_m, r.saved, r.tokens) != (None,) * 4 for r in get(name).reported)


@pytest.mark.parametrize("name", [n for n in all_methods() if counted(n)])
def test_every_published_number_is_matched_or_explained(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenbench.runs.verify.all_methods", lambda: {name: get(name)})
    found = list(checks())
    assert found and [(c.setting, c.backbone, c.what, c.published, c.counted) for c in found if c.off] == []


def imagenet(patch: pytest.MonkeyPatch, *printed: Reported) -> Path:
    """A folder of a few images of deit_nano's classes that goes for ImageNet, and what was printed for them."""
    reporting(patch, *printed)
    for module in ("tokenbench.methods", "tokenbench.runs.printed"):
        patch.setattr(f"{module}.all_methods", lambda: {"printed": Printed})
    patch.setitem(methods._registry, "printed", Printed)
    patch.setattr(data.Images, "imagenet_val", True)
    shown = data.sample()
    for i in range(0, 2000, 100):
        folder = Path("val", str(int(shown.targets[i])))
        folder.mkdir(parents=True, exist_ok=True)
        shown.open(i, "L").save(folder / f"{i}.png")
    return Path("val")


def test_accuracies_are_measured_with_the_weights_they_are_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    folder = imagenet(monkeypatch, Reported("deit_nano", {}, 90.0), Reported("deit_nano", {}, 11.0, trained=True))
    asked = ("verify", "--weights", str(SHIPPED / "deit_nano.safetensors"), "--data-dir", str(folder))
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0 and "90" in done.stdout and "In brackets: 95 % intervals, Wilson's." in done.stdout
    assert [row.method for row in load("verified.jsonl")[0]] == ["dense", "printed"]
    monkeypatch.setattr(Printed, "reported", (Reported("deit_nano", {}, 10.0),))
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 1 and "OFF" in done.stdout, "and what is measured is not measured again"
    monkeypatch.setattr(data.Images, "imagenet_val", False)
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 2 and "is not ImageNet-1k's validation set" in done.stderr
    monkeypatch.setattr(Printed, "reported", (Reported("deit_nano", {}, 11.0, trained=True),))
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 2 and "No paper printed an accuracy that is of the weights" in done.stderr


def test_which_printed_accuracies_are_of_which_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    few, own = Reported("deit_nano", {}, 90.0), Reported("deit_s", {}, 11.0, trained=True)
    reporting(monkeypatch, few, own, Reported("deit_t", {}, 70.0), Reported("deit_b", {}, gmacs=1.0))
    monkeypatch.setattr(printed, "all_methods", lambda: {"printed": Printed})
    asked, folders = Plan([], [], data_dir=Path("val")), {Path("val"): True}
    found = {"header": {}, "trained": lambda method, backbone: Path("own") if backbone == "deit_s" else None}

    def find(weights: str, backbone: str, take: object) -> object:
        assert take is asked.take
        return SimpleNamespace(dense="auto" if weights in ("auto", "dense") else weights, **found)

    def given(weights: str, *names: str) -> list[tuple[list[str], list[str]]]:
        made = printed.plans(replace(asked, weights=weights, backbones=names))
        wanted = replace(asked, weights=weights, backbones=names, rounds=3, max_seconds=0)
        assert all(replace(one, backbones=names, methods=[]) == wanted for one in made)
        return [(list(one.backbones), [method.label for method in one.methods]) for one in made]

    monkeypatch.setattr(printed.sources, "find", find)
    monkeypatch.setattr(printed.data, "open_folder", lambda path, labels: SimpleNamespace(imagenet_val=folders[path]))
    every = [([name], ["printed"]) for name in ("deit_nano", "deit_s", "deit_t")]
    assert given("auto") == given("dense") == every and given("random") == every[1:2]
    refusal = "that is of the weights random; give others, or the backbone that they are of."
    with refused(UsageError, f"No paper printed an accuracy on deit_t, deit_nano {refusal}"):
        printed.plans(replace(asked, weights="random", backbones=["deit_t", "deit_nano"]))
    with refused(UsageError, "w.pth does not say of which backbone it is; give that as --backbone deit_s."):
        given("w.pth")
    found["header"] = {"backbone": "deit_nano"}
    assert given("w.pth") == every
    folders[Path("val")] = False
    images = "give its 50 images of each of 1000 wnids, in the sizes they were published in."
    why = f"Data folder 'val' is not ImageNet-1k's validation set, which printed accuracies are of; {images}"
    with refused(BadData, why):
        given("auto")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--weights", "auto"), "--weights needs images too; give ImageNet-1k's validation set as --data-dir."),
        (("--data-dir", "x"), "--data-dir needs weights too"),
        (("--limit", "3"), "--limit says how to measure accuracies; give --weights too."),
        (("--weights", "random", "--data-dir", "x"), "No paper printed an accuracy that is of the weights random"),
        (("--weights", "none.pth", "--data-dir", "x"), "none.pth"),
    ],
)
def test_what_is_missing_for_accuracies_is_said(args: tuple[str, ...], says: str) -> None:
    done = CliRunner().invoke(main, ["verify", *args])
    assert done.exit_code in (1, 2) and says in done.stderr and done.stderr.count("\n") == 1
