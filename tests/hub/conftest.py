from collections.abc import Iterator

import pytest

from tests.hub.server import Hub


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    yield server
    server.shutdown()
    server.server_close()
