"""The page in dark and light, on a phone, and with ten thousand pictures."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.keys import Keys

from sdbatch.gallery import write_gallery
from tests.gallery.outputs import write_output
from tests.gallery.small import PROMPTS, page_url


def test_dark_and_light(browser, url):
    ground = "return getComputedStyle(document.body).backgroundColor"
    browser.open(url, theme="light")
    light = browser.run(ground)
    browser.prefer("dark")
    dark = browser.run(ground)
    assert light != dark
    browser.click("#theme")
    assert browser.run(ground) == light
    browser.open(url, theme="dark")
    assert browser.run(ground) == light  # the choice is remembered
    browser.click("#theme")
    assert browser.run(ground) == dark
    browser.run("localStorage.clear()")


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_never_scrolls_sideways(browser, url, width):
    sideways = "return Math.max(document.documentElement.scrollWidth, $('viewer').scrollWidth) - innerWidth"
    browser.open(url, width=width, height=780)
    assert browser.run(sideways) <= 0
    assert browser.run("return grid.perLine") == 2 or width == 320
    browser.click("#filters-toggle")
    assert browser.run("return $('filters').getBoundingClientRect().width") == width
    assert browser.run(sideways) <= 0
    browser.choose("status", "ok")
    browser.press(Keys.ESCAPE)
    assert browser.run("return getComputedStyle($('filters')).display") == "none"
    assert browser.text("#count") == "4 of 6"
    browser.click("#grid li[data-position='0'] .tile")
    browser.until("return $('viewer').open && $('viewer-picture').naturalWidth === 64")
    assert browser.run(sideways) <= 0
    browser.click("#close")


def test_ten_thousand_pictures_scroll_with_few_elements(browser, tmp_path):
    samplers = ["ddim", "euler", "heun"]
    rows = [
        {
            "prompt": f"picture number {n}",
            "user": f"user {n % 977}",
            "sampler": samplers[n % 3],
            "seed": n * 7919,
        }
        for n in range(10_000)
    ]
    browser.open(page_url(write_output(tmp_path / "out", rows, shard_size=2500)))
    assert browser.text("#count") == "10,000 rows"
    most, end = browser.driver.execute_async_script(
        """const done = arguments[0];
           let most = 0, frames = 0;
           function frame() {
             most = Math.max(most, document.getElementsByTagName('*').length);
             scrollBy(0, 3000);
             if (++frames < 60) requestAnimationFrame(frame);
             else done([most, scrollY]);
           }
           requestAnimationFrame(frame);"""
    )
    assert end > 100_000
    assert most < 1500
    browser.run("grid.focus(0)")
    browser.press(Keys.END)
    assert browser.focused() == "picture number 9999"
    assert browser.pictures()[-1] == 64
    browser.run("$('search').value = '\"number 12\"'; update()")
    assert browser.text("#count") == "111 of 10,000"


def test_the_page_says_when_it_shows_only_the_first_rows(browser, out):
    browser.open(page_url(out, limit=3))
    assert browser.text("#subtitle").endswith("only the first 3 rows are shown")
    assert browser.shown() == PROMPTS[:3]
    write_gallery(str(out))
