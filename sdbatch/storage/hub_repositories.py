"""The Hugging Face hub as a file system that is never out of date and makes few commits."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Iterable, Mapping
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfFileSystem, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from huggingface_hub.utils import hf_raise_for_status, http_backoff

__all__ = ["HubFileSystem"]

CREATE_ATTEMPTS = 8
MAX_PAUSE_SECONDS = 2.0
DOWNLOAD_TIMEOUT_SECONDS = 30
QUOTA = (
    "the Hugging Face hub allows 128 commits per hour to one repository; run the same command again in an hour, "
    "or use larger shards"
)


class HubFileSystem(HfFileSystem):
    """The hub's repositories, read and written by several processes at once.

    Differs from huggingface_hub's own file system, for repositories: it keeps no listings, which would hide files that
    other processes have written since; it reads a small file in one request; several files are written and removed
    in one commit (`commit`), as the hub allows 128 commits per hour; a file can be created exclusively. Buckets
    (`hf://buckets/…`) have no commits.
    """

    def resolve_path(self, path: str, revision: str | None = None) -> Any:
        try:
            return super().resolve_path(path, revision)
        except ValueError as exc:  # an address that names no repository
            raise OSError(errno.EINVAL, str(exc).partition("\n")[0]) from exc

    def _ls_tree(self, path: str, **options: Any) -> Any:  # type: ignore[override]
        return super()._ls_tree(path, **(options | {"refresh": True}))

    def info(self, path: str, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        place = self.resolve_path(path)
        if not _is_in_repository(place) or not place.path_in_repo:
            return super().info(path, **options)
        found = self._infos(place, [place.path_in_repo]).get(place.path_in_repo)
        if found is None:
            raise FileNotFoundError(path)
        size = getattr(found, "size", None)
        entry = {"name": place.unresolve(), "size": size or 0, "type": "directory" if size is None else "file"}
        return entry | {"blob_id": getattr(found, "blob_id", None)}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        place = self.resolve_path(path)
        if not _is_in_repository(place) or (start or 0) < 0 or (end or 0) < 0:
            return super().cat_file(path, start, end, **options)
        if end is not None and end <= (start or 0):
            return b""
        url = hf_hub_url(
            place.repo_id,
            place.path_in_repo,
            repo_type=place.repo_type,
            revision=place.revision,
            endpoint=self.endpoint,
        )
        headers = dict(self._api._build_hf_headers())
        if start is not None or end is not None:
            headers["range"] = f"bytes={start or 0}-{'' if end is None else end - 1}"
        try:
            response = http_backoff("GET", url, headers=headers, timeout=DOWNLOAD_TIMEOUT_SECONDS)
            hf_raise_for_status(response)
        except EntryNotFoundError as exc:
            raise FileNotFoundError(path) from exc
        return response.content

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        if not _is_in_repository(self.resolve_path(path)):
            super().pipe_file(path, value, mode=mode, **options)
        elif mode == "create":
            self._create(path, value)
        else:
            self.commit({path: value})

    def rm_file(self, path: str) -> None:
        self.rm([path])

    def rm(self, path: str | list[str], **options: Any) -> None:  # type: ignore[override]
        paths = [path] if isinstance(path, str) else path
        if _is_in_repository(self.resolve_path(paths[0])) and not options.get("recursive"):
            self.commit({}, paths)
            return
        for one in paths:
            super().rm(one, **options)

    def commit(self, written: Mapping[str, bytes | str], removed: Iterable[str] = ()) -> None:
        """Write and remove files of one repository in one commit.

        Args:
            written: contents, or paths of local files that hold them.
            removed: files; those that do not exist are left out.

        Raises:
            ConnectionError: other commits came first, which can be tried again.
            HfHubHTTPError: the hub refused the commit.
            OSError: the repository has had too many commits in the last hour.
        """
        place = self.resolve_path(next(iter([*written, *removed])))
        names = [self.resolve_path(path).path_in_repo for path in removed]
        there = self._infos(place, names) if names else {}
        operations = [CommitOperationDelete(path_in_repo=name) for name in names if name in there]
        added = [CommitOperationAdd(self.resolve_path(path).path_in_repo, value) for path, value in written.items()]
        if not operations and not added:
            return
        if not self._committed(place, [*operations, *added]):
            raise ConnectionError("other commits to this repository came first")

    def may_write(self, path: str) -> None:
        """Raises `HfHubHTTPError` if this user may not write to the repository. Commits nothing."""
        place = self.resolve_path(path)
        self._api.auth_check(place.repo_id, repo_type=place.repo_type, write=True)

    def _create(self, path: str, value: bytes) -> None:
        """Commit a new file on top of a commit that does not have it. Raises `FileExistsError`."""
        place = self.resolve_path(path)
        for _ in range(CREATE_ATTEMPTS):
            head = self._api.repo_info(place.repo_id, revision=place.revision, repo_type=place.repo_type).sha
            if self._infos(place, [place.path_in_repo], revision=head):
                raise FileExistsError(path)
            if self._committed(place, [CommitOperationAdd(place.path_in_repo, value)], parent=head):
                return
            time.sleep(random.uniform(0, MAX_PAUSE_SECONDS))
        raise ConnectionError("other commits to this repository came first")

    def _committed(self, place: Any, operations: list[Any], parent: str | None = None) -> bool:
        """Commit; returns whether no other commit came first."""
        try:
            self._api.create_commit(
                place.repo_id,
                operations,
                commit_message=f"sdbatch: {len(operations)} {'file' if len(operations) == 1 else 'files'}",
                repo_type=place.repo_type,
                revision=place.revision,
                parent_commit=parent,
            )
        except HfHubHTTPError as exc:
            is_over_quota = exc.response.status_code == 429 and "commits" in str(exc)
            if exc.response.status_code != 412 and not is_over_quota:
                raise
        else:
            return True
        if is_over_quota:  # for up to an hour, which is not worth retries
            raise OSError(errno.EDQUOT, QUOTA)
        return False

    def _infos(self, place: Any, names: list[str], revision: str | None = None) -> dict[str, Any]:
        """The hub's entries of files and folders, by name; without those that do not exist."""
        found = self._api.get_paths_info(
            place.repo_id, names, revision=revision or place.revision, repo_type=place.repo_type
        )
        return {info.path: info for info in found}


def _is_in_repository(place: Any) -> bool:
    return hasattr(place, "repo_id")
