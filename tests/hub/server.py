"""A stand-in of the Hugging Face hub: repositories in memory, with the requests that huggingface_hub sends."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_stand_in"
KINDS = {"models": "", "datasets": "datasets/"}
API = re.compile(r"/api/(models|datasets)/([\w.-]+/[\w.-]+)(?:/([\w-]+)(?:/([^/]+)(?:/(.*))?)?)?")
RESOLVE = re.compile(r"/(datasets/)?([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.*)")
LFS = re.compile(r"/(datasets/)?([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch")


@dataclass
class Repository:
    """The commits of one branch, oldest first: each a commit's hash and the files that it has."""

    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    def commit(self, files: dict[str, bytes]) -> str:
        listed = sorted((name, hashlib.sha1(content).hexdigest()) for name, content in files.items())
        parent = self.commits[-1][0] if self.commits else ""
        oid = hashlib.sha1(json.dumps([parent, listed]).encode()).hexdigest()
        self.commits.append((oid, files))
        return oid

    @property
    def head(self) -> str:
        return self.commits[-1][0]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][1]

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit[0] == revision), None)


class Hub(ThreadingHTTPServer):
    """Serves repositories, named like `datasets/org/name` or `org/name`.

    Attributes:
        commits_left: commits that are still allowed; further ones are answered with 429. None: any number.
        fetched: the files that were downloaded.
        requests: counts of requests, by their kind.
        large: the end of names that are uploaded as LFS files; others travel in the commit itself.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.fetched: list[str] = []
        self.requests: Counter[str] = Counter()
        self.commits_left: int | None = None
        self.large: tuple[str, ...] = ()
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def options(self) -> str:
        """`--storage-options` for this hub."""
        return json.dumps({"endpoint": self.endpoint, "token": TOKEN})

    def make(self, name: str, files: dict[str, bytes] | None = None) -> Repository:
        """A new repository, or another commit of one."""
        repository = self.repositories.setdefault(name, Repository())
        repository.commit({".gitattributes": b"", **(files or {})})
        return repository

    def put(self, name: str, folder: Path) -> Repository:
        """A repository with the files of a folder."""
        found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return self.make(name, found)


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, query = self.place()
        if match := API.fullmatch(path):
            kind, name, verb, revision, rest = match.groups()
            repository = self.server.repositories.get(KINDS[kind] + name)
            self.server.requests[verb or "info"] += 1
            if repository is None:
                return self.refuse(404, "RepoNotFound")
            if verb == "auth-check":
                return self.answer({}) if self.may_write() else self.refuse(403, "")
            commit = repository.at(revision or "main")
            if commit is None:
                return self.refuse(404, "RevisionNotFound")
            if verb == "tree":
                return self.tree(commit[1], rest or "", query.get("recursive", [""])[0].lower() == "true")
            siblings = [{"rfilename": file} for file in commit[1]]
            return self.answer({"id": name, "sha": commit[0], "siblings": siblings, "private": False, "tags": []})
        if match := RESOLVE.fullmatch(path):
            self.server.requests["resolve"] += 1
            return self.file(*match.groups())
        return self.refuse(404, "RepoNotFound")

    def do_POST(self) -> None:
        path, _ = self.place()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if match := LFS.fullmatch(path):
            return self.batch(json.loads(body))
        match = API.fullmatch(path)
        kind, name, verb, revision, _ = match.groups() if match else ("models", "", "", "", "")
        repository = self.server.repositories.get(KINDS[kind] + name)
        self.server.requests[verb] += 1
        if repository is None:
            return self.refuse(404, "RepoNotFound")
        if verb == "paths-info":
            commit = repository.at(revision)
            if commit is None:
                return self.refuse(404, "RevisionNotFound")
            wanted = parse_qs(body.decode())["paths"]
            return self.answer([found for path in wanted if (found := entry(commit[1], path))])
        if not self.may_write():
            return self.refuse(403, "")
        if verb == "preupload":
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = {path: "lfs" if path.endswith(self.server.large or "\0") else "regular" for path in files}
            return self.answer(
                {"files": [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]}
            )
        with self.server.lock:
            return self.commit(KINDS[kind] + name, [json.loads(line) for line in body.splitlines()])

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.objects[hashlib.sha256(body).hexdigest()] = body
        self.answer({})

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        repository = self.server.repositories[name]
        header, *operations = ((line["key"], line["value"]) for line in lines)
        if header[1].get("parentCommit", repository.head) != repository.head:
            return self.refuse(412, "", "A commit has happened since. Please refresh and try again.")
        if self.server.commits_left == 0:
            words = "You have exceeded the rate limit for repository commits (128 per hour)."
            return self.refuse(429, "", words)
        if self.server.commits_left is not None:
            self.server.commits_left -= 1
        files = dict(repository.files)
        for key, value in operations:
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif value["path"] not in files:
                return self.refuse(404, "EntryNotFound")
            else:
                del files[value["path"]]
        oid = repository.commit(files)
        return self.answer({"commitUrl": f"{self.server.endpoint}/{name}/commit/{oid}", "commitOid": oid})

    def batch(self, request: dict[str, Any]) -> None:
        self.server.requests["lfs"] += 1
        objects = [
            {**wanted, "actions": {"upload": {"href": f"{self.server.endpoint}/lfs/{wanted['oid']}"}}}
            for wanted in request["objects"]
        ]
        self.answer({"transfer": "basic", "objects": objects})

    def tree(self, files: dict[str, bytes], folder: str, is_recursive: bool) -> None:
        prefix = f"{folder}/" if folder else ""
        below = [name for name in files if name.startswith(prefix)]
        if folder and not below:
            return self.refuse(404, "EntryNotFound")
        names = {name for name in below if is_recursive or "/" not in name.removeprefix(prefix)}
        for name in below:
            parts = name.removeprefix(prefix).split("/")[:-1]
            names |= {
                prefix + "/".join(parts[: i + 1]) for i in range(len(parts) if is_recursive else min(1, len(parts)))
            }
        return self.answer([entry(files, name) for name in sorted(names)])

    def file(self, kind: str | None, name: str, revision: str, path: str) -> None:
        repository = self.server.repositories.get((kind or "") + name)
        commit = repository and repository.at(revision)
        if not commit:
            return self.refuse(404, "RevisionNotFound" if repository else "RepoNotFound")
        content = commit[1].get(path)
        if content is None:
            return self.refuse(404, "EntryNotFound")
        if self.command == "GET":
            self.server.fetched.append(path)
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit[0]}
        status = 200
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(wanted[1]), min(int(wanted[2] or len(content)) + 1, len(content))
            if start >= len(content):
                return self.refuse(416, "")
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
            status, content = 206, content[start:end]
        return self.send(status, content, headers)

    def place(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        return unquote(parts.path), parse_qs(parts.query)

    def may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def refuse(self, status: int, code: str, words: str = "") -> None:
        self.send(
            status, json.dumps({"error": words or code}).encode(), {"X-Error-Code": code, "X-Error-Message": words}
        )

    def answer(self, content: Any) -> None:
        self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Omit the access log from the tests' output."""


def entry(files: dict[str, bytes], path: str) -> dict[str, Any] | None:
    """A file or folder as the hub lists it."""
    content = files.get(path)
    if content is not None:
        return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
    is_folder = any(name.startswith(f"{path}/") for name in files)
    return {"type": "directory", "path": path, "oid": "0"} if is_folder else None
