"""The page loads only pictures of its own dataset, and shows texts only as text."""

from __future__ import annotations

from datetime import datetime

import pytest

from tests.gallery.outputs import write_output
from tests.gallery.small import ROWS, page_url


@pytest.mark.parametrize("layout", ["files", "parquet", "webdataset"])
def test_pictures_are_decoded_from_every_layout_and_nothing_else_is_asked_for(browser, tmp_path, layout):
    out = write_output(tmp_path / "out", ROWS, layout=layout, shard_size=4)
    browser.open(page_url(out))
    assert browser.pictures() == [64] * 4
    requests = browser.requests()
    assert len(requests) > 10  # page, style, icon, scripts, data, pictures
    assert all(request.startswith(out.as_uri()) for request in requests)
    assert browser.complaints() == []


def test_it_works_behind_a_web_server_and_asks_no_other(browser, served):
    browser.open(served)
    assert browser.pictures() == [64] * 4
    host = served.removesuffix("/my%20dataset/gallery/index.html")
    assert all(request.startswith(host) for request in browser.requests())
    assert browser.complaints() == []


HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "\"'`${window.hacked = 1}\\u003cb\\u003e",
    "<!--<script>",
    "line\u2028separators\u2029and \x00\x07 controls \r\n\t",
    "\u202eright to left\u202c שלום مرحبا",
    "👩‍👩‍👧‍👦 🙂 漢字 \U0010ffff",
    "javascript:window.hacked=1",
    "__proto__",
    "x" * 20_000,
]


def test_texts_are_texts_wherever_they_come_from(browser, tmp_path):
    names = ["__proto__", "constructor", "<b onclick='window.hacked=1'>", "a\u2028b", "</script>", "7"]
    rows = [
        {"prompt": text, **dict.fromkeys(names, text)} | ({"error": text} if index % 2 else {})
        for index, text in enumerate(HOSTILE)
    ]
    out = write_output(tmp_path / "<b>&lt;#1?", rows, model="<script>window.hacked=1</script>")
    browser.open(page_url(out))
    assert browser.shown() == HOSTILE
    assert browser.text("#title") == "<b>&lt;#1?"
    for position in range(len(HOSTILE)):
        browser.run("openAt(arguments[0])", position)
        browser.wait_for_text("#viewer-prompt", HOSTILE[position])
    facts = browser.run("return [...document.querySelectorAll('#viewer-facts dt')].map((name) => name.textContent)")
    assert {name.replace("_", " ") for name in names} <= set(facts)
    browser.run("$('viewer').close()")
    assert browser.run("return [window.hacked, Object.prototype.hacked]") == [None, None]
    assert (
        browser.run("return document.querySelectorAll('b, [onclick], [onerror], body script:not([src])').length") == 0
    )
    assert browser.complaints() == []
    assert all(request.startswith("file://") for request in browser.requests())


def test_the_policy_lets_nothing_in(browser, url):
    browser.open(url)
    browser.run(
        """const script = document.createElement('script');
           script.textContent = 'window.hacked = 1';
           document.body.append(script);
           const picture = new Image();
           picture.src = 'http://127.0.0.1:9/picture.png';
           document.body.append(picture);"""
    )
    assert browser.run("return window.hacked") is None
    refused = " ".join(browser.complaints())
    assert "script-src 'self'" in refused
    assert "img-src 'self'" in refused


def test_values_of_any_type_are_shown(browser, tmp_path):
    row = {
        "prompt": "types",
        "big": 2**63 - 1,
        "real": 0.1 + 0.2,
        "nan": float("nan"),
        "infinite": float("-inf"),
        "when": datetime(2022, 8, 20, 4, 27),
        "blob": b"\x00\xff",
        "list": ["a", "<b>"],
        "struct": {"x": 1.5, "y": None},
        "truth": True,
        "nothing": None,
    }
    browser.open(page_url(write_output(tmp_path / "out", [row])))
    browser.run("openAt(0)")
    facts = browser.run(
        "return Object.fromEntries([...document.querySelectorAll('#viewer-facts > div')]"
        ".map((row) => [row.firstChild.textContent, row.lastChild.textContent]))"
    )
    expected = {
        "big": "9223372036854775807",
        "real": "0.3",
        "nan": "NaN",
        "infinite": "-Infinity",
        "when": "2022-08-20 04:27:00",
        "blob": "2 bytes",
        "list": '["a", "<b>"]',
        "struct": '{"x": 1.5, "y": null}',
        "truth": "true",
        "nothing": "–",
    }
    assert {name: facts[name] for name in expected} == expected
    browser.run("$('viewer').close()")
