"""A connection to the session's Ray."""

from __future__ import annotations

import pytest

from tests.conftest import connect


@pytest.fixture
def ray_driver(ray_session: str) -> None:
    connect(ray_session)
