"""Finding pictures on the page: search, filters, sorting."""

from __future__ import annotations

from tests.gallery.outputs import write_output
from tests.gallery.small import PROMPTS, page_url


def test_the_head_says_what_the_dataset_is(browser, url):
    browser.open(url)
    assert browser.driver.title == "my dataset · gallery"
    assert browser.text("#title") == "my dataset"
    assert browser.text("#subtitle") == "4 pictures · 2 failed · model tiny"
    assert browser.text("#count") == "6 rows"
    assert browser.shown() == PROMPTS


def test_search(browser, url):
    browser.open(url)
    for query, found in [
        ("red", [0, 2]),
        ("RED square", [2]),
        ('"red square"', [2]),
        ("square -red", [1]),
        ("cafe", [1]),
        ("CAFÉ", [1]),
        ("-a", [5]),
        ("elephant", []),
        ("", [0, 1, 2, 3, 4, 5]),
    ]:
        browser.type("#search", query)
        assert browser.shown() == [PROMPTS[row] for row in found]
        assert browser.text("#count") == (f"{len(found)} of 6" if query else "6 rows")
        assert browser.run("return $('nothing').hidden") == bool(found)


def test_filters_narrow_each_other_and_show_what_each_choice_would_give(browser, url):
    browser.open(url)
    browser.choose("status", "ok")
    browser.choose("sampler", "ddim")
    assert browser.shown() == ["a red circle", "a cat"]
    assert browser.text("#filters-count") == "2"
    counts = browser.run(
        "return [...document.querySelectorAll('.facet')].find((f) => f.firstChild.textContent === 'sampler')"
        ".innerText.split(/\\s+/).slice(1)"
    )
    assert counts == ["ddim", "2", "euler", "2", "nope", "0"]
    browser.choose("sampler", "euler")
    assert len(browser.shown()) == 4
    browser.click("#filters-clear")
    assert browser.shown() == PROMPTS


def test_failed_rows_say_why_and_can_be_found_by_their_reason(browser, url):
    browser.open(url)
    browser.choose("error", "unknown sampler 'nope'")
    assert browser.shown() == ["a green dog"]
    assert browser.text("#grid .reason") == "No pictureunknown sampler 'nope'"
    assert browser.run("return document.querySelectorAll('#grid img').length") == 0


def test_input_columns_and_missing_values_can_be_filtered(browser, url):
    browser.open(url)
    browser.choose("category", "Animals")
    browser.choose("category", "(none)")
    assert browser.shown() == ["a green dog", "a cat", "(no prompt)"]


def test_ranges_are_exact_beyond_what_numbers_hold(browser, url):
    browser.open(url)
    browser.run("document.querySelectorAll('.facet').forEach((facet) => { facet.open = true; })")
    browser.type("[aria-label='seed, from']", str(2**62 + 1))
    assert browser.shown() == ["a red circle"]
    browser.type("[aria-label='seed, from']", "7")
    browser.type("[aria-label='seed, to']", "9.5")
    assert browser.shown() == [PROMPTS[2], "a cat"]


def test_columns_of_many_values_are_filtered_by_text(browser, tmp_path):
    rows = [{"prompt": f"p{n}", "file": f"photo-{n}.jpg"} for n in range(40)]
    browser.open(page_url(write_output(tmp_path / "out", rows)))
    browser.run("document.querySelectorAll('.facet').forEach((facet) => { facet.open = true; })")
    browser.type("[aria-label='file']", "photo-17")
    assert browser.shown() == ["p17"]


def test_sort(browser, url):
    browser.open(url)
    assert browser.shown() == PROMPTS
    for column, order, reversed_order in [
        ("seed", [3, 4, 2, 5, 1, 0], [0, 1, 5, 2, 4, 3]),
        ("steps", [0, 5, 1, 3, 2, 4], [4, 2, 1, 3, 0, 5]),
        ("category", [3, 4, 2, 0, 1, 5], [0, 1, 2, 3, 4, 5]),  # rows without a value stay last
        ("", [0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]),
    ]:
        browser.run("$('sort').value = arguments[0]; $('sort').dispatchEvent(new Event('change'))", column)
        assert browser.shown() == [PROMPTS[row] for row in order]
        browser.click("#direction")
        browser.until("return $('direction').getAttribute('aria-pressed') === 'true'")
        assert browser.shown() == [PROMPTS[row] for row in reversed_order]
        browser.click("#direction")
