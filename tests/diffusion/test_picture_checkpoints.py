"""Checkpoints for input pictures: each against its own pipeline of diffusers, with all samplers."""

from __future__ import annotations

import random
from dataclasses import replace

import diffusers
import numpy as np
import picture_checkpoints
import pytest
from picture_rows import Picture, Pipelines, mask, photo

from sdbatch.cli import main
from sdbatch.diffusion.calls import lane_calls
from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.models.model_identity import model_files
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.samplers.catalogue import SAMPLERS
from sdbatch.diffusion.tasks import ENGINE_TASKS
from sdbatch.diffusion.validation import validate
from sdbatch.errors import ModelError

STRENGTHS = (0.2, 0.5, 0.75, 1.0)
NOISING = [name for name in SAMPLERS if name != "ipndm"]
ALL = list(SAMPLERS)
# Checkpoint, its pipeline, its task, samplers, size of the first row's picture, and settings by row.
CHECKPOINTS = {
    "inpainting": (picture_checkpoints.build_inpainting, diffusers.StableDiffusionInpaintPipeline, NOISING[::2]),
    "inpainting-v": (
        lambda folder: picture_checkpoints.build_inpainting(folder, "v_prediction"),
        diffusers.StableDiffusionInpaintPipeline,
        NOISING[1::4],
    ),
    "inpainting-xl": (
        picture_checkpoints.build_xl_inpainting,
        diffusers.StableDiffusionXLInpaintPipeline,
        NOISING[3::4],
    ),
    "depth-to-image": (picture_checkpoints.build_depth, diffusers.StableDiffusionDepth2ImgPipeline, NOISING[::2]),
    "depth-to-image-v": (
        lambda folder: picture_checkpoints.build_depth(folder, "v_prediction"),
        diffusers.StableDiffusionDepth2ImgPipeline,
        NOISING[1::2],
    ),
    "upscaling": (picture_checkpoints.build_upscaler, diffusers.StableDiffusionUpscalePipeline, ALL[::2]),
    "upscaling-epsilon": (
        lambda folder: picture_checkpoints.build_upscaler(folder, "epsilon"),
        diffusers.StableDiffusionUpscalePipeline,
        ALL[1::2],
    ),
    "instruct-edit": (
        picture_checkpoints.build_instruct,
        diffusers.StableDiffusionInstructPix2PixPipeline,
        ALL[::2],
    ),
    "instruct-edit-v": (
        lambda folder: picture_checkpoints.build_instruct(folder, "v_prediction"),
        diffusers.StableDiffusionInstructPix2PixPipeline,
        ALL[1::2],
    ),
    "image-variation": (picture_checkpoints.build_variation, diffusers.StableUnCLIPImg2ImgPipeline, ALL[::2]),
    "image-variation-epsilon": (
        lambda folder: picture_checkpoints.build_variation(folder, "epsilon"),
        diffusers.StableUnCLIPImg2ImgPipeline,
        ALL[1::2],
    ),
}


def settings_of(task: str, i: int) -> dict:
    """What the i-th row has besides its picture."""
    if task in ("inpainting", "depth-to-image"):
        return {"strength": STRENGTHS[i % 4]}
    if task == "instruct-edit":
        return {"image_guidance_scale": (1.5, 1.0, 0.9, 2.5)[i % 4]}
    return {"noise_level": (20, 0, 150)[i % 3]}


def rows_of(task: str, samplers) -> list[Request]:
    """Rows of all samplers, in an odd order, with sizes that are no multiples of a cell among them."""
    rows = []
    rows_each = 1 if task in ("upscaling", "depth-to-image") else 2
    for i, sampler in enumerate(name for name in samplers for _ in range(rows_each)):
        size = ((11, 14), (8, 12)) if task == "upscaling" else ((70, 67), (64, 64))
        extra = {"image": Picture(photo(*size[i % 2], i))} | settings_of(task, i if rows_each == 1 else i // 2 + i % 2)
        if task == "inpainting":
            extra["mask_image"] = Picture(mask(64, 64, i))
        guidance = (
            (5.0, 1.0)[(i // 4 if rows_each == 1 else i) % 2] if task != "instruct-edit" else (5.0, 1.0, 3.0)[i % 3]
        )
        rows.append(
            Request("a red cat", "ugly" if i % 3 else "", i, sampler, 5 + i % 3, guidance, task=task, extra=extra)
        )
    random.Random(0).shuffle(rows)
    return rows


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A checkpoint's folder by its name above, built when it is first wanted."""
    folders = {}

    def build(name: str):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("models") / name
            CHECKPOINTS[name][0](folders[name])
        return folders[name]

    return build


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_rows_are_what_the_pipeline_makes_and_do_not_depend_on_company(name, every, built):
    _, cls, samplers = CHECKPOINTS[name]
    engine = Engine(built(name), lanes=6)
    (task,) = engine.info.tasks
    rows = rows_of(task, samplers[::every])
    images = list(engine.generate(rows))
    off = {words: by for words, by in Pipelines(built(name), {task: cls}).deviations(images).items() if by > 2}
    assert not off, f"off by more than 2 of 255: {off}"
    bytes_of = {image.request.seed: image.pixels.tobytes() for image in images}
    assert len(set(bytes_of.values())) == len(rows)
    again = list(engine.generate(rows[::-1]))
    assert {image.request.seed: image.pixels.tobytes() for image in again} == bytes_of
    for request in rows[:3]:
        (alone,) = engine.generate([request])
        assert alone.pixels.tobytes() == bytes_of[request.seed]


@pytest.mark.parametrize("name", [name for name in CHECKPOINTS if "-v" not in name and "epsilon" not in name])
def test_a_row_costs_what_the_plan_says(name, built):
    engine = Engine(built(name), lanes=6)
    (task,) = engine.info.tasks
    for request in rows_of(task, ["ddim", "heun"]):
        before = engine.counters["lane_calls_used"]
        list(engine.generate([request]))
        assert engine.counters["lane_calls_used"] - before == lane_calls(request, engine.info)


def test_what_a_checkpoint_is_made_for_comes_first(built, sd):
    assert inspect_model(sd).tasks == ("text-to-image", "image-to-image", "inpainting")
    for name in CHECKPOINTS:
        task = next(task for task in sorted(ENGINE_TASKS, key=len, reverse=True) if name.startswith(task))
        assert inspect_model(built(name)).tasks == (task,)


def test_every_part_of_it_belongs_to_its_identity(built):
    files = model_files(inspect_model(built("image-variation")))
    assert {"image_encoder", "image_normalizer", "feature_extractor", "image_noising_scheduler"} <= {
        file.partition("/")[0] for file in files
    }


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("inpainting", {"task": "text-to-image", "extra": {}}, "not made for text-to-image, but for inpainting"),
        ("inpainting", {"extra": {}}, "inpainting with this model needs an image"),
        ("depth-to-image", {"extra": {}}, "depth-to-image needs an image"),
        ("depth-to-image", {"sampler": "ipndm"}, "ipndm can't add noise"),
        ("upscaling", {"height": 64}, "upscaling takes no height and width: it makes 4 times"),
        ("upscaling", {"extra": {"noise_level": 351}}, "noise_level 351 is more than the 350 of this model"),
        ("image-variation", {"extra": {"noise_level": 1000}}, "noise_level 1000 is more than the 999"),
        ("image-variation", {"extra": {"noise_level": -1}}, "noise_level -1: expected a whole number from 0 to"),
        ("instruct-edit", {"extra": {"strength": 0.5}}, "strength is not a setting of instruct-edit"),
    ],
)
def test_rows_that_make_no_sense_are_refused(name, changes, reason, built):
    info = inspect_model(built(name))
    (request,) = rows_of(info.tasks[0], ["ddim"])[:1]
    values = {"image": Picture(photo(64, 64, 1)), **changes.get("extra", {})} if changes.get("extra") != {} else {}
    changed = {**{f: getattr(request, f) for f in ("prompt", "seed", "steps", "task")}, **changes, "extra": values}
    assert reason in validate(Request(**changed), info)


def test_a_variation_needs_no_words_and_others_do(built):
    (request,) = rows_of("image-variation", ["ddim"])[:1]
    nothing = Request("", seed=3, steps=4, sampler="ddim", task="image-variation", extra=request.extra)
    info = inspect_model(built("image-variation"))
    assert validate(nothing, info) is None
    images = list(Engine(info, lanes=4).generate([nothing]))
    pipelines = Pipelines(built("image-variation"), {"image-variation": diffusers.StableUnCLIPImg2ImgPipeline})
    assert max(pipelines.deviations(images).values()) <= 2


def test_a_picture_without_depth_fails_its_row_alone(built):
    engine = Engine(built("depth-to-image"), lanes=4)
    bias = engine.family.encoders["depth"]._estimator.head.head[-2]
    good, flat, *_ = rows_of("depth-to-image", ["ddim", "euler"])
    flat = replace(flat, extra={**flat.extra, "image": Picture(photo(64, 64, 9), "flat.png")})
    others = [replace(good, seed=seed, steps=steps) for seed, steps in ((11, 3), (12, 9), (13, 6), (14, 4))]
    wanted = {image.request.seed: image.pixels for image in engine.generate(others)}
    weight = bias.weight.clone()
    bias.weight.zero_()  # the others' depths are known already
    try:
        images = {image.request.seed: image for image in engine.generate([*others[:2], flat, *others[2:]])}
    finally:
        bias.weight.copy_(weight)
    failed = images.pop(flat.seed)
    assert failed.pixels is None and failed.error == "flat.png: its estimated depth is constant, so it can't be used"
    assert all(np.array_equal(image.pixels, wanted[seed]) for seed, image in images.items()) and len(images) == 4


def test_three_lanes_a_row_fit_however_few_there_are(built):
    rows = rows_of("instruct-edit", ["ddim", "euler"])
    images = {image.request.seed: image for image in Engine(built("instruct-edit"), lanes=2).generate(rows)}
    assert not [image.error for image in images.values() if image.error]
    assert len(images) == len(rows)


def test_guidance_that_stops_leaves_two_lanes_to_others(built):
    engine = Engine(built("instruct-edit"), lanes=4)
    extra = {"image": Picture(photo(64, 64, 1))}
    rows = [
        Request("red", seed=i, steps=6, sampler="ddim", guidance_stop=0.5, task="instruct-edit", extra=extra)
        for i in range(4)
    ]
    images = {image.request.seed: image.pixels.tobytes() for image in engine.generate(rows)}
    assert engine.counters["lane_calls_used"] == 4 * (3 * 3 + 3)
    (alone,) = engine.generate([rows[2]])
    assert alone.pixels.tobytes() == images[2]


@pytest.mark.parametrize(
    ("name", "part", "changes", "reason"),
    [
        ("inpainting", "unet/config.json", {"in_channels": 5}, "depth-conditioned"),
        ("depth-to-image", "unet/config.json", {"in_channels": 4}, "needs 5"),
        ("depth-to-image", "model_index.json", {"depth_estimator": [None, None]}, "names no depth_estimator"),
        ("upscaling", "unet/config.json", {"class_embed_type": "timestep"}, "class_embed_type"),
        (
            "inpainting",
            "model_index.json",
            {"vae": ["diffusers", "AsymmetricAutoencoderKL"]},
            "AsymmetricAutoencoderKL",
        ),
        ("image-variation", "image_encoder/config.json", {"hidden_size": "wide"}, "hidden_size"),
    ],
)
def test_checkpoints_that_can_not_be_run_are_told_before_weights_are_read(name, part, changes, reason, built, tmp_path):
    import json
    import shutil

    folder = shutil.copytree(built(name), tmp_path / "copy")
    path = folder / part
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ModelError, match=reason):
        inspect_model(folder)


def test_processors_are_those_that_round_alike_everywhere(built):
    """With torchvision installed the classes of the plain names are others."""
    for name, kind in (("depth-to-image", "depth"), ("image-variation", "vision")):
        processor = Engine(built(name), lanes=4).family.encoders[kind]._processor
        assert type(processor).__name__.endswith("ImageProcessorPil")


@pytest.mark.parametrize("task", ["depth-to-image", "upscaling", "instruct-edit", "image-variation"])
def test_a_table_has_the_pictures_that_its_rows_need(task, tmp_path, capsys):
    model = CHECKPOINTS[task][0](tmp_path / "model")
    photo(64, 64, 1).save(tmp_path / "photo.png")
    table = tmp_path / "table.csv"
    table.write_text("prompt,image\na house,photo.png\na house,\n")
    options = ("--model", str(model), "--steps", "3", "--sampler", "ddim")
    assert main(["plan", str(table), str(tmp_path / "out"), *options]) == 1
    said = capsys.readouterr().out
    assert "bad rows  1 of 2" in said and f"{task} needs an image" in said
    table.write_text("prompt\na house\n")
    assert main(["plan", str(table), str(tmp_path / "out"), *options]) == 2
    assert f"these settings cannot produce an image: {task} needs an image" in capsys.readouterr().err
