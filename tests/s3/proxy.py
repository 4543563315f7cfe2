"""A proxy between a client and an S3 server that misbehaves on purpose."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["NO_FAULTS", "Faults", "FaultyProxy", "faulty_proxy"]

ERRORS = {
    500: b"<Error><Code>InternalError</Code><Message>injected</Message></Error>",
    503: b"<Error><Code>SlowDown</Code><Message>injected</Message></Error>",
    429: b"<Error><Code>TooManyRequests</Code><Message>injected</Message></Error>",
}


@dataclass(frozen=True)
class Faults:
    """Which part of all requests meets which fate."""

    error: float = 0.05
    cut_before: float = 0.02
    cut_within: float = 0.02
    slow: float = 0.05
    slow_s: float = 0.5

    def draw(self, chance: random.Random) -> str:
        names = ("error", "cut_before", "cut_within", "slow")
        weights = [getattr(self, name) for name in names]
        return chance.choices([*names, "none"], [*weights, 1 - sum(weights)])[0]


class FaultyProxy(ThreadingHTTPServer):
    """Listens on a port of its own, forwards to the one of `backend`, and keeps account of requests and fates."""

    daemon_threads = True

    def __init__(self, backend: int, faults: Faults, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.backend, self.faults, self.chance = backend, faults, random.Random(seed)
        self.fates: Counter[str] = Counter()
        self.requests: list[str] = []
        self.under_way: Counter[str] = Counter()
        self.most_at_once: Counter[str] = Counter()  # requests under way by method
        self._lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @contextmanager
    def counted(self, method: str, path: str) -> Iterator[None]:
        with self._lock:
            self.requests.append(f"{method} {path}")
            self.under_way[method] += 1
            self.most_at_once |= self.under_way
        try:
            yield
        finally:
            with self._lock:
                self.under_way[method] -= 1

    def draw(self) -> str:
        with self._lock:
            fate = self.faults.draw(self.chance)
            self.fates[fate] += 1
            return fate


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.server.counted(self.command, self.path):
            self._forward(body)

    def _forward(self, body: bytes) -> None:
        fate = self.server.draw()
        if fate == "error":
            status = self.server.chance.choice(list(ERRORS))
            self._answer(status, [("Content-Type", "application/xml")], ERRORS[status])
            return
        if fate == "cut_before":
            self.close_connection = True
            return
        if fate == "slow":
            time.sleep(self.server.faults.slow_s)
        connection = http.client.HTTPConnection("127.0.0.1", self.server.backend, timeout=60)
        # The signature covers the Host header, so the request is forwarded unchanged.
        connection.request(self.command, self.path, body, dict(self.headers.items()))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        headers = [(k, v) for k, v in answer.getheaders() if k.lower() not in ("connection", "transfer-encoding")]
        self._answer(answer.status, headers, content, cut=fate == "cut_within")

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = cut

    def log_message(self, *_: object) -> None:
        """Keeps quiet."""


NO_FAULTS = Faults(0, 0, 0, 0)


@contextmanager
def faulty_proxy(backend: int, faults: Faults | None = None, seed: int = 0) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(backend, faults or Faults(), seed)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
