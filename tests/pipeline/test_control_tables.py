"""Tables whose rows name ControlNets, through the real command."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image, ImageDraw

import sdbatch.tiny
from sdbatch.errors import InputError, UsageError
from sdbatch.plan.forecast import make_forecast
from sdbatch.plan.planning import make_plan
from sdbatch.settings import RunSettings
from tests.diffusion.checkpoints import build_sdxl
from tests.diffusion.control_checkpoints import build_controlnet, build_union
from tests.outputs import content, metadata, write_table

TINY = Path(sdbatch.tiny.__file__).parent / "model"
TEXTS = pa.list_(pa.string())


@pytest.fixture(scope="module")
def nets(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("nets")
    return [build_controlnet(folder / name, TINY, seed) for seed, name in enumerate(["canny", "depth"])]


@pytest.fixture
def folder(tmp_path) -> Path:
    for i, name in enumerate(["a.png", "b.png"]):
        image = Image.new("RGB", (64, 64))
        ImageDraw.Draw(image).rectangle((8 + 8 * i, 16, 48, 56), outline="white")
        image.save(tmp_path / name)
    return tmp_path


def test_rows_name_their_own_nets(nets, folder, tmp_path, sdbatch_command):
    canny, depth = map(str, nets)
    lists = {
        "controlnet": [[canny], None, [canny, depth], [depth], [canny]],
        "control_image": [["a.png"], None, ["a.png", "b.png"], ["b.png"], ["none.png"]],
    }
    table = {"prompt": ["a red circle"] * 5, "seed": list(range(5)), "guess mode": [False, None, None, True, None]}
    table |= {name: pa.array(values, TEXTS) for name, values in lists.items()}
    prompts = write_table(folder / "p.parquet", table)
    few = ("--steps", 4, "--sampler", "ddim", "--actors", 1, "--shard-size", 3, "--control-guidance-end", 0.5)
    few += ("--keep-input-images",)
    out = tmp_path / "out"
    plan = sdbatch_command("plan", prompts, out, *few).stdout
    assert "and 18 calls of ControlNets" in plan  # two of four calls: of 1, 2, 1 and 1 nets, in guess mode one lane
    sdbatch_command("generate", prompts, out, *few, status=1)
    rows = metadata(out)
    assert [row["status"] for row in rows] == ["ok"] * 4 + ["failed"]
    assert "none.png" in rows[4]["error"]
    assert [row["controlnet"] for row in rows] == lists["controlnet"]
    kept = [row["input_control_image"] for row in rows]
    assert [cells and [cell["path"] for cell in cells] for cells in kept] == lists["control_image"]
    assert [cell["bytes"] for cell in kept[2]] == [(folder / name).read_bytes() for name in ("a.png", "b.png")]
    assert [row["control_guidance_end"] for row in rows] == [[0.5], None, *[[0.5]] * 3]
    networks = {entry["name"]: entry for entry in json.loads((out / "run.json").read_text())["networks"]}
    assert rows[2]["controlnet_sha256"] == [networks[canny]["sha256"], networks[depth]["sha256"]]
    assert len(rows[2]["input_control_image_sha256"]) == 2 and rows[1]["controlnet_sha256"] is None
    parameters = Image.open(out / rows[2]["file_name"]).text["parameters"]
    assert f"ControlNet: {canny}; {depth}, ControlNet end: 0.5, Model hash" in parameters.replace('"', "")

    before = content(out)
    (out / "00001_stats.json").unlink()
    for row in rows[3:4]:
        (out / row["file_name"]).unlink()
    sdbatch_command("generate", prompts, out, *few, status=1)
    assert content(out) == before
    (folder / "a.png").unlink()
    (folder / "b.png").unlink()
    checked = sdbatch_command("verify", out, "--remake", 4)
    assert (
        "0 bad" in checked.stdout and "4 images made again from their metadata, 0 of them different" in checked.stdout
    )


def test_rows_without_a_net_are_as_in_a_table_without_the_columns(folder):
    plain = write_table(folder / "plain.parquet", {"prompt": ["a red circle"]})
    columns = make_plan(str(plain), str(folder / "out"), RunSettings()).columns
    assert not [field.name for field in columns.fields if "control" in field.name]


def test_text_tables_hold_several_between_semicolons(nets, folder):
    table = "prompt,controlnet,control_image,controlnet_conditioning_scale\n"
    table += f"a red circle,{nets[0]}; {nets[1]},a.png;b.png,0.5;1\n"
    table += f"a red circle,{nets[0]},a.png,\n"
    table += "a red circle,,,\n"
    table += "a red circle,,a.png,\n"
    table += f"a red circle,{nets[0]};,a.png,\n"
    table += f"a red circle,{nets[0]},a.png,much\n"
    (folder / "p.csv").write_text(table)
    settings = RunSettings(steps=4, sampler="ddim")
    plan = make_plan(str(folder / "p.csv"), str(folder / "out"), settings)
    forecast = make_forecast(plan, plan.settings)
    assert forecast.control_calls_to_do == 2 * 4 * 2 + 4 * 2
    assert sorted(forecast.reasons) == [
        "control_image without a controlnet",
        "controlnet holds a list with an empty value",
        "controlnet_conditioning_scale is much; must be a number",
    ]


def test_a_net_that_can_not_be_used_is_refused_in_the_plan(nets, folder):
    out = str(folder / "out")
    (folder / "empty").mkdir()
    names = [str(nets[0]), str(folder / "empty")]
    prompts = write_table(
        folder / "p.parquet", {"prompt": ["a", "b"], "controlnet": names, "control_image": ["a.png"] * 2}
    )
    with pytest.raises(InputError, match=r"p.parquet, row 1 \(from 0\), column 'controlnet': .*config.json is missing"):
        make_plan(str(prompts), out, RunSettings())
    plain = write_table(folder / "q.parquet", {"prompt": ["a"]})
    for options, reason in {
        (("controlnet", "nowhere"), ("control_image", "a.png")): "--controlnet: controlnet 'nowhere': no such folder",
        (("controlnet", names[0]),): "1 controlnet and 0 control_images",
        (("control_image", "a.png"),): "--control-image: no row has a controlnet",
    }.items():
        with pytest.raises(UsageError, match=reason):
            make_plan(str(plain), out, RunSettings.from_options(dict(options)))
    options = {"controlnet": names[0], "control_image": str(folder / "a.png"), "deep_cache": 2}
    with pytest.raises(UsageError, match="does not work with --deep-cache"):
        make_plan(str(plain), out, RunSettings.from_options(options))


@pytest.fixture(scope="module")
def xl(tmp_path_factory) -> tuple[Path, str, str]:
    """A small Stable Diffusion XL, a ControlNet Union and a plain ControlNet of it."""
    folder = tmp_path_factory.mktemp("xl")
    model = build_sdxl(folder / "model")
    return model, str(build_union(folder / "union", model, 0)), str(build_controlnet(folder / "plain", model, 1))


def union_table(folder: Path, union: str, plain: str) -> Path:
    table = {
        "prompt": ["a red circle"] * 5,
        "controlnet": pa.array([[union], [union, union], [union], [plain], [union]], TEXTS),
        "control_image": pa.array([["a.png"], ["a.png", "b.png"], ["a.png"], ["b.png"], ["a.png"]], TEXTS),
        "control mode": pa.array([[3], [0, 1], None, [0], [4]], pa.list_(pa.int32())),
    }
    return write_table(folder / "p.parquet", table)


def test_the_plan_knows_which_modes_a_union_has(xl, folder):
    model, union, plain = xl
    settings = RunSettings(steps=4, sampler="ddim", model=str(model))
    planned = make_plan(str(union_table(folder, union, plain)), str(folder / "out"), settings)
    forecast = make_forecast(planned, planned.settings)
    assert forecast.control_calls_to_do == 2 * 4 * 2  # two images of one Union are one run
    assert {reason.split(" ", 1)[1] for reason in forecast.reasons} == {
        "is a ControlNet Union: control_mode must say what its image is, 0 to 3",
        f"{plain} is a plain ControlNet; only a ControlNet Union has modes",
        f"4: the modes of {union} are 0 to 3",
    }


@pytest.mark.long
def test_rows_name_a_union_and_its_modes(xl, folder, tmp_path, sdbatch_command):
    model, union, plain = xl
    out = tmp_path / "out"
    few = ("--model", model, "--steps", 3, "--sampler", "ddim", "--actors", 1, "--height", 64, "--width", 64)
    sdbatch_command("generate", union_table(folder, union, plain), out, *few, status=1)
    rows = metadata(out)
    assert [row["status"] for row in rows] == ["ok"] * 2 + ["failed"] * 3
    assert [row["control_mode"] for row in rows[:2]] == [[3], [0, 1]]
    assert "ControlNet mode: 0; 1" in Image.open(out / rows[1]["file_name"]).text["parameters"].replace('"', "")
    checked = sdbatch_command("verify", out, "--remake", 2)
    assert "2 images made again from their metadata, 0 of them different" in checked.stdout
