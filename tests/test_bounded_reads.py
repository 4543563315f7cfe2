"""A file that is read as a whole has a size limit on every file system; tests/s3 shows it for S3."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sdbatch.errors import StorageError
from sdbatch.storage.store import Store


class WebServer(ThreadingHTTPServer):
    """A server that ignores ranges; the body of `/endless` does not end."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {"/a": bytes(1 << 20), "/empty": b"", "/endless": bytes(1 << 16)}
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        content = self.server.files.get(self.path)
        self.send_response(404 if content is None else 200)
        if self.path != "/endless":
            self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        with suppress(OSError):  # the client ends the connection
            while self.command == "GET":
                self.wfile.write(content or b"")
                if self.path != "/endless":
                    break

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web_server() -> Iterator[WebServer]:
    server = WebServer()
    threading.Thread(target=server.serve_forever).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_file_in_memory_that_is_too_large_is_refused() -> None:
    store = Store("memory://bounded")
    store.write("marker", b"12345")
    assert store.read("marker", 5) == b"12345" == store.read_if_there("marker", 5)
    with pytest.raises(StorageError, match=r"cannot read memory://bounded/marker: it has 5 bytes, more than .* of 4"):
        store.read("marker", 4)


def test_an_answer_without_end_is_not_read_to_its_end(web_server: WebServer) -> None:
    with pytest.raises(StorageError, match="it is larger than the maximum of 1,000 bytes"):
        Store(f"{web_server.url}/endless").read("", 1000)


def test_a_file_of_a_web_server_is_read_with_one_request(web_server: WebServer) -> None:
    assert Store(f"{web_server.url}/a").read("", 1 << 20) == bytes(1 << 20)
    assert Store(f"{web_server.url}/empty").read("") == b""
    assert web_server.requests == ["GET /a", "GET /empty"]
    with pytest.raises(StorageError, match="there is no such file"):
        Store(f"{web_server.url}/missing").read("")
