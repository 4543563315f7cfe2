"""Sizes of rows that follow from their pictures, by the headers of some of them, and how full lanes will be."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sdbatch.diffusion import ModelInfo, Request
from sdbatch.diffusion.lanes import Lanes
from sdbatch.diffusion.tasks import task_of
from sdbatch.errors import PictureError
from sdbatch.output.watermark import lack_of_room
from sdbatch.prompts.picture_cells import PictureReader

__all__ = ["PictureSizes", "expected_fill", "known_size", "look_at", "watermark_refusal"]

READERS = 8


@dataclass(frozen=True)
class PictureSizes:
    """The sizes of the pictures of some rows.

    Attributes:
        sizes: height and width of each row whose picture could be read, in the order of the table.
        unreadable: how many could not.
        reason: why the first of these could not.
    """

    sizes: tuple[tuple[int, int], ...]
    unreadable: int = 0
    reason: str = ""


def known_size(request: Request, info: ModelInfo) -> tuple[int, int] | None:
    """Height and width of a row's picture; None where a picture that has not been read decides."""
    try:
        return task_of(request).size(request, info)
    except PictureError:
        return None


def watermark_refusal(request: Request, info: ModelInfo, watermark: str | None) -> str | None:
    """Why a row's picture has no room for the watermark; None if it has, or if its size is not known yet."""
    size = None if watermark is None else known_size(request, info)
    return None if size is None else lack_of_room(*size, watermark)


def look_at(rows: Iterable[tuple[Request, str]], reader: PictureReader, info: ModelInfo) -> PictureSizes:
    """The sizes of rows, each given with the folder of its file."""

    def size(row: tuple[Request, str]) -> tuple[int, int] | str:
        request = reader.read(*row)
        try:
            return task_of(request).size(request, info)
        except PictureError as error:
            return str(error)

    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(size, rows))
    reasons = [reason for reason in found if isinstance(reason, str)]
    return PictureSizes(
        tuple(size for size in found if not isinstance(size, str)), len(reasons), next(iter(reasons), "")
    )


def expected_fill(
    sizes: Sequence[tuple[int, int]], at_once: int, lanes: int, lanes_per_row: int, info: ModelInfo
) -> float:
    """The share of a worker's lanes that rows fill, 0 to 1, since rows of two sizes share no pass.

    Args:
        sizes: of a sample of the rows.
        at_once: rows that a worker has at a time.
        lanes: of the engine, at the model's own size.
        lanes_per_row: 2 with guidance.
    """
    sets = Lanes(lanes, (info.height, info.width))
    windows = [sizes[start : start + at_once] for start in range(0, len(sizes), at_once)]
    filled = given = 0.0
    for window in windows:
        # A sample smaller than a worker's rows at a time represents all of them.
        factor = at_once / len(window) if len(windows) == 1 else 1.0
        for size, count in Counter(window).items():
            wanted = count * factor * lanes_per_row
            room = sets.size(size)
            filled += wanted * size[0] * size[1]
            given += math.ceil(wanted / room) * room * size[0] * size[1]
    return filled / given if given else 1.0
