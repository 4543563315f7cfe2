"""The watermark that Stable Diffusion's repositories put into pictures, against what their package made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from sdbatch.output.watermark import SDXL, lack_of_room, read_bits, read_text, watermarked
from tests.output.watermark_pictures import picture
from tests.output.writing import write_output
from tests.outputs import metadata, write_table

RECORDED = np.load(Path(__file__).with_name("watermarks.npz"))
TEXT = "StableDiffusionV1"


def test_it_is_the_packages_byte_for_byte():
    plain = picture()
    made = watermarked(plain, TEXT)
    assert np.array_equal(made.astype(int) - plain, RECORDED["text"])
    assert np.array_equal(read_bits(made, 8 * len(TEXT)), RECORDED["bits"])


def test_diffusers_message_is_in_real_numbers():
    plain = picture()
    off = watermarked(plain, SDXL).astype(int) - plain - RECORDED["sdxl"]
    assert np.abs(off).max() <= 1 and np.count_nonzero(off) < off.size / 10_000


def test_a_text_is_read_from_pictures_that_are_not_saturated():
    grey = np.random.default_rng(0).normal(128, 12, (512, 512, 3)).clip(0, 255).astype(np.uint8)
    assert read_text(watermarked(grey, "mine"), 4) == b"mine"
    assert read_text(grey, 4) != b"mine"
    assert watermarked(grey, None) is grey


def test_a_picture_holds_as_many_bits_as_it_has_blocks():
    assert lack_of_room(64, 64, "12345678") is None
    assert lack_of_room(64, 64, "123456789") == (
        "watermark '123456789' has 72 bits; a picture of 64x64 has room for 64"
    )
    assert lack_of_room(8, 8, None) is None


def test_a_dataset_has_it_in_its_files_and_a_row_without_room_fails(tmp_path):
    table = {"prompt": ["a", "b", "c"], "seed": [1, 2, 3], "height": [64, 32, 64], "width": [64, 32, 96]}
    prompts = write_table(tmp_path / "p.parquet", table)
    write_output(str(tmp_path / "out"), prompts, watermark="123456")
    rows = metadata(tmp_path / "out")
    assert [row["error"] for row in rows] == [
        None,
        "watermark '123456' has 48 bits; a picture of 32x32 has room for 16",
        None,
    ]
    for row in (rows[0], rows[2]):
        plain = np.random.default_rng(row["seed"]).integers(0, 256, (row["height"], row["width"], 3), dtype=np.uint8)
        with Image.open(tmp_path / "out" / row["file_name"]) as image:
            assert np.array_equal(np.asarray(image), watermarked(plain, "123456"))
            assert not np.array_equal(np.asarray(image), plain)
