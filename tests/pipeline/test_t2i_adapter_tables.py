"""Tables whose rows name T2I-Adapters, through the real command."""

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
from tests.diffusion.t2i_adapter_checkpoints import build_t2i_adapter
from tests.outputs import content, metadata, write_table

TINY = Path(sdbatch.tiny.__file__).parent / "model"
WIDTHS = tuple(json.loads((TINY / "unet" / "config.json").read_text())["block_out_channels"])
TEXTS = pa.list_(pa.string())


@pytest.fixture(scope="module")
def nets(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("nets")
    kind = "full_adapter_xl"  # the UNet's first block has no attention, as that of SDXL
    return [str(build_t2i_adapter(folder / name, kind, seed, WIDTHS)) for seed, name in enumerate(["sketch", "depth"])]


@pytest.fixture
def folder(tmp_path) -> Path:
    for i, name in enumerate(["a.png", "b.png"]):
        image = Image.new("RGB", (64, 64))
        ImageDraw.Draw(image).rectangle((8 + 8 * i, 16, 48, 56), outline="white")
        image.save(tmp_path / name)
    return tmp_path


def test_rows_name_their_own_adapters(nets, folder, tmp_path, sdbatch_command):
    sketch, depth = nets
    lists = {
        "t2i_adapter": [[sketch], None, [sketch, depth]],
        "adapter_image": [["a.png"], None, ["a.png", "b.png"]],
    }
    table = {"prompt": ["a red circle"] * 3, "seed": [1] * 3, "adapter conditioning scale": [1.0, None, 0.5]}
    table |= {name: pa.array(values, TEXTS) for name, values in lists.items()}
    prompts, out = write_table(folder / "p.parquet", table), tmp_path / "out"
    few = ("--steps", 2, "--sampler", "ddim", "--actors", 1, "--shard-size", 2, "--keep-input-images")
    sdbatch_command("generate", prompts, out, *few)
    rows = metadata(out)
    assert [row["status"] for row in rows] == ["ok"] * 3 and len({row["sha256"] for row in rows}) == 3
    assert [row["t2i_adapter"] for row in rows] == lists["t2i_adapter"]
    kept = [row["input_adapter_image"] for row in rows]
    assert [cells and [cell["path"] for cell in cells] for cells in kept] == lists["adapter_image"]
    assert [row["adapter_conditioning_scale"] for row in rows] == [[1.0], None, [0.5]]
    networks = {entry["name"]: entry for entry in json.loads((out / "run.json").read_text())["networks"]}
    assert {entry["setting"] for entry in networks.values()} == {"t2i_adapter"}
    assert rows[2]["t2i_adapter_sha256"] == [networks[sketch]["sha256"], networks[depth]["sha256"]]
    parameters = Image.open(out / rows[2]["file_name"]).text["parameters"].replace('"', "")
    assert f"T2I-Adapter: {sketch}; {depth}, T2I-Adapter weight: 0.5" in parameters

    before = content(out)
    (out / "00001_stats.json").unlink()
    (out / rows[2]["file_name"]).unlink()
    sdbatch_command("generate", prompts, out, *few)
    assert content(out) == before
    (folder / "a.png").unlink()
    (folder / "b.png").unlink()
    checked = sdbatch_command("verify", out, "--remake", 3).stdout
    assert "0 bad" in checked and "3 images made again from their metadata, 0 of them different" in checked
    before, weights = content(out), Path(depth) / "diffusion_pytorch_model.safetensors"
    kept_weights = weights.read_bytes()
    build_t2i_adapter(Path(depth), "full_adapter_xl", 9, WIDTHS)
    assert f"{depth!r} has changed since" in sdbatch_command("verify", out, "--remake", 3, status=3).stderr
    refused = sdbatch_command("generate", prompts, out, *few, status=2).stderr
    weights.write_bytes(kept_weights)
    assert f"{depth!r} has changed since OUT was started" in refused and content(out) == before


def test_one_that_can_not_be_used_is_refused_in_the_plan(nets, folder):
    out, other = str(folder / "out"), str(build_t2i_adapter(folder / "other", "full_adapter", 1, WIDTHS))
    table = {"prompt": ["a", "b"], "t2i_adapter": [nets[0], other], "adapter_image": ["a.png"] * 2}
    prompts = write_table(folder / "p.parquet", table)
    reason = r"p.parquet, row 1 \(from 0\), column 't2i_adapter': .*other/config.json: made for a different model"
    with pytest.raises(InputError, match=reason):
        make_plan(str(prompts), out, RunSettings())
    plain = write_table(folder / "q.parquet", {"prompt": ["a"]})
    for options, reason in {
        (("t2i_adapter", "nowhere"), ("adapter_image", "a.png")): "--t2i-adapter: t2i_adapter 'nowhere': no such fold",
        (("t2i_adapter", nets[0]),): "1 t2i_adapter and 0 adapter_images",
        (("adapter_image", "a.png"),): "--adapter-image: no row has a t2i_adapter",
        (("adapter_conditioning_factor", 0.5), ("t2i_adapter", nets[0])): "--adapter-conditioning-factor",
    }.items():
        with pytest.raises(UsageError, match=reason):
            make_plan(str(plain), out, RunSettings.from_options(dict(options)))
    options = {"t2i_adapter": nets[0], "adapter_image": str(folder / "a.png")}
    with pytest.raises(UsageError, match="--t2i-adapter: a t2i_adapter does not work with --deep-cache"):
        make_plan(str(plain), out, RunSettings.from_options(options | {"deep_cache": 2}))
    sized = write_table(folder / "r.parquet", {"prompt": ["a", "b"], "height": [72, 64]})
    plan = make_plan(str(sized), out, RunSettings.from_options(options))
    reasons = make_forecast(plan, plan.settings).reasons
    assert list(reasons) == ["with a t2i_adapter, height and width must be multiples of 16, not 72"]


def test_rows_without_one_are_as_in_a_table_without_the_columns(folder):
    plain = write_table(folder / "plain.parquet", {"prompt": ["a red circle"]})
    columns = make_plan(str(plain), str(folder / "out"), RunSettings()).columns
    assert not [field.name for field in columns.fields if "adapter" in field.name]
