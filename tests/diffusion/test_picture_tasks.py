"""Image to image and inpainting: the pictures of diffusers' pipelines, in the same passes as text to image."""

from __future__ import annotations

import itertools
import random

import diffusers
import numpy as np
import picture_checkpoints
import PIL.Image
import pytest
from picture_rows import Picture, Pipelines, mask, photo

from sdbatch.diffusion.calls import lane_calls
from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.samplers.catalogue import SAMPLERS
from sdbatch.diffusion.tasks import ENGINE_TASKS
from sdbatch.diffusion.validation import validate

STRENGTHS = (0.2, 0.5, 0.75, 1.0)
NOISING = [name for name in SAMPLERS if name != "ipndm"]
SD = {
    "text-to-image": diffusers.StableDiffusionPipeline,
    "image-to-image": diffusers.StableDiffusionImg2ImgPipeline,
    "inpainting": diffusers.StableDiffusionInpaintPipeline,
}
SDXL = {
    "text-to-image": diffusers.StableDiffusionXLPipeline,
    "image-to-image": diffusers.StableDiffusionXLImg2ImgPipeline,
    "inpainting": diffusers.StableDiffusionXLInpaintPipeline,
}


def row(task: str, seed: int, *, size=(64, 64), **options) -> Request:
    """A row with a picture, a mask and a strength of its own, as its task has them."""
    names = {name for name in options if name in Request.__dataclass_fields__}
    extra = {name: value for name, value in options.items() if name not in names}
    if task != "text-to-image":
        extra.setdefault("image", Picture(photo(*size, seed)))
    if task == "inpainting":
        extra.setdefault("mask_image", Picture(mask(*size, seed)))
    own = {name: options[name] for name in names}
    return Request("a red cat" if seed % 2 else "two blue squares", seed=seed, task=task, extra=extra, **own)


def mixed(samplers) -> list[Request]:
    """For each sampler a row of text, one from a picture, and one that paints into a picture; in an odd order."""
    rows, seeds = [], itertools.count(100)
    for i, sampler in enumerate(samplers):
        own = {"sampler": sampler, "steps": 6 + i % 4}
        guidance = (1.0, 5.0)[i // 4 % 2], (5.0, 1.0)[i // 4 % 2]
        rows += [
            # Without an image a row of either task is text to image.
            Request(
                "a red cat",
                "ugly",
                next(seeds),
                **own,
                guidance_scale=5.0,
                task=("image-to-image", "inpainting")[i % 2],
            ),
            row(
                "image-to-image",
                next(seeds),
                **own,
                guidance_scale=guidance[0],
                strength=STRENGTHS[i % 4],
                size=(70, 67),
            ),
            row(
                "inpainting",
                next(seeds),
                **own,
                guidance_scale=guidance[1],
                strength=STRENGTHS[(i + 1) % 4],
                size=(90, 77),
            ),
        ]
    random.Random(0).shuffle(rows)
    return rows


def assert_close(pipelines: Pipelines, images) -> None:
    off = {name: by for name, by in pipelines.deviations(images).items() if by > 2}
    assert not off, f"off by more than 2 of 255: {off}"


def pixels(engine: Engine, *rows: Request) -> list[np.ndarray]:
    """Of each row, in order."""
    images = sorted(engine.generate(rows), key=lambda image: image.index)
    assert not [image.error for image in images if image.error]
    return [image.pixels for image in images]


def passes(engine: Engine) -> list[set[str]]:
    """What tasks share each pass from now on."""
    seen, denoise = [], engine._sampling.denoise

    def watched(lane_set):
        seen.append({row.task.name for row in lane_set.rows})
        return denoise(lane_set)

    engine._sampling.denoise = watched
    return seen


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    return picture_checkpoints.build_sd(tmp_path_factory.mktemp("models") / "sd")


@pytest.fixture(scope="module")
def engine(sd):
    return Engine(sd, lanes=8)


@pytest.fixture(scope="module")
def pipelines(sd):
    return Pipelines(sd, SD)


@pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.long)])
def test_every_sampler_paints_into_pictures_and_from_them_beside_text(every, engine, pipelines):
    rows = mixed(NOISING[::every])
    seen = passes(engine)
    images = list(engine.generate(rows))
    assert {"text-to-image", "image-to-image", "inpainting"} in seen
    assert_close(pipelines, images)
    bytes_of = {image.request.seed: image.pixels.tobytes() for image in images}
    again = engine.generate(rows[::-1])
    assert {image.request.seed: image.pixels.tobytes() for image in again} == bytes_of
    for request in rows[:6]:
        (alone,) = engine.generate([request])
        assert alone.pixels.tobytes() == bytes_of[request.seed]


def test_so_they_do_with_a_model_that_predicts_velocity(tmp_path):
    folder = picture_checkpoints.build_sd(tmp_path / "sd", prediction_type="v_prediction")
    assert_close(Pipelines(folder, SD), list(Engine(folder, lanes=8).generate(mixed(NOISING[::3]))))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_so_they_do_with_sdxl(tmp_path, prediction_type):
    folder = picture_checkpoints.build_sdxl(tmp_path / "sdxl", prediction_type=prediction_type)
    samplers = NOISING[1::3] if prediction_type == "epsilon" else NOISING[5::6]
    assert_close(Pipelines(folder, SDXL), list(Engine(folder, lanes=8).generate(mixed(samplers))))


def test_the_refiner_is_told_scores(tmp_path):
    folder = picture_checkpoints.build_refiner(tmp_path / "refiner")
    engine = Engine(folder, lanes=8)
    assert (engine.info.family, engine.info.tasks) == ("sdxl-refiner", ("image-to-image",))
    own = {"sampler": "dpmpp_2m", "steps": 6, "guidance_scale": 5.0, "size": (70, 67)}
    rows = [
        row("image-to-image", 1, **own, aesthetic_score=9.0, negative_aesthetic_score=0.5),
        row("image-to-image", 2, **own, strength=0.8),
        row("image-to-image", 3, **own | {"guidance_scale": 1.0}, aesthetic_score=1.0),
    ]
    images = list(engine.generate(rows))
    assert_close(Pipelines(folder, {"image-to-image": diffusers.StableDiffusionXLImg2ImgPipeline}), images)
    first = next(image for image in images if image.request.seed == 1)
    plain = row("image-to-image", 1, **own)
    assert not np.array_equal(pixels(engine, plain)[0], first.pixels)


def test_sdxl_is_told_what_to_change(tmp_path):
    folder = picture_checkpoints.build_xl_instruct(tmp_path / "instruct")
    engine = Engine(folder, lanes=6)
    assert engine.info.tasks == ("instruct-edit",)
    rows = [
        row("instruct-edit", i, sampler=sampler, steps=6, guidance_scale=scale, image_guidance_scale=own, size=(70, 67))
        for i, (sampler, scale, own) in enumerate([("euler", 5.0, 1.5), ("ddim", 1.0, 1.5), ("dpmpp_2m", 7.5, 2.0)])
    ]
    classes = {"instruct-edit": diffusers.StableDiffusionXLInstructPix2PixPipeline}
    assert_close(Pipelines(folder, classes), list(engine.generate(rows)))


class OfTiny(Pipelines):
    """Its inpainting pipeline knows a UNet without extra channels by the number 4; here the latents have eight."""

    def pixels(self, request):
        inpaints = request.task == "inpainting" and "image" in request.extra
        self._pipelines["inpainting"].unet.register_to_config(in_channels=4 if inpaints else 8)
        return super().pixels(request)


def test_so_they_do_with_the_packaged_model():
    rows = mixed(("ddpm", "ddim", "euler_a", "dpmpp_2m", "pndm"))
    assert_close(OfTiny(inspect_model("tiny").folder, SD), list(Engine("tiny", lanes=8).generate(rows)))


@pytest.mark.parametrize("cls", [diffusers.LatentConsistencyModelPipeline])
def test_a_consistency_model_spreads_its_steps_over_what_the_strength_leaves(cls, tmp_path):
    folder = picture_checkpoints.build_sd(tmp_path / "lcm", time_cond_proj_dim=32, pipeline=cls)
    engine = Engine(folder, lanes=4)
    assert engine.info.tasks == ("text-to-image", "image-to-image")
    settings = [(4, 0.8), (4, 0.5), (8, 0.3), (2, 1.0)]
    rows = [
        row("image-to-image", i, sampler="lcm", steps=steps, strength=strength, guidance_scale=8.5)
        for i, (steps, strength) in enumerate(settings)
    ]
    rows.append(row("text-to-image", 9, sampler="lcm", steps=4, guidance_scale=8.5))
    classes = {"text-to-image": cls, "image-to-image": diffusers.LatentConsistencyModelImg2ImgPipeline}
    assert_close(Pipelines(folder, classes), list(engine.generate(rows)))
    assert [lane_calls(request, engine.info) for request in rows] == [4, 4, 8, 2, 4]


def test_defaults_are_the_pipelines(engine, pipelines, tmp_path):
    rows = [row("image-to-image", 1, steps=5, sampler="ddim"), row("inpainting", 2, steps=5, sampler="ddim")]
    assert_close(pipelines, list(engine.generate(rows)))
    folder = picture_checkpoints.build_sdxl(tmp_path / "sdxl")
    xl = Engine(folder, lanes=4)
    assert_close(Pipelines(folder, SDXL), list(xl.generate(rows)))
    strengths = [[ENGINE_TASKS[r.task].strength(r, info) for r in rows] for info in (engine.info, xl.info)]
    assert strengths == [[0.8, 1.0], [0.3, 0.9999]]


def test_image_to_image_at_strength_one_is_not_text_to_image(engine, pipelines):
    settings = {"steps": 6, "sampler": "euler", "size": (64, 64)}
    from_picture, from_noise = (
        row("image-to-image", 4, strength=1.0, **settings),
        row("text-to-image", 4, steps=6, sampler="euler"),
    )
    images = list(engine.generate([from_picture, from_noise]))
    assert_close(pipelines, images)
    assert np.abs(images[0].pixels.astype(int) - images[1].pixels).max() > 100


def test_inpainting_starts_from_noise_alone_at_exactly_one(engine, pipelines):
    rows = [row("inpainting", 4, steps=6, sampler="euler", strength=strength) for strength in (1.0, 0.99999)]
    images = list(engine.generate(rows))
    # 0.99999 of 6 steps are 5.
    assert [lane_calls(request, engine.info) for request in rows] == [12, 10]
    assert_close(pipelines, images)


def test_a_strength_is_what_its_decimals_say(engine):
    exact, single = (row("image-to-image", 4, steps=10, sampler="ddim", strength=s) for s in (0.7, np.float32(0.7)))
    widened = row("image-to-image", 4, steps=10, sampler="ddim", strength=float(np.float32(0.7)))
    assert int(10 * np.float32(0.7).item()) == 6
    assert {lane_calls(request, engine.info) for request in (exact, single, widened)} == {14}
    one, *others = pixels(engine, exact, single, widened)
    assert all(np.array_equal(one, other) for other in others)


@pytest.mark.parametrize("task", ["image-to-image", "inpainting"])
@pytest.mark.parametrize("sampler", ["ddim", "heun", "pndm", "dpmpp_2s"])
def test_a_row_costs_what_is_left_of_its_run(engine, task, sampler):
    request = row(task, 1, steps=10, sampler=sampler, strength=0.5, guidance_scale=5.0, guidance_stop=0.5)
    before = engine.counters["lane_calls_used"]
    pixels(engine, request)
    cost = engine.counters["lane_calls_used"] - before
    assert cost == lane_calls(request, engine.info) == lane_calls(request, engine.info, compiled=False)
    assert cost < lane_calls(row(task, 1, steps=10, sampler=sampler, guidance_scale=5.0, strength=1.0), engine.info)


class OneDrawLess(type(ENGINE_TASKS["inpainting"])):
    """Leaves out the draw for the masked picture, which a UNet of four channels is not given."""

    def start(self, request, info, table, encoded, draw):
        import torch

        draws = iter([draw(), draw(), torch.zeros(4, 8, 8)])
        return super().start(request, info, table, encoded, lambda: next(draws))


def test_a_draw_that_nothing_uses_moves_the_picture(engine, pipelines, monkeypatch):
    rows = [row("inpainting", i, sampler=s, steps=8, strength=0.7) for i, s in enumerate(("ddim", "euler_a", "ddpm"))]
    assert_close(pipelines, list(engine.generate(rows)))
    monkeypatch.setitem(ENGINE_TASKS, "inpainting", OneDrawLess())
    images = sorted(engine.generate(rows), key=lambda image: image.index)
    off = list(pipelines.deviations(images).values())
    assert off[0] <= 2 and min(off[1:]) > 100


def test_noise_before_the_picture_moves_it_too(engine, pipelines, monkeypatch):
    class NoiseFirst(type(ENGINE_TASKS["image-to-image"])):
        def start(self, request, info, table, encoded, draw):
            first, second = draw(), draw()
            draws = iter([second, first])
            return super().start(request, info, table, encoded, lambda: next(draws))

    request = row("image-to-image", 3, steps=8, sampler="ddim", strength=0.7)
    assert_close(pipelines, list(engine.generate([request])))
    monkeypatch.setitem(ENGINE_TASKS, "image-to-image", NoiseFirst())
    assert max(pipelines.deviations(list(engine.generate([request]))).values()) > 20


def test_what_is_kept_is_the_picture_whatever_is_painted(engine):
    """The VAE gives what is far from the mask back alike, whichever prompt paints."""
    corner = np.zeros((64, 64), np.uint8)
    corner[:16, :16] = 255
    shared = {"image": Picture(photo(64, 64, 1)), "mask_image": Picture(PIL.Image.fromarray(corner))}
    a, b = (Request(text, seed=1, steps=6, task="inpainting", extra=shared) for text in ("a red cat", "a blue dog"))
    one, other = (image.astype(int) for image in pixels(engine, a, b))
    assert np.abs(one[:16, :16] - other[:16, :16]).max() > 40
    assert np.abs(one[48:, 48:] - other[48:, 48:]).mean() < np.abs(one[:16, :16] - other[:16, :16]).mean() / 4


def test_heights_and_widths_cut_a_picture_to_their_shape_first(engine, pipelines):
    rows = [
        row("image-to-image", i, steps=5, sampler="ddim", size=size, height=48, width=80)
        for i, size in enumerate([(64, 64), (50, 200)])
    ]
    images = list(engine.generate(rows))
    assert {image.pixels.shape for image in images} == {(48, 80, 3)}
    assert_close(pipelines, images)


def test_inpainting_stretches_to_its_height_and_width(engine, pipelines):
    rows = [
        row("inpainting", i, steps=5, sampler="ddim", size=size, height=48, width=80)
        for i, size in enumerate([(64, 64), (50, 200)])
    ]
    rows.append(row("inpainting", 7, steps=5, sampler="ddim", size=(64, 64), mask_image=Picture(mask(40, 80, 3))))
    assert_close(pipelines, list(engine.generate(rows)))


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_a_padded_crop_is_painted_and_put_back(engine, pipelines, strength):
    painted = np.zeros((120, 150), np.uint8)
    painted[50:80, 60:100] = 255
    request = row("inpainting", 5, steps=6, sampler="euler", strength=strength, size=(120, 150), padding_mask_crop=8,
                  mask_image=Picture(PIL.Image.fromarray(painted)))  # fmt: skip
    (image,) = engine.generate([request])
    assert image.pixels.shape == (120, 150, 3)
    assert_close(pipelines, [image])
    (rest,) = (np.array_equal(image.pixels[:30], np.asarray(request.extra["image"].load())[:30]),)
    assert rest


def test_pictures_are_encoded_once_and_at_one_batch_shape(engine):
    shapes, encode = [], engine.family.vae.encode
    engine.family.vae.encode = lambda batch: shapes.append(tuple(batch.shape)) or encode(batch)
    shared = Picture(photo(64, 64, 77))
    rows = [row("image-to-image", i, steps=3, image=shared) for i in range(5)]
    rows += [row("image-to-image", 10 + i, steps=3, size=(64, 64)) for i in range(4)]
    try:
        pixels(engine, *rows)
    finally:
        engine.family.vae.encode = encode
    assert set(shapes) == {(2, 3, 64, 64)} and len(shapes) == 3


def test_text_rows_bring_nothing_of_pictures_along(sd):
    engine = Engine(sd, lanes=4)
    kept = []
    release = engine._sampling.release
    engine._sampling.release = lambda lane_set: (
        kept.append(engine._sampling._slots[lane_set.place]._kept) or release(lane_set)
    )
    pixels(engine, row("text-to-image", 1, steps=3), row("image-to-image", 2, steps=3))
    assert kept and all(each is None for each in kept)


def test_a_picture_that_can_not_be_used_fails_its_row_alone(engine, tmp_path):
    good = row("image-to-image", 1, steps=4)
    (wanted,) = pixels(engine, good)
    whole = photo(64, 64, 1)
    whole.save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    nothing = Picture(PIL.Image.new("L", (64, 64)))
    bad = {
        "can't be decoded": row("image-to-image", 2, image=Picture(tmp_path / "cut.png")),
        "no such file": row("image-to-image", 3, image=Picture(tmp_path / "none.png")),
        "smaller than 8x8": row("image-to-image", 4, size=(7, 64)),
        "is too large": row("image-to-image", 5, size=(8, 200_000)),
        "transparency": row("inpainting", 6, mask_image=Picture(PIL.Image.new("LA", (64, 64)))),
        "is all black": row("inpainting", 7, mask_image=nothing, padding_mask_crop=4),
        "needs its picture's size": row("inpainting", 8, mask_image=Picture(mask(32, 32, 1)), padding_mask_crop=4),
    }
    images = {image.request.seed: image for image in engine.generate([*bad.values(), good])}
    for reason, request in bad.items():
        assert images[request.seed].pixels is None and reason in images[request.seed].error
    assert np.array_equal(images[1].pixels, wanted)
    assert engine.idle
    # Rows that all fail leave nothing behind, either.
    assert [image.pixels for image in engine.generate([bad["can't be decoded"]])] == [None]
    assert np.array_equal(pixels(engine, good)[0], wanted)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (row("image-to-image", 1, sampler="ipndm"), "ipndm can't add noise"),
        (row("inpainting", 1, sampler="ipndm"), "ipndm can't add noise"),
        (row("image-to-image", 1, steps=4, strength=0.2), "strength 0.2 of 4 steps leaves no step"),
        (row("image-to-image", 1, strength=0), "leaves no step"),
        (row("image-to-image", 1, strength=1.5), "strength 1.5: expected a number from 0 to 1"),
        (row("image-to-image", 1, strength=float("nan")), "strength nan: expected a number from 0 to 1"),
        (row("image-to-image", 1, strength=True), "strength True: expected a number from 0 to 1"),
        (row("image-to-image", 1, image=b"PNG"), "image must be a Picture"),
        (row("image-to-image", 1, noise_level=20), "noise_level is not a setting of image-to-image"),
        (row("text-to-image", 1, image=Picture(b"")), "image is not a setting of text-to-image"),
        (row("inpainting", 1, mask_image=None), "needs a mask_image"),
        (row("inpainting", 1, padding_mask_crop=1.5), "padding_mask_crop 1.5: expected a whole number from 0 to"),
        (row("inpainting", 1, padding_mask_crop=-1), "padding_mask_crop -1: expected a whole number from 0 to"),
        (row("inpainting", 1, image=None), "a mask_image without an image"),
        (row("upscaling", 1), "this model is not made for upscaling, but for text-to-image, image-to-image"),
        (row("no such task", 1), "unknown task 'no such task'; there are: text-to-image"),
    ],
)
def test_what_can_not_be_run_is_told_before_any_model_is_loaded(request_, reason):
    assert reason in validate(request_, inspect_model("tiny"))


def test_rows_without_a_picture_may_have_any_sampler(engine, pipelines):
    request = Request("a red cat", seed=1, sampler="ipndm", steps=5, task="image-to-image", extra={"strength": 0.1})
    assert validate(request, engine.info) is None
    assert_close(pipelines, list(engine.generate([request])))
