"""A connection to the session's Ray, closed at the end of a file, so that other files may connect in their own way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def ray_driver(ray_session: str) -> Iterator[None]:
    import ray

    ray.init(ray_session, log_to_driver=False)
    yield
    ray.shutdown()
