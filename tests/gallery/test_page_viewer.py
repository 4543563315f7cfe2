"""One picture, large: its metadata, its parameters on the clipboard, and the way there by keyboard."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.keys import Keys

from tests.gallery.small import PROMPTS


def test_the_viewer_shows_a_picture_with_all_its_metadata(browser, url, out):
    browser.open(url)
    browser.click("#grid li[data-position='1'] .tile")
    browser.until("return $('viewer').open && $('viewer-picture').style.width")
    width = browser.run("return $('viewer-picture').getBoundingClientRect().width")
    assert width >= 256
    assert width % 64 == 0  # whole pixels
    browser.wait_for_text("#viewer-prompt", "a blue square, café")
    browser.wait_for_text("#viewer-place", "2 of 6")
    facts = browser.run(
        "return Object.fromEntries([...document.querySelectorAll('#viewer-facts > div')]"
        ".map((row) => [row.firstChild.textContent, row.lastChild.textContent]))"
    )
    assert facts["seed"] == str(2**62)
    assert facts["category"] == "Shapes"
    assert facts["guidance scale"] == "7.5"
    assert facts["prompt truncated"] == "false"
    assert facts["key"] == "000000001"
    assert browser.run("return $('viewer-file').href") == (out / "00000" / "000000001.png").as_uri()
    browser.click("#next")
    browser.wait_for_text("#viewer-prompt", PROMPTS[2])
    browser.click("#close")
    browser.wait_for_focus(PROMPTS[2])


def test_the_viewer_tells_why_there_is_no_picture(browser, url):
    browser.open(url)
    browser.click("#grid li[data-position='3'] .tile")
    browser.wait_for_text("#viewer-reason", "No pictureunknown sampler 'nope'")
    assert browser.run("return [$('viewer-picture').hidden, $('copy-parameters').hidden, $('viewer-file').hidden]") == [
        True,
        True,
        True,
    ]


def test_a_picture_has_an_address_of_its_own(browser, url):
    browser.open(url)
    browser.click("#grid li[data-position='4'] .tile")
    address = browser.driver.current_url
    assert address == f"{url}#000000004"
    browser.open(address)
    browser.until("return $('viewer').open")
    browser.wait_for_text("#viewer-prompt", "a cat")


@pytest.mark.parametrize("clipboard", ["modern", "none"])
def test_copying_the_parameters(browser, served, clipboard):
    browser.open(served)
    origin = browser.run("return location.origin")
    permissions = {"origin": origin, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    browser.driver.execute_cdp_cmd("Browser.grantPermissions", permissions)
    browser.run("window.board = navigator.clipboard")
    if clipboard == "none":  # as on pages served without TLS
        browser.run("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    browser.click("#grid li[data-position='4'] .tile")
    browser.click("#copy-parameters")
    browser.until("return $('copy-parameters').textContent === 'Copied'")
    copied = browser.driver.execute_async_script("window.board.readText().then(arguments[0])")
    lines = copied.splitlines()
    assert lines[:2] == ["a cat", "Negative prompt: dog"]
    assert lines[2].startswith("Steps: 100, Sampler: DDIM, CFG scale: 7.5, Seed: 7, Size: 64x64")
    browser.wait_for_text("#copied", "parameters copied")
    browser.click("#copy-prompt")
    browser.until("return $('copy-prompt').textContent === 'Copied'")
    assert browser.driver.execute_async_script("window.board.readText().then(arguments[0])") == "a cat"


def test_the_keyboard_reaches_everything(browser, url):
    browser.open(url, width=700)  # two or three tiles a line
    browser.press("/")
    assert browser.focused() == "search"
    browser.press("cat")
    browser.settle()
    assert browser.shown() == ["a cat"]
    browser.press(Keys.ESCAPE)
    browser.settle()
    assert browser.shown() == PROMPTS
    assert browser.focused() == PROMPTS[0]
    per_line = browser.run("return grid.perLine")
    for key, position in [
        (Keys.ARROW_RIGHT, 1),
        (Keys.ARROW_DOWN, 1 + per_line),
        (Keys.ARROW_LEFT, per_line),
        (Keys.ARROW_UP, 0),
        (Keys.ARROW_UP, 0),
        (Keys.END, 5),
        (Keys.ARROW_RIGHT, 5),
        (Keys.HOME, 0),
    ]:
        browser.press(key)
        assert browser.focused() == PROMPTS[position]
    for shown in ("block", "none"):  # in so narrow a window they start hidden
        browser.press("f")
        assert browser.run("return getComputedStyle($('filters')).display") == shown
    assert browser.focused() == "filters-toggle"
    browser.run("grid.focus(0)")
    style = browser.run("const s = getComputedStyle(document.activeElement); return [s.outlineStyle, s.outlineWidth]")
    assert style == ["solid", "2px"]
    browser.press(Keys.ENTER)
    browser.until("return $('viewer').open")
    browser.press(Keys.ARROW_RIGHT)
    browser.wait_for_text("#viewer-place", "2 of 6")
    browser.press(Keys.ARROW_LEFT)
    browser.press(Keys.ARROW_LEFT)
    browser.wait_for_text("#viewer-place", "1 of 6")
    browser.press(Keys.ESCAPE)
    browser.wait_for_focus(PROMPTS[0])
    assert browser.run("return document.querySelectorAll('#grid [tabindex=\"0\"]').length") == 1
