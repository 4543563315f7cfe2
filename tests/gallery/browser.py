"""A gallery page in a real, headless Chromium, with the actions that the tests use."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

__all__ = ["Browser"]

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

FOCUSED = "(document.activeElement.querySelector('.caption')?.textContent ?? document.activeElement.id)"


class Browser:
    """One Chromium with one page. Every `open` starts from light colours, a desktop window and empty logs."""

    def __init__(self, profile: Path) -> None:
        chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
        if not (chromium and driver):
            pytest.fail("the gallery is tested in Chromium: apt-get install -y chromium chromium-driver")
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(driver))

    def quit(self) -> None:
        self.driver.quit()

    def open(self, url: str, *, width: int = 1280, height: int = 900, theme: str = "light") -> None:
        """Open a gallery and wait until all its rows are there."""
        self.driver.get("about:blank")
        self.window(width, height)
        self.prefer(theme)
        self.requests()
        self.complaints()
        self.driver.get(url)
        self.until("return document.querySelectorAll('#sort option').length > 1")

    def window(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, theme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def requests(self) -> list[str]:
        """The addresses requested since the last call: page, scripts and pictures."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event for event in events if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def complaints(self) -> list[str]:
        """What the browser has said on its console since the last call: errors, refused scripts."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, script: str, *arguments: Any) -> None:
        """Wait until the script returns something true."""
        WebDriverWait(self.driver, 15, poll_frequency=0.02).until(
            lambda _: self.run(script, *arguments), message=script
        )

    def click(self, selector: str) -> None:
        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def press(self, *keys: str) -> None:
        """Press keys wherever the focus is."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def type(self, selector: str, text: str) -> None:
        """Replace the text of a field, as typing does."""
        field = self.driver.find_element(By.CSS_SELECTOR, selector)
        self.run("arguments[0].value = ''", field)
        if text:
            field.send_keys(text)
        else:
            self.run("arguments[0].dispatchEvent(new Event('input', {bubbles: true}))", field)
        self.settle()

    def choose(self, facet: str, value: str) -> None:
        """Tick (or untick) a value of a filter."""
        found = self.run(
            """for (const label of document.querySelectorAll('.facet label')) {
                 const facet = label.closest('.facet');
                 if (facet.querySelector('summary').textContent !== arguments[0]) continue;
                 if (label.querySelector('.value').textContent !== arguments[1]) continue;
                 facet.open = true;
                 label.click();
                 return true;
               }""",
            facet,
            value,
        )
        assert found, f"no choice {value!r} in the filter {facet!r}"
        self.settle()

    def settle(self) -> None:
        """Wait for two frames: the page redraws once a frame."""
        self.driver.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()));"
        )

    def text(self, selector: str) -> str:
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def wait_for_text(self, selector: str, text: str) -> None:
        """Wait until an element has this text: on a busy machine a click takes effect after it returns."""
        self.until("return document.querySelector(arguments[0]).textContent === arguments[1]", selector, text)

    def shown(self) -> list[str]:
        """The captions in the document, in the order shown."""
        return self.run(
            """return [...document.querySelectorAll('#grid li')]
                 .sort((a, b) => a.dataset.position - b.dataset.position)
                 .map((tile) => tile.querySelector('.caption').textContent)"""
        )

    def pictures(self) -> list[int]:
        """The widths of the pictures in the grid, once all are decoded."""
        pictures = "[...document.querySelectorAll('#grid img')]"
        self.until(f"return {pictures}.length && {pictures}.every((picture) => picture.complete)")
        return self.run(f"return {pictures}.map((picture) => picture.naturalWidth)")

    def focused(self) -> str:
        """The id of the element with the focus, or the caption of the tile with the focus."""
        return self.run(f"return {FOCUSED}")

    def wait_for_focus(self, expected: str) -> None:
        """Wait until `focused()` is this: a dialog tells the page that it has closed later than it closes."""
        self.until(f"return {FOCUSED} === arguments[0]", expected)

    def save_screenshot(self, path: str) -> None:
        self.driver.save_screenshot(path)
