"""The example of image to image and inpainting, read back from the pixels."""

from __future__ import annotations

import runpy

from PIL import Image

from sdbatch.tiny.reader import read
from tests.conftest import REPOSITORY


def test_the_example_repaints_what_it_says(tmp_path):
    main = runpy.run_path(str(REPOSITORY / "examples" / "repaint.py"))["main"]
    blue, pair = (read(pixels) for pixels in main(str(tmp_path / "repaint.png")))
    assert blue.kinds == (("circle", "blue"),) and blue.background == "white"
    assert pair.kinds == (("circle", "red"), ("cross", "green")) and pair.axis == "across"
    with Image.open(tmp_path / "repaint.png") as sheet:
        assert sheet.size == (456, 456)
