"""The token-map viewer in a real browser: what a reader does, and what is seen then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mapped import COLS, ROWS, settings

from tokenbench.maps.arrays import TokenMaps
from tokenbench.methods.sweep import parse
from tokenbench.reports.maps import viewer

pytestmark = pytest.mark.browser
WEIGHTS = Path(__file__).parents[3] / "shared" / "weights" / "vit_tiny_patch16_224.safetensors"


class Page:
    """The viewer through a reader's hands and eyes."""

    def __init__(self, driver: Any) -> None:
        from selenium.webdriver import ActionChains, Keys
        from selenium.webdriver.support.ui import WebDriverWait

        self.driver, self.keys, self.actions = driver, Keys, lambda: ActionChains(driver, duration=20)
        WebDriverWait(driver, 10).until(lambda d: self.all("[aria-current]"))

    def all(self, query: str) -> list[Any]:
        return self.driver.find_elements("css selector", f".tb-maps {query}")

    def text(self, query: str) -> str:
        return self.all(query)[0].text

    def press(self, *keys: str) -> None:
        self.actions().send_keys(*keys).perform()

    def choose(self, side: str, label: str) -> None:
        from selenium.webdriver.support.ui import Select

        Select(self.all(f".side.{side} select")[0]).select_by_visible_text(label)

    def point(self, patch: int, click: bool = False) -> None:
        """At the middle of a patch of the canvas."""
        stage = self.all(".stage canvas")[0]
        row, col = divmod(patch, COLS)
        x = ((col + 0.5) / COLS - 0.5) * stage.size["width"]
        y = ((row + 0.5) / ROWS - 0.5) * stage.size["height"]
        move = self.actions().move_to_element_with_offset(stage, x, y)
        (move.click() if click else move).perform()

    def away(self) -> None:
        self.actions().move_to_element(self.all(".facts")[0]).perform()

    def pixels(self) -> np.ndarray:
        """The middle pixel of each patch, (rows, columns, 3)."""
        script = """const c = document.querySelector(".tb-maps .stage canvas"), out = [];
        const copy = Object.assign(document.createElement("canvas"), {width: c.width, height: c.height});
        const x = copy.getContext("2d", {willReadFrequently: true});
        x.drawImage(c, 0, 0);
        for (let p = 0; p < arguments[0] * arguments[1]; p++) {
          const col = p % arguments[1], row = Math.floor(p / arguments[1]);
          out.push([...x.getImageData((col + .5) / arguments[1] * c.width, (row + .5) / arguments[0] * c.height, 1, 1)
            .data.slice(0, 3)]);
        }
        return out;"""
        return np.array(self.driver.execute_script(script, ROWS, COLS)).reshape(ROWS, COLS, 3)

    def split(self) -> float:
        return float(self.all(".divider")[0].get_attribute("aria-valuenow"))

    def number(self, side: str, name: str) -> str:
        lines = [line.text.split("\n") for line in self.all(f".side.{side} dl div")]
        return next(value for key, value in lines if key == name)


@pytest.fixture
def opened(visit: Callable[..., Any]) -> Callable[..., Page]:
    def go(maps: list[TokenMaps] | None = None, **options: Any) -> Page:
        return Page(visit(viewer.page(maps or settings(3)), **options))

    return go


def test_images_methods_and_blocks_are_chosen(opened: Callable[..., Page]) -> None:
    page = opened()
    assert page.number("a", "tokens") == "7" and page.number("b", "tokens") == "8"
    assert page.number("a", "kept") == "40 % 6 of 15 patches"
    before = page.pixels()
    page.press(page.keys.ARROW_LEFT)
    assert page.number("a", "tokens") == "16" and page.number("b", "kept") == "100 % 15 of 15 patches"
    assert (page.pixels() != before).any()
    page.press(page.keys.ARROW_LEFT)  # there is none before the first
    assert page.text("[aria-current] .number") == "0"
    page.press(page.keys.ARROW_RIGHT)
    assert page.text("[aria-current] .number") == "1"
    assert (page.pixels() == before).all()
    page.press("]")
    assert [b.get_attribute("aria-pressed") for b in page.all(".images button")] == ["false", "true", "false"]
    second = page.pixels()
    assert (second != before).any()
    page.all(".images button")[0].click()
    assert (page.pixels() == before).all()
    page.choose("b", "tome[r=1]")
    assert page.number("b", "clusters") == "5" and page.number("b", "entropy") == "2.32 bits"
    assert page.text(".agreement p:nth-of-type(1)").split()[:2] == ["IoU", "0.40"]
    page.all(".blocks button")[0].click()
    assert page.text(".agreement p:nth-of-type(1)").split()[:2] == ["IoU", "1.00"]
    page.all(".go")[1].click()
    assert page.text("[aria-current] .number") == "1"


def test_what_is_dropped_fades_and_what_is_merged_takes_its_mean(opened: Callable[..., Page]) -> None:
    maps = settings(1)
    page = opened(maps)
    page.choose("b", "tome[r=1]")
    for _ in range(10):
        page.actions().key_down(page.keys.SHIFT).send_keys(page.keys.ARROW_LEFT).key_up(page.keys.SHIFT).perform()
    assert page.split() == 0
    mean = maps[0].pictures[0].reshape(ROWS, 8, COLS, 8, 3).mean((1, 3)).reshape(-1, 3)
    merged = page.pixels().reshape(-1, 3)
    for token in range(5):
        ours = slice(3 * token, 3 * token + 3)
        assert np.abs(merged[ours] - mean[ours].mean(0)).max() < 0.15 * 256 + 2
    page.choose("b", "topk[r=1]")
    assert page.pixels().reshape(-1, 3)[6:].min() > 200


def test_the_divider_moves_by_mouse_and_keys(opened: Callable[..., Page]) -> None:
    page = opened()
    divider, width = page.all(".divider")[0], page.all(".stage canvas")[0].size["width"]
    page.actions().drag_and_drop_by_offset(divider, width * 0.3, 0).perform()
    assert page.split() == pytest.approx(80, abs=1)
    page.press(page.keys.ARROW_RIGHT)  # it has the focus
    assert page.split() == pytest.approx(85, abs=1)
    assert page.text("[aria-current] .number") == "1"
    page.press(page.keys.HOME)
    assert page.split() == 0
    page.press(page.keys.END)
    assert page.split() == 100
    page.actions().drag_and_drop_by_offset(divider, -1.2 * width, 0).perform()
    assert page.split() == 0  # not beyond the picture


def test_pointing_at_a_cluster_lights_its_patches(opened: Callable[..., Page]) -> None:
    page = opened(settings(1))
    page.choose("a", "tome[r=1]")
    before = page.pixels()
    page.point(5)  # of the second cluster: patches 3, 4 and 5
    assert page.text(".status") == "tome[r=1] token 2: 3 patches, 20 % of the image"
    changed = (page.pixels() != before).any(-1).ravel()
    assert not changed[3:6].any() and changed[[0, 1, 6, 10]].all()
    page.point(5, click=True)
    page.away()
    assert (page.pixels() != before).any()  # held
    page.press(page.keys.ESCAPE)
    assert (page.pixels() == before).all()
    page.point(14)
    assert page.text(".status") == "evit[r=1] dropped after block 1, into a fused token of 9 patches"
    page.choose("b", "topk[r=1]")
    page.point(14)
    assert page.text(".status") == "topk[r=1] dropped after block 1"


def test_semantic_tokens_show_their_attention(opened: Callable[..., Page]) -> None:
    maps = settings(1)
    page = opened(maps)
    assert not page.all(".sheet")
    page.choose("a", "stvit[r=1]")
    assert page.text(".side.a .note") == "untrained"
    assert len(page.all(".strip button")) == 4
    clusters = page.pixels()
    page.all(".strip button")[2].click()
    assert page.all(".strip button")[2].get_attribute("aria-pressed") == "true"
    assert "semantic token 3" in page.text(".status") and "attention" in page.text(".status")
    assert (page.pixels()[:, :2] != clusters[:, :2]).any()
    page.away()
    page.press(page.keys.ARROW_LEFT)  # dense there: no strip
    assert not page.all(".strip")
    page.press(page.keys.ARROW_RIGHT)
    assert (page.pixels() == clusters).all()
    page.point(0, click=True)
    token = maps[3].clusters()[0].ravel()[0]
    pressed = [b.get_attribute("aria-pressed") for b in page.all(".strip button")]
    assert [i for i, is_pressed in enumerate(pressed) if is_pressed == "true"] == [token]


def test_dark_and_narrow(opened: Callable[..., Page]) -> None:
    page = opened(settings(9), width=390, dark=True)
    assert page.driver.execute_script("return document.documentElement.scrollWidth") == 390
    ground = "return getComputedStyle(document.querySelector(arguments[0])).backgroundColor"
    assert page.driver.execute_script(ground, "body") == "rgb(21, 23, 26)"
    assert page.driver.execute_script(ground, ".stage") == "rgb(21, 23, 26)"
    assert page.pixels().reshape(-1, 3)[14].max() < 80  # faded into the dark
    stage, steps = page.all(".stage")[0].rect, page.all(".steps")[0].rect
    assert stage["width"] > 350 and steps["y"] < stage["y"] + stage["height"] + 120


def test_names_are_text(opened: Callable[..., Page]) -> None:
    evil = "</script><script>document.title = 'run'</script><img src=x onerror=\"document.title='run'\">"
    maps = [replace(m, names=(evil,), label=evil + m.label, note=evil, backbone=evil) for m in settings(1)]
    page = opened(maps)
    assert page.text(".images span") == evil
    assert evil in page.text(".side.a .note")
    page.point(0)
    assert evil in page.text(".status")
    assert page.driver.title == f"Token maps: {evil}"


def test_two_parts_in_one_page_do_not_meddle(visit: Callable[..., Any]) -> None:
    parts = viewer.fragment(settings(1)) + viewer.fragment(settings(2))
    page = Page(visit(f"<!doctype html><meta charset='utf-8'><input><div>{parts}</div>"))
    first, second = page.driver.find_elements("css selector", ".tb-maps")
    second.find_elements("css selector", ".blocks button")[0].click()
    page.press(page.keys.ARROW_RIGHT, page.keys.ARROW_LEFT)
    current = [part.find_element("css selector", "[aria-current]").text for part in (first, second)]
    assert current == ["1", "0"]
    page.driver.find_element("css selector", "input").click()
    page.press(page.keys.ARROW_LEFT)
    assert first.find_element("css selector", "[aria-current]").text == "1"


def test_a_part_that_is_hidden_at_first_is_drawn_when_shown(visit: Callable[..., Any]) -> None:
    mixing = settings(1)[3]
    page = Page(visit(f"<!doctype html><meta charset='utf-8'><details>{viewer.fragment([mixing])}</details>"))
    page.driver.find_element("css selector", "summary, details").click()
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(page.driver, 5).until(lambda _: page.all(".stage canvas")[0].size["width"] > 100)
    assert len(np.unique(page.pixels().reshape(-1, 3), axis=0)) > 4


@pytest.mark.skipif(not WEIGHTS.exists(), reason="the real weights beside the checkout are absent")
def test_real_maps_are_small_and_open(visit: Callable[..., Any]) -> None:
    from tokenbench.data.pictures import PHOTOS
    from tokenbench.maps.following import trace_all

    methods = parse("tome,evit,dynamicvit,stvit")
    html = viewer.page(trace_all(methods, "vit_ti", [PHOTOS], weights=str(WEIGHTS), limit=6))
    assert len(html) < 1_500_000
    page = Page(visit(html))
    page.choose("b", "stvit[tokens=16]")
    assert len(page.all(".strip button")) == 16
    for _ in range(11):
        page.press(page.keys.ARROW_LEFT)
    assert page.number("a", "tokens") == "184" and page.number("b", "tokens") == "196"


def test_clips_play_and_step_and_colours_stay(opened: Callable[..., Page]) -> None:
    """Two clips of three frames: by the buttons and keys within one, round and round, a token in one colour."""
    from selenium.webdriver.support.ui import WebDriverWait

    page = opened([replace(settings(6)[3], frames=3)])

    def comes(frame: int) -> None:
        WebDriverWait(page.driver, 20).until(lambda _: page.text(".time output") == f"frame {frame} of 3")

    comes(1)
    before, token = page.pixels(), page.all(".sheet button")[0].get_attribute("style")
    page.all(".time .go")[1].click()
    comes(2)
    assert (page.pixels() != before).any() and page.all(".sheet button")[0].get_attribute("style") == token
    page.all(".time .go")[0].click()
    comes(1)
    page.all(".time .go")[0].click()
    comes(3)  # from the first to the last of the clip
    page.press("]")
    comes(1)  # of the next clip
    page.press("p")
    assert page.text(".play") == "Pause"
    comes(2)
    page.press("p")
    assert page.text(".play") == "Play"
    chosen = [button.get_attribute("aria-pressed") for button in page.all(".images button")].index("true")
    assert chosen >= 3, "it stays in its clip"
    assert not opened(settings(2)).all(".time")
