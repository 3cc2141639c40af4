"""The page in a real headless Chromium: it draws, sorts, filters, prints; nothing leaves it or runs from a row."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from rows import row

from tokenbench.reports.page import html

pytestmark = pytest.mark.browser

EVIL = "</script><script>window.hit=1</script><img src=x onerror='window.hit=2'>"
CHARTS = ("accuracy", "differences", "saved", "batches", "tokens", "time", "parts")


@pytest.fixture(scope="module")
def driver(chromium: Any) -> Any:
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.set_window_size(1100, 900)
    return chromium


def sweep() -> list[Any]:
    """Three methods over their settings at two batch sizes, with what a real run measures."""
    made = []
    for batch in (1, 32):
        same = {"batch": batch, "runs": 10, "tokens_mean": [197.0] * 4, "latency_p50": 100.0}
        parts = {"attention": 0.5, "mlp": 0.7, "embed": 0.1, "selection": 0.0, "head": 0.0}
        made.append(row(backbone="vit_ti", gmacs_by_part=parts, **same))
        for i, rate in enumerate((0.5, 0.7, 0.9)):
            for j, method in enumerate(("evit", "topk")):
                accuracy = 70 - 10 * (2 - i) ** 2 - j
                values = {"top1": accuracy, "top1_low": accuracy - 2, "top1_high": accuracy + 2, "gmacs": 0.8 + rate}
                values |= {"diff_dense": accuracy - 70.0, "diff_dense_low": accuracy - 71.0}
                values |= {"diff_dense_high": accuracy - 69.0, "p_value": 0.2, "reduction_share": 0.05 + 0.01 * j}
                values |= {"speedup": 1.6 - rate + batch / 100, "speedup_low": 0.6, "speedup_high": 2.0}
                values |= {"tokens_mean": [197.0, 150.0, 100.0, 197 * rate], "latency_p50": 100.0 * rate + j}
                values |= {"setting": {"keep_rate": rate, "blocks": None}, "gmacs_by_part": parts}
                label = f"{method}[keep_rate={rate}]"
                made.append(row(method, label, backbone="vit_ti", **{**same, **values, "images_per_s": 99 / rate + j}))
    return made


@pytest.fixture(scope="module")
def shown(driver: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Opens the page of some rows, of `sweep()` if none are given, and waits until everything is drawn."""

    usual = html.write(sweep(), tmp_path_factory.mktemp("page"))

    def show(rows: list[Any] | None = None, maps: str = "") -> None:
        path = html.write(rows, tmp_path_factory.mktemp("page"), maps) if rows else usual
        driver.get(path.as_uri())
        drawn(driver)

    return show


def drawn(driver: Any, before: str = "") -> str:
    """Wait for a drawing later than the one given; returns its number."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        number = driver.execute_script("return document.documentElement.dataset.drawn || ''")
        if number and number != before:
            return str(number)
        time.sleep(0.05)
    raise AssertionError("the charts were not drawn within a minute")


def js(driver: Any, text: str, *given: Any) -> Any:
    return driver.execute_script(text, *given)


def click(driver: Any, css: str) -> None:
    js(driver, "arguments[0].click()", driver.find_element("css selector", css))


def spaced(text: str) -> str:
    """With usual spaces in place of those that hold a line together."""
    return text.replace("\u00a0", " ")


def texts(driver: Any, css: str) -> list[str]:
    return list(js(driver, "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", css))


def test_the_charts_are_drawn_and_nothing_leaves_the_page(driver: Any, shown: Any) -> None:
    driver.get_log("performance"), driver.get_log("browser")
    shown()
    for chart in CHARTS:
        marks = js(
            driver,
            "return document.querySelectorAll(`#chart-${arguments[0]} svg .mark-symbol path, "
            "#chart-${arguments[0]} svg .mark-rect path`).length",
            chart,
        )
        assert marks >= 4, chart
        assert driver.find_element("css selector", f"#chart-{chart} figcaption").text.startswith(
            "7 settings; vit_ti" if chart == "batches" else "vit_ti, 224×224"
        )
    assert spaced(driver.find_element("id", "headline").text) == (
        "Stay with dense: nothing else here surely gains latency and loses at most 1.0 point"
    )
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == [] and len(asked) == 1
    assert js(driver, "return performance.getEntriesByType('resource').length") == 0
    assert driver.get_log("browser") == []


def test_the_axis_and_the_conditions_are_switched(driver: Any, shown: Any) -> None:
    shown()
    title = "return [...document.querySelectorAll('#chart-accuracy svg .role-axis-title text')].map(e => e.textContent)"
    assert "median latency of a batch, ms (less is better)" in js(driver, title)
    js(driver, "document.querySelector('#axis input').focus()")
    driver.switch_to.active_element.send_keys("\ue014\ue014")  # right, right: by keyboard
    time.sleep(0.5)
    assert "images a second (more is better)" in js(driver, title)
    assert "images/s" in driver.find_element("id", "headline").text
    options = texts(driver, "#group option")
    assert options == ["vit_ti · batch 1", "vit_ti · batch 32"]
    assert "batch 32" in driver.find_element("id", "conditions").text
    before = js(driver, "return document.documentElement.dataset.drawn")
    driver.find_element("id", "group").send_keys("\ue013")  # up
    drawn(driver, before)
    assert "batch 1" in driver.find_element("id", "conditions").text
    click(driver, "#chart-accuracy summary")
    told = driver.find_element("css selector", "#chart-accuracy details dl").text
    for part in ("Some CPU, 2 cores", "fp32", "torch 2.9", "timed rounds\n10", sweep()[0].id):
        assert part in told


def test_the_first_words_and_the_notes_are_those_made_in_python(driver: Any, shown: Any) -> None:
    change = {"diff_dense": -0.149, "diff_dense_low": -0.649, "diff_dense_high": 0.351, "p_value": 0.6}
    shown([row(top1=90.149999, top1_low=89.5), row("topk", "topk[keep_rate=0.5]", top1=90.0, **change)])
    lead, headline = driver.find_element("css selector", "#lead"), driver.find_element("id", "headline")
    said = "Use topk[keep_rate=0.5]: −50 % GMAC, at most 0.7 points lost, 95 % sure on 100 images"
    assert spaced(headline.text) == said and lead.find_element("tag name", "strong").text == "topk[keep_rate=0.5]"
    assert "−0.1 [−0.6, +0.4] points, −50 % GMAC" in spaced(lead.text)
    assert any("McNemar's exact test" in note for note in texts(driver, "#notes li"))
    assert "90.1" in texts(driver, "#table tbody td"), "as the table has it, and not rounded twice"
    js(driver, "document.querySelectorAll('#axis input')[2].click()")
    assert "surely gains images/s" in spaced(headline.text)
    js(driver, "document.getElementById('amount').value = 0")
    js(driver, "document.getElementById('amount').dispatchEvent(new Event('input'))")
    assert driver.find_element("id", "amount-text").text == "at most 0.1 points lost"
    assert spaced(headline.text).startswith("Stay with dense") and "at=0.1" in js(driver, "return location.hash")


def test_a_link_shows_what_was_chosen(driver: Any, shown: Any) -> None:
    shown()
    js(driver, "document.querySelectorAll('#axis input')[0].click()")
    driver.find_elements("css selector", "#legend button")[2].click()
    driver.find_element("name", "text").send_keys("evit")
    click(driver, "#theme")
    click(driver, "#table .pick")
    link = js(driver, "return location.href")
    driver.get("about:blank")
    driver.get(link)
    drawn(driver)
    assert js(driver, "return document.querySelector('#axis input:checked').value") == "gmacs"
    assert js(driver, "return [...document.querySelectorAll('#legend [aria-pressed=false]')].length") == 1
    assert driver.find_element("name", "text").get_attribute("value") == "evit"
    assert js(driver, "return document.documentElement.dataset.theme") == "dark"
    assert driver.find_element("id", "compare").is_displayed()


def test_points_are_reached_by_keyboard_and_two_are_compared(driver: Any, shown: Any) -> None:
    shown()
    js(driver, "document.querySelector('#chart-accuracy .points_marks > path[tabindex=\"0\"]').focus()")
    first = driver.switch_to.active_element.get_attribute("aria-label")
    assert "[keep_rate=0.5]: top-1 " in first and "ms a batch" in first
    assert driver.find_element("id", "vg-tooltip-element").is_displayed(), "as the pointer would show it"
    driver.switch_to.active_element.send_keys("\ue007")  # enter
    assert "pick another row" in driver.find_element("id", "compare").text
    driver.switch_to.active_element.send_keys("\ue014")  # right
    assert driver.switch_to.active_element.get_attribute("aria-label") != first
    driver.switch_to.active_element.send_keys(" ")
    told = driver.find_element("id", "compare").text
    assert "GMAC" in told and "×1.00" in told and "not paired" in told
    assert len(driver.find_elements("css selector", "tr:has(.pick[aria-pressed='true'])")) >= 2
    assert len(driver.find_elements("css selector", "#chart-accuracy .points_marks > path.picked")) == 2
    driver.switch_to.active_element.send_keys("\ue00c")  # escape
    assert not driver.find_element("id", "compare").is_displayed()


def test_many_methods_have_a_panel_each_and_names_beside_their_points(driver: Any, shown: Any) -> None:
    made = sweep()[:7]
    for i, method in enumerate(("tome", "atc", "ats", "dpcknn")):
        for j, one in enumerate(made[1:3]):
            values = {"method": method, "label": f"{method}[keep_rate=0.{i}{j}]", "setting": {"keep_rate": i / 10}}
            made.append(one.model_copy(update={**values, "latency_p50": 40.0 + 9 * i + 30 * j}))
    shown(made)
    for chart in ("methods", "tokens"):
        assert texts(driver, f"#chart-{chart} .panel h3") == ["evit", "topk", "tome", "atc", "ats", "dpcknn"]
    names = texts(driver, "#chart-accuracy .names text")
    assert {"dense", "evit 0.9"} <= set(names) and len(names) == len(set(names)) >= 6
    boxes = js(
        driver,
        "return [...document.querySelectorAll('#chart-accuracy .names text')].map(e => e.getBBox())"
        ".map(b => [b.x, b.y, b.x + b.width, b.y + b.height])",
    )
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] + 3 or b[3] <= a[1] + 3, "no name on another"


def test_hiding_a_method_takes_it_from_the_charts(driver: Any, shown: Any) -> None:
    shown()
    count = "return document.querySelectorAll('#chart-differences svg .mark-symbol path').length"
    assert js(driver, count) == 6
    before = js(driver, "return document.documentElement.dataset.drawn")
    driver.find_elements("css selector", "#legend button")[1].send_keys(" ")
    drawn(driver, before)
    assert js(driver, count) == 3


def test_a_hover_tells_setting_numbers_and_interval(driver: Any, shown: Any) -> None:
    from selenium.webdriver import ActionChains

    shown()
    points = driver.find_elements("css selector", "#chart-accuracy svg .mark-symbol path")
    js(driver, "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", points[-1])
    ActionChains(driver).move_to_element(points[-1]).perform()
    time.sleep(0.3)
    told = driver.find_element("id", "vg-tooltip-element").text
    assert "topk[keep_rate=0.9]" in told and "69.0 [67.0, 71.0]" in told and "too few images to say" in told


def test_rows_are_filtered_sorted_and_paged(driver: Any, shown: Any) -> None:
    shown([*sweep(), row("tome", "tome[r=13]", status="failed", reason="RuntimeError: broken", gmacs=None)])
    first = "#table tbody td:first-child"
    assert len(texts(driver, first)) == 15 and "15 of 15 rows" in driver.find_element("id", "found").text
    find = driver.find_element("name", "text")
    find.send_keys("topk")
    assert set(texts(driver, first)) == {f"topk[keep_rate={rate}]" for rate in (0.5, 0.7, 0.9)}
    find.clear()
    find.send_keys("broken")
    assert texts(driver, first) == ["tome[r=13]"]
    find.clear()
    find.send_keys(" ")
    header = next(b for b in driver.find_elements("css selector", "#table th button") if b.text == "GMAC")
    header.send_keys("\ue007")
    assert texts(driver, first)[0] == "dense" and texts(driver, first)[-1] == "tome[r=13]"
    driver.switch_to.active_element.send_keys("\ue007")
    assert texts(driver, first)[0].endswith("[keep_rate=0.5]") and texts(driver, first)[-2:] == ["dense", "tome[r=13]"]
    assert js(driver, "return document.querySelector('#table th[aria-sort]').getAttribute('aria-sort')") == "ascending"
    assert "RuntimeError: broken" in driver.find_element("id", "reasons").text


def test_dark_light_and_print(driver: Any, shown: Any) -> None:
    def ink(of: str = "body") -> str:
        return str(js(driver, "return getComputedStyle(document.querySelector(arguments[0])).color", of))

    def media(kind: str, scheme: str) -> None:
        wanted = {"media": kind, "features": [{"name": "prefers-color-scheme", "value": scheme}]}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", wanted)

    fill = (
        "return getComputedStyle([...document.querySelectorAll('#chart-accuracy svg .mark-symbol path')].at(-1)).fill"
    )
    try:
        media("screen", "light")
        shown()
        light, colour = ink(), js(driver, fill)
        media("screen", "dark")
        dark = ink()
        assert dark != light and js(driver, fill) != colour
        click(driver, "#theme")
        assert ink() == light
        click(driver, "#theme")
        assert ink() == dark
        media("print", "dark")
        assert ink() == light and js(driver, fill) == colour
        assert not driver.find_element("id", "filters").is_displayed()
        media("", "light")
        assert len(driver.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.3})["data"]) > 50_000
    finally:
        media("", "light")


def test_a_phone_scrolls_only_downwards(driver: Any, shown: Any) -> None:
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    try:
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        shown([*sweep(), row("plugin", "plugin[" + "a_long_knob=0.123456789," * 9 + "]", backbone="vit_ti")])
        assert js(driver, "return document.documentElement.scrollWidth") == 390
        wide = js(
            driver, "return [...document.querySelectorAll('.plot svg')].map(e => e.getBoundingClientRect().right)"
        )
        assert max(wide) <= 390
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_nothing_from_a_row_runs(driver: Any, shown: Any) -> None:
    driver.get_log("browser")
    evil = {"backbone": EVIL, "dataset": EVIL, "hardware": EVIL, "env": {"torch": EVIL, "cpu": EVIL}}
    evil |= {"weights": {"kind": "file", "name": EVIL, "hash": EVIL}, "runs": 3, "tokens_mean": [1.0, 2.0]}
    made = [row(**evil), row(EVIL, EVIL, reason=EVIL, setting={EVIL: 0.5}, diff_dense=-1.0, **evil)]
    shown([*made, row(EVIL, "{{ 7 * 7 }}", status="failed", reason=EVIL, **evil)])
    for summary in driver.find_elements("css selector", "summary"):
        if summary.is_displayed():
            js(driver, "arguments[0].click()", summary)
    assert js(driver, "return [window.hit, document.images.length, document.scripts.length]") == [None, 0, 3]
    assert EVIL in driver.find_element("id", "reasons").text and "{{ 7 * 7 }}" in texts(driver, "#table tbody td")
    assert EVIL in driver.title and driver.get_log("browser") == []


def test_a_fragment_of_maps_runs_and_a_missing_accuracy_is_said(driver: Any, shown: Any) -> None:
    bare = {"top1": None, "images": None, "weights": {"kind": "random", "name": "random"}, "dataset": None}
    why = "random weights, so no accuracy"
    rows = [row(reason=why, **bare), row("evit", reason=why, **bare)]
    shown(rows, "<p id='mine'></p><script>document.getElementById('mine').textContent = 'ran';</script>")
    assert driver.find_element("id", "mine").text == "ran"
    assert driver.find_element("id", "headline").text == "vit_x: no accuracy was measured here"
    assert not driver.find_element("id", "budget").is_displayed()
    assert why in driver.find_element("id", "lead").text
    assert "Not measured under these conditions" in driver.find_element("css selector", "#chart-accuracy .plot").text
    assert driver.find_element("css selector", ".badge").text == "random weights"


@pytest.mark.slow
def test_ten_thousand_rows_are_there_before_any_chart_and_a_window_at_a_time(driver: Any, tmp_path: Path) -> None:
    base = sweep()
    made = []
    for i in range(10_000):
        one = base[i % 14]
        changed = {"seed": i // 500, "label": f"{one.label}#{i % 500}", "gmacs": one.gmacs + i % 500 / 1000}
        made.append(one.model_copy(update=changed))
    page = html.write(made, tmp_path)
    assert page.stat().st_size < 4_000_000
    look = """addEventListener("DOMContentLoaded", () => {
        const count = (css) => document.querySelectorAll(css).length;
        window.first = [count("#table tbody tr"), count(".plot svg"), document.getElementById("headline").textContent];
    })"""
    added = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": look})
    try:
        driver.get(page.as_uri())
    finally:
        driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
    lines, charts, headline = js(driver, "return window.first")
    assert (lines, charts) == (50, 0) and headline, "what is read first waits for no drawing"
    assert driver.get_log("browser") == [] and "10,000" in driver.find_element("id", "found").text
    click(driver, "#pages button:last-child")
    assert "51 to 100" in driver.find_element("id", "found").text
    assert len(texts(driver, "#table tbody tr")) == 50
    drawn(driver)
    assert js(driver, "return document.querySelectorAll('*').length") < 20_000, "two elements a row at most"
