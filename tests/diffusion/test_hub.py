"""A model on the hub: fetched once from a stand-in of the hub, then from the cache without a network."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROGRAM = """
import sys
from sdbatch.diffusion import inspect_model
from sdbatch.errors import ModelError
try:
    info = inspect_model(sys.argv[1], revision=sys.argv[2] or None)
    print("found", info.name, info.family, info.variant)
except ModelError as error:
    print("refused", error)
"""


class Hub(ThreadingHTTPServer):
    """What huggingface_hub needs of the hub: a model's list of files, and the files."""

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.fetched: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/models/org/model"):
            revision = path.partition("/revision/")[2] or path.partition("/tree/")[2] or "main"
            if revision not in ("main", COMMIT):
                return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            names = [p.relative_to(self.server.folder).as_posix() for p in self.server.folder.rglob("*.*")]
            if "/tree/" in path:
                sizes = {name: (self.server.folder / name).stat().st_size for name in names}
                listing = [{"type": "file", "path": name, "size": sizes[name], "oid": "0"} for name in names]
            else:
                listing = {"id": "org/model", "sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}
            return self.answer(200, json.dumps(listing).encode(), {"Content-Type": "application/json"})
        file = self.server.folder / path.partition(f"/resolve/{COMMIT}/")[2]
        if path.startswith("/org/model/resolve/") and file.is_file():
            if self.command == "GET":
                self.server.fetched.append(file.relative_to(self.server.folder).as_posix())
            content = file.read_bytes()
            tag = hashlib.sha256(content).hexdigest()
            return self.answer(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})
        return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments):
        """Omit the access log from the tests' output."""


@pytest.fixture
def hub(sd):
    server = Hub(sd)
    yield server
    server.shutdown()


def ask(home: Path, endpoint: str, model: str, revision: str = "", **environment: str) -> str:
    environment = os.environ | {"HF_HOME": str(home), "HF_ENDPOINT": endpoint} | environment
    command = [sys.executable, "-c", PROGRAM, model, revision]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return answer.stdout.strip()


def test_a_model_is_fetched_once_and_then_found_offline(hub, tmp_path):
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    assert ask(tmp_path, endpoint, "org/model") == "found org/model sd None"
    weights = sorted(name for name in hub.fetched if name.endswith(".safetensors"))
    assert weights == [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    hub.fetched.clear()
    assert ask(tmp_path, endpoint, "org/model", COMMIT) == "found org/model sd None"
    assert hub.fetched == []
    assert ask(tmp_path, endpoint, "org/model", HF_HUB_OFFLINE="1") == "found org/model sd None"


def test_what_the_hub_does_not_have_is_told(hub, tmp_path):
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    missing = ask(tmp_path, endpoint, "org/other")
    assert missing.startswith("refused model 'org/other': no such folder, and as a hub id:")
    assert ask(tmp_path, endpoint, "org/model", "nowhere").startswith("refused model 'org/model'")
    offline = ask(tmp_path, endpoint, "org/other", HF_HUB_OFFLINE="1")
    assert "can't be reached" in offline
