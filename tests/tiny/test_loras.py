"""The example LoRAs of `tiny`, by the command that the docs give: read back from the pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image

from sdbatch.tiny.reader import CONTRAST
from sdbatch.tiny.scenes import COLOURS, PIXELS
from tests.conftest import REPOSITORY
from tests.outputs import metadata

MIDDLE = PIXELS / 2


def things(picture: np.ndarray) -> np.ndarray:
    """Where the picture is not its background, bool (64, 64)."""
    ground = np.median(np.concatenate([picture[:2].reshape(-1, 3), picture[:, :1].reshape(-1, 3)]), axis=0)
    return np.linalg.norm(picture - ground, axis=-1) > CONTRAST


def colour(picture: np.ndarray) -> str:
    mean = np.median(picture[things(picture)], axis=0)
    return min(COLOURS, key=lambda name: float(np.linalg.norm(mean - np.array(COLOURS[name]))))


def is_low(picture: np.ndarray) -> bool:
    """Whether all is well below the middle."""
    return bool(np.nonzero(things(picture))[0].mean() > MIDDLE + 8)


def is_pair(picture: np.ndarray) -> bool:
    """Whether there is as much on the left as on the right, and nothing between."""
    columns = things(picture).sum(axis=0)
    left, between, right = columns[:28].sum(), columns[30:34].sum(), columns[36:].sum()
    return bool(between == 0 and min(left, right) > 100 and max(left, right) < 1.5 * min(left, right))


def test_the_example_loras_obey_alone_together_and_beside_rows_without(tmp_path, sdbatch_command):
    out = tmp_path / "out"
    sdbatch_command(
        "generate", REPOSITORY / "examples" / "loras.csv", out, "--sampler", "ddim", "--steps", 20, "--actors", 1
    )
    rows = metadata(out)
    pictures = [np.asarray(Image.open(out / row["file_name"])) / 255 for row in rows]
    words = [row["prompt"].split() for row in rows]
    assert [colour(picture) for picture in pictures] == [next(w for w in own if w in COLOURS) for own in words]
    assert [is_low(picture) for picture in pictures] == ["low" in own for own in words]
    assert [is_pair(picture) for picture in pictures] == ["pair" in own for own in words]
