"""A driver's connection to the session's Ray, closed again before the Ray is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_driver(ray_session: str) -> Iterator[None]:
    import ray

    ray.init(ray_session, log_to_driver=False)
    yield
    ray.shutdown()
