"""Draws the contact sheet: one PNG with a dataset's first pictures, each above its prompt."""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import islice
from typing import Any

from PIL import Image, ImageDraw

from sdbatch.errors import UsageError
from sdbatch.gallery.lettering import Line, Style, draw_lines, lines_height, set_text
from sdbatch.gallery.source import Source
from sdbatch.plan.destination import is_own, name_within
from sdbatch.storage.store import Store

__all__ = ["write_sheet"]

PNG = b"\x89PNG\r\n\x1a\n"

# Lengths are in pixels of the finished sheet, which is drawn for screens with two pixels per point.
MARGIN = 112
COLUMN_GAP = 48
ROW_GAP = 72
CAPTION_GAP = 22
INSET = 28
INSET_SHARE = 3  # ratio of a picture's cell to the inset of its input picture
RIM = 6
SMALL_PICTURE = 384  # pictures smaller than this are enlarged towards it
LARGE_PICTURE = 512  # larger ones are reduced to it

PAPER = "#f6f6f4"
HAIRLINE = (0, 0, 0, 22)
PLAIN = "#ebebe7"

TITLE = Style(size=54, leading=72, colour="#1b1b19")
SUBTITLE = Style(size=27, leading=40, colour="#6f6f69")
PROMPT = Style(size=25, leading=34, colour="#2b2b28")
DETAIL = Style(size=21, leading=34, colour="#6f6f69")
FAILED = Style(size=21, leading=40, colour="#6f6f69")
REASON = Style(size=24, leading=34, colour="#a03c2c")


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of the dataset, scaled and typeset: a picture, or the reason for its absence.

    Attributes:
        started_from: the input picture, reduced.
    """

    picture: Image.Image | None
    reason: list[Line]
    caption: list[Line]
    started_from: Image.Image | None = None


def write_sheet(
    out: str, path: str, *, columns: int = 6, limit: int = 60, options: dict[str, Any] | None = None
) -> None:
    """Draw the first `limit` rows of the dataset at `out`, in input order, as the PNG file `path`.

    Raises:
        UsageError: `out` is not the output of a run; or `path` is one of its files, or exists and is not a PNG image.
    """
    source = Source(out, options)
    target = Store(path, options)
    _refuse_to_replace(target, source)
    rows = list(islice(source.rows(), limit + 1))
    shown = [{**row.values, "image": source.image(row), "started_from": source.input(row)} for row in rows[:limit]]
    subtitle = _subtitle(shown, source.model, more=len(rows) > limit)
    sheet = draw_sheet(shown, title=source.name, subtitle=subtitle, columns=columns)
    png = io.BytesIO()
    sheet.save(png, "PNG", optimize=True)
    target.write("", png.getvalue())


def _refuse_to_replace(target: Store, source: Source) -> None:
    """Reject a path that is or will be a file of the output, and an existing file that is not a PNG image."""
    inside = name_within(source.store, target)
    if inside is not None and is_own(source.footprint, inside):
        raise UsageError(f"{target.url} is the name of a file of {source.store.url}; choose another PATH for the sheet")
    if target.is_folder():
        raise UsageError(f"{target.url} is a folder; PATH is the PNG file to write")
    if target.exists("") and target.head("", len(PNG)) != PNG:
        raise UsageError(f"{target.url} exists and is not a PNG image; choose another PATH for the sheet")


def draw_sheet(rows: list[dict[str, Any]], *, title: str, subtitle: str, columns: int) -> Image.Image:
    """The contact sheet of `rows`: dicts of metadata, with a PIL image in `image`, None for a failed row."""
    columns = max(1, min(columns, len(rows)))
    pictures = [_scaled(row["image"]) if row["image"] is not None else None for row in rows]
    box = _box(pictures)
    cells = [_cell(row, picture, box) for row, picture in zip(rows, pictures, strict=True)]
    bands = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [box[1] + CAPTION_GAP + max(lines_height(cell.caption) for cell in band) for band in bands]

    measure = columns * (box[0] + COLUMN_GAP) - COLUMN_GAP
    heading = set_text(title, TITLE, measure, 1) + set_text(subtitle, SUBTITLE, measure, 2)
    top = MARGIN + lines_height(heading) + (ROW_GAP if bands else 0)
    height = top + sum(heights) + ROW_GAP * max(len(bands) - 1, 0) + MARGIN
    sheet = Image.new("RGB", (measure + 2 * MARGIN, height), PAPER)

    draw = ImageDraw.Draw(sheet, "RGBA")
    draw_lines(draw, (MARGIN, MARGIN - TITLE.leading // 4), heading)
    for band, band_height in zip(bands, heights, strict=True):
        for column, cell in enumerate(band):
            _draw_cell(draw, sheet, (MARGIN + column * (box[0] + COLUMN_GAP), top), box, cell)
        top += band_height + ROW_GAP
    return sheet


def _subtitle(rows: list[dict[str, Any]], model: str, *, more: bool) -> str:
    made = sum(row["image"] is not None for row in rows)
    pictures = "1 picture" if made == 1 else f"{made:,} pictures"
    parts = [f"the first {pictures}" if more else pictures, f"model {model}"]
    if made < len(rows):
        parts.append(f"{len(rows) - made:,} failed")
    return "  ·  ".join(parts)


def _scaled(picture: Image.Image) -> Image.Image:
    """`picture` at its size on the sheet. Small ones are enlarged by an integer factor, which keeps edges sharp."""
    picture = picture.convert("RGB")
    side = max(picture.size)
    if side > LARGE_PICTURE:
        picture.thumbnail((LARGE_PICTURE, LARGE_PICTURE), Image.Resampling.LANCZOS)
        return picture
    factor = max(1, round(SMALL_PICTURE / side))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.LANCZOS)


def _box(pictures: list[Image.Image | None]) -> tuple[int, int]:
    """The size of a picture's cell: the smallest that fits all of them."""
    sizes = [picture.size for picture in pictures if picture] or [(SMALL_PICTURE, SMALL_PICTURE)]
    return max(width for width, _ in sizes), max(height for _, height in sizes)


def _cell(row: dict[str, Any], picture: Image.Image | None, box: tuple[int, int]) -> Cell:
    reason: list[Line] = []
    if picture is None:
        fitting = (box[1] - 2 * INSET - FAILED.leading) // REASON.leading
        reason = set_text("No picture", FAILED, box[0] - 2 * INSET, 1)
        reason += set_text(row.get("error") or "unknown reason", REASON, box[0] - 2 * INSET, fitting)
    caption = set_text(row.get("prompt") or "", PROMPT, box[0], max_lines=4)
    caption = caption or set_text("(no prompt)", DETAIL, box[0], max_lines=1)
    detail = set_text(_detail(row), DETAIL, box[0], max_lines=1)
    return Cell(picture, reason, caption + detail, _small(row.get("started_from"), box))


def _small(picture: Image.Image | None, box: tuple[int, int]) -> Image.Image | None:
    """A picture as an inset: at most a third of a picture's cell."""
    if picture is None:
        return None
    factor = min(side / INSET_SHARE / own for side, own in zip(box, picture.size, strict=True))
    width, height = (max(1, round(side * factor)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _detail(row: dict[str, Any]) -> str:
    """The grey line: the main settings of a picture."""
    parts = [
        row.get("sampler"),
        f"{row['steps']} steps" if row.get("steps") is not None else None,
        f"cfg {row['guidance_scale']:g}" if row.get("guidance_scale") is not None else None,
        f"seed {row['seed']}" if row.get("seed") is not None else None,
    ]
    return "  ·  ".join(part for part in parts if part)


def _draw_cell(
    draw: ImageDraw.ImageDraw, sheet: Image.Image, corner: tuple[int, int], box: tuple[int, int], cell: Cell
) -> None:
    x, y = corner
    if cell.picture is None:
        draw.rectangle((x, y, x + box[0] - 1, y + box[1] - 1), fill=PLAIN)
        draw_lines(draw, (x + INSET, y + INSET), cell.reason)
    else:
        # Pictures are aligned at the bottom, directly above their captions.
        place = (x, y + box[1] - cell.picture.height)
        sheet.paste(cell.picture, place)
        right, bottom = place[0] + cell.picture.width - 1, place[1] + cell.picture.height - 1
        draw.rectangle((*place, right, bottom), outline=HAIRLINE)
        if cell.started_from is not None:
            _draw_inset(draw, sheet, (place[0], bottom + 1 - cell.started_from.height), cell.started_from)
    draw_lines(draw, (x, y + box[1] + CAPTION_GAP), cell.caption)


def _draw_inset(draw: ImageDraw.ImageDraw, sheet: Image.Image, corner: tuple[int, int], picture: Image.Image) -> None:
    """Draw the input picture in the lower left corner, with a border in the paper's colour."""
    x, y = corner
    draw.rectangle((x, y - RIM, x + picture.width + RIM - 1, y + picture.height - 1), fill=PAPER)
    sheet.paste(picture, (x, y))
