"""One Chromium, and one small dataset with its gallery, for all tests of the page."""

from __future__ import annotations

import functools
import http.server
import threading

import pytest

from tests.gallery.browser import Browser
from tests.gallery.outputs import write_output
from tests.gallery.small import ROWS, page_url


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.quit()


@pytest.fixture(scope="session")
def out(tmp_path_factory):
    return write_output(tmp_path_factory.mktemp("dataset") / "my dataset", ROWS)


@pytest.fixture(scope="session")
def url(out):
    return page_url(out)


@pytest.fixture(scope="session")
def served(out, url):
    """The same gallery behind a plain web server."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=out.parent))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/my%20dataset/gallery/index.html"
    server.shutdown()
