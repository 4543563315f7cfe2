"""Lets one run at a time remove the files that an overwrite replaces, until it has finished or died.

Otherwise a run could remove new files that another run has written under the same names.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from uuid import uuid4

from sdbatch.errors import StorageError
from sdbatch.storage.store import Store

__all__ = ["CLAIMS", "Busy", "Claim", "Claims", "Lost"]

CLAIMS = "__claims"  # readers of datasets ignore folders whose names begin with underscores
# A claim unchanged for this long belongs to a run that has died. Its owner changes it several times in this period.
LEASE_SECONDS = 20.0
BEAT_SECONDS = LEASE_SECONDS / 5


class Busy(Exception):
    """Another run holds the claim; try again soon."""


class Lost(Exception):
    """Another run has assumed that this one died, and has taken over its claim."""


class Claims:
    """The claims on one OUT.

    They are numbered files; the last one counts. Each is created exclusively, so only one of several runs can take over
    from a dead one. Times are compared only with this machine's own clock.
    """

    def __init__(self, out: Store) -> None:
        self._out = out
        self._seen: tuple[str, bytes] | None = None
        self._seen_at = 0.0

    @contextmanager
    def taken(self, is_wanted: Callable[[], bool]) -> Iterator[Claim]:
        """Hold a claim during the `with` block.

        Args:
            is_wanted: whether there is still something to remove; another run may have done it.

        Raises:
            Busy: another run holds the claim.
        """
        names = _names(self._out)
        if names and not self._is_dead(names[-1]):
            raise Busy
        claim = Claim(self._out, 1 + (_number(names[-1]) if names else 0), is_wanted)
        if not claim.create():
            raise Busy
        self._out.remove_many(f"{CLAIMS}/{name}" for name in names)
        with claim.kept():
            yield claim

    def _is_dead(self, name: str) -> bool:
        content = self._out.read_if_there(f"{CLAIMS}/{name}")
        if content is None:
            return True
        if (name, content) != self._seen:
            self._seen, self._seen_at = (name, content), time.monotonic()
        return time.monotonic() - self._seen_at > LEASE_SECONDS


class Claim:
    """One run's claim, renewed by a thread."""

    def __init__(self, out: Store, number: int, is_wanted: Callable[[], bool]) -> None:
        self._out = out
        self._is_wanted = is_wanted
        self._name = f"{number:04d}.json"
        self._token = uuid4().hex
        self._beats = 0
        self._known_at = time.monotonic()
        self._released = threading.Event()

    def create(self) -> bool:
        """Create the claim; returns whether this run was the first."""
        return self._out.create(f"{CLAIMS}/{self._name}", self._content())

    def check(self) -> None:
        """Raises `Lost` if the claim is no longer this run's; reads it only if the last renewal is too long ago."""
        if time.monotonic() - self._known_at > 2 * BEAT_SECONDS:
            self._known_at = time.monotonic()
            if not self._is_ours() or not self._is_wanted():
                raise Lost

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renew the claim during the `with` block."""
        thread = threading.Thread(target=self._beat_until_released, name="claim", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._released.set()
            thread.join()
            with suppress(StorageError):  # a claim that remains expires
                if self._is_ours():
                    self._out.remove(f"{CLAIMS}/{self._name}")
                    self._out.remove_folder(CLAIMS)

    def _beat_until_released(self) -> None:
        while not self._released.wait(BEAT_SECONDS):
            with suppress(StorageError):  # a claim that can't be renewed expires
                now = time.monotonic()
                if not self._is_ours():
                    return
                self._beats += 1
                self._out.replace(f"{CLAIMS}/{self._name}", self._content())
                self._known_at = now

    def _is_ours(self) -> bool:
        names = _names(self._out)
        if not names or names[-1] != self._name:
            return False
        content = self._out.read_if_there(f"{CLAIMS}/{self._name}")
        return content is not None and json.loads(content).get("token") == self._token

    def _content(self) -> bytes:
        return json.dumps({"token": self._token, "beat": self._beats}).encode() + b"\n"


def _names(out: Store) -> list[str]:
    """The claims, in the order of their numbers."""
    return sorted((name for name in out.entries(CLAIMS) if _number(name)), key=_number)


def _number(name: str) -> int:
    number = name.removesuffix(".json")
    return int(number) if number.isdecimal() else 0
