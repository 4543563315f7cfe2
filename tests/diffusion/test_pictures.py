"""Input pictures: every mode as in diffusers' `load_image`, or refused with the reason."""

from __future__ import annotations

import io
import pickle
import threading

import numpy as np
import PIL.Image
import PIL.ImageFile
import pytest
import torch
from diffusers.utils import load_image
from picture_rows import mask, photo

from sdbatch.diffusion.pictures import picture as pictures
from sdbatch.diffusion.pictures.picture import Picture
from sdbatch.diffusion.pictures.picture_encoders import PictureEncoder
from sdbatch.diffusion.pictures.picture_encodings import PictureEncodings
from sdbatch.diffusion.tasks import Need
from sdbatch.errors import PictureError


def encoded(image: PIL.Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def turned(orientation: int) -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return exif


def cut_short(data: bytes) -> bytes:
    return data[: len(data) // 2]


RGB = photo(40, 56, 1)
SIXTEEN = PIL.Image.fromarray(np.array(RGB.convert("L")).astype(np.uint16) * 257)
VEIL = PIL.Image.fromarray(np.tile(np.linspace(0, 255, 56).astype(np.uint8), (40, 1)))
VEILED = RGB.convert("RGBA")
VEILED.putalpha(VEIL)


@pytest.mark.parametrize(
    "data",
    [
        encoded(RGB),
        encoded(RGB, "JPEG"),
        encoded(RGB, "WEBP"),
        encoded(RGB, "BMP"),
        encoded(RGB, "TIFF"),
        encoded(RGB, "JPEG", exif=turned(6)),
        encoded(RGB, "JPEG", exif=turned(3)),
        encoded(RGB, "PNG", exif=turned(8)),
        encoded(RGB, "WEBP", exif=turned(5)),
        encoded(RGB.convert("L")),
        encoded(RGB.convert("LA")),
        encoded(RGB.convert("P")),
        encoded(RGB.convert("1")),
        encoded(RGB.convert("CMYK"), "JPEG"),
        encoded(RGB.convert("CMYK"), "TIFF"),
        encoded(VEILED),
        encoded(RGB.quantize(16), "GIF", transparency=3),
    ],
)
def test_it_is_what_load_image_gives(data):
    wanted = load_image(PIL.Image.open(io.BytesIO(data)))
    picture = Picture(data)
    assert picture.size == (wanted.height, wanted.width)
    assert picture.load().mode == "RGB"
    assert np.array_equal(picture.load(), wanted)
    assert np.array_equal(Picture(PIL.Image.open(io.BytesIO(data))).load(), wanted)


def test_a_picture_of_a_file_is_that_of_its_bytes(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(RGB))
    of_file, of_bytes = Picture(tmp_path / "a.png"), Picture(encoded(RGB))
    assert of_file.key == of_bytes.key and of_file.size == of_bytes.size == (40, 56)
    assert np.array_equal(of_file.load(), RGB)
    assert np.array_equal(pickle.loads(pickle.dumps(of_file)).load(), RGB)


def test_pictures_of_other_content_have_other_keys():
    same = PIL.Image.fromarray(np.array(RGB))
    other = np.array(RGB)
    other[3, 4, 1] ^= 1
    assert Picture(RGB).key == Picture(same).key
    keys = {
        Picture(image).key
        for image in (RGB, PIL.Image.fromarray(other), RGB.rotate(90, expand=True), RGB.convert("L"), VEILED)
    }
    assert len(keys) == 5


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_clipped(format):
    eight = np.array(RGB.convert("L").convert("RGB"))
    assert np.array_equal(Picture(encoded(SIXTEEN, format)).load(), eight)
    assert np.array_equal(Picture(SIXTEEN.convert("I")).load(), eight)
    clipped = np.array(load_image(PIL.Image.open(io.BytesIO(encoded(SIXTEEN, format)))))
    assert (clipped == 255).all()  # what load_image makes of it


def test_the_first_frame_is_taken():
    data = encoded(RGB.quantize(64), "GIF", save_all=True, append_images=[RGB.rotate(180).quantize(64)])
    first = PIL.Image.open(io.BytesIO(data))
    assert first.n_frames == 2
    assert np.array_equal(Picture(data).load(), first.convert("RGB"))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"", "not a picture in a supported format"),
        (b"neither this", "not a picture in a supported format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not a picture in a supported format"),
        (cut_short(encoded(RGB)), "can't be decoded"),
        (cut_short(encoded(RGB, "JPEG")), "can't be"),
        (cut_short(encoded(RGB, "TIFF", compression="tiff_lzw")), "can't be|not a picture in a supported format"),
        (encoded(RGB.convert("F"), "TIFF"), "floating-point"),
        (RGB.convert("I").point(lambda value: value * 100_000), "32-bit"),
        ("nowhere/at/all.png", "nowhere/at/all.png: no such file"),
        (".", "can't be read"),
    ],
)
def test_what_can_not_be_read_says_why(source, reason):
    with pytest.raises(PictureError, match=reason):
        Picture(source).load()


def test_what_is_no_picture_at_all_is_refused():
    with pytest.raises(PictureError, match="not a int"):
        Picture(3)


def test_sizes_are_read_from_headers_alone(monkeypatch, tmp_path):
    def no_pixels(*_):
        raise AssertionError("pixels were decoded")

    files = [encoded(RGB), encoded(RGB, "JPEG", exif=turned(6)), encoded(RGB, "WEBP", exif=turned(5))]
    monkeypatch.setattr(PIL.ImageFile.ImageFile, "load", no_pixels)
    assert [Picture(data).size for data in files] == [(40, 56), (56, 40), (56, 40)]


def test_a_small_file_of_very_many_pixels_is_not_decoded(monkeypatch):
    data = encoded(PIL.Image.new("1", (4000, 3000)))
    monkeypatch.setattr(pictures, "MAX_PIXELS", 10_000_000)
    for ask in (lambda p: p.size, Picture.load):
        with pytest.raises(PictureError, match=r"4000x3000 exceeds the maximum of 10,000,000 pixels"):
            ask(Picture(data))


def test_masks_are_in_rgb_whatever_they_came_in():
    painted = mask(40, 56, 1)
    for data in (
        encoded(painted),
        encoded(painted.convert("1")),
        encoded(painted.convert("P")),
        encoded(painted, "JPEG"),
    ):
        loaded = Picture(data).load_mask()
        assert loaded.mode == "RGB"
        assert ((np.array(loaded.convert("L")) > 127) == (np.array(painted) > 127)).mean() > 0.99
    opaque = painted.convert("RGBA")
    assert np.array_equal(Picture(encoded(opaque)).load_mask(), painted.convert("RGB"))


def test_a_mask_with_transparency_is_refused():
    hidden = PIL.Image.new("RGBA", (56, 40), (0, 0, 0, 255))
    hidden.putalpha(mask(40, 56, 1))
    for image in (hidden, hidden.convert("LA")):
        with pytest.raises(PictureError, match="transparency"):
            Picture(encoded(image)).load_mask()


def test_a_soft_mask_is_refused_and_soft_edges_are_not():
    with pytest.raises(PictureError, match="soft mask"):
        Picture(VEIL).load_mask()
    small = mask(40, 56, 1).resize((20, 14)).resize((56, 40), PIL.Image.Resampling.BICUBIC)
    assert Picture(small).load_mask().size == (56, 40)


def test_the_pictures_of_rows_to_come_are_decoded_by_other_threads():
    decoded: dict[str, str] = {}

    class Plain(PictureEncoder):
        batch = 1

        def pixels(self, need):
            decoded[need.picture.key] = threading.current_thread().name
            return torch.full((3, *need.size), float(need.picture.load().getpixel((0, 0))[0]))

        def result(self, need, encoded):
            return encoded["pixels"][0, 0, 0].item()

    needs = [Need("plain", Picture(PIL.Image.new("RGB", (8, 8), (shade, 0, 0))), (8, 8)) for shade in range(6)]
    broken = Need("plain", Picture(b"no picture"), (8, 8))
    encodings = PictureEncodings({"plain": Plain()}, torch.device("cpu"))
    for i, need in enumerate(needs):
        assert encodings.get([need], [*needs[i + 1 :], broken]) == [i]
    own = threading.current_thread().name
    assert [decoded[need.picture.key] == own for need in needs] == [True] + [False] * 5
    with pytest.raises(PictureError, match="not a picture"):
        encodings.get([broken])
    encodings.get([Need("plain", Picture(PIL.Image.new("RGB", (8, 8), (9, 9, 9))), (8, 8))], needs[:1])
    encodings.clear()
