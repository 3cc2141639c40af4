"""The picture of the README: an index.html of `tokenbench report` as a PNG, by headless Chromium.

python scripts/screenshot.py reports/index.html docs/report.png [--width 1100] [--height 1000] [--dark] [--whole]
"""

import argparse
import sys
import tempfile
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

FLAGS = "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
MORE = "--disable-component-update --disable-sync --hide-scrollbars"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--width", type=int, default=1100)
    parser.add_argument("--height", type=int, default=1000)
    parser.add_argument("--scale", type=float, default=2.0)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--whole", action="store_true", help="The whole page, however long.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for flag in [*FLAGS.split(), *MORE.split(), f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
        try:
            shoot(driver, given)
        finally:
            driver.quit()


def shoot(driver: webdriver.Chrome, given: argparse.Namespace) -> None:
    size = {"width": given.width, "height": given.height, "deviceScaleFactor": given.scale, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if given.dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    driver.get(given.page.resolve().as_uri())
    WebDriverWait(driver, 30).until(lambda d: d.find_elements(By.CSS_SELECTOR, "html[data-drawn]"))
    if given.whole:
        size["height"] = driver.execute_script("return document.documentElement.scrollHeight")
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.save_screenshot(str(given.output))
    for entry in driver.get_log("browser"):
        print(entry["level"], entry["message"], file=sys.stderr)


if __name__ == "__main__":
    main()
