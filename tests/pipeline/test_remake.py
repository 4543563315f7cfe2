"""`verify --remake`: a dataset can be reproduced from its metadata."""

from __future__ import annotations

import hashlib
import io
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.outputs import as_before_fields, as_version_1, write_table


def test_images_are_made_again_from_their_metadata_rows_alone(tmp_path, sdbatch_command):
    table = {
        "prompt": ["a red circle", "a blue square", "", "a green triangle"],
        "sampler": ["ddpm", "euler_a", "ddim", "pndm"],
        "steps": [3, 4, 5, 6],
        "guidance_scale": [7.5, 1.0, 3.0, 2.0],
        "guidance_start": [0.2, 0.0, None, None],
        "guidance_stop": [None, 1.0, 0.5, 0.9],
        "guidance_rescale": [0.0, 0.0, 0.5, 0.7],
    }
    prompts, out = write_table(tmp_path / "p.parquet", table), tmp_path / "out"
    # What no metadata row holds.
    alike = ("--deep-cache", 2, "--quantization", "int8", "--watermark", "sdxl")
    defaults = ("--guidance-start", 0.1, "--guidance-stop", 0.7)
    sdbatch_command("generate", prompts, out, "--images-per-prompt", 2, "--actors", 1, *alike, *defaults, status=1)
    rows = pq.read_table(out / "00000.parquet").to_pylist()
    assert [row["guidance_start"] for row in rows[::2]] == [0.2, 0.0, 0.1, 0.1]
    assert [row["guidance_stop"] for row in rows[::2]] == [0.7, 1.0, 0.5, 0.9]
    # Nor do the run's own values have a say.
    manifest = json.loads((out / "run.json").read_text())
    manifest["settings"] |= {"guidance_start": 0.9, "guidance_stop": 0.95, "guidance_rescale": 0.1}
    (out / "run.json").write_text(json.dumps(manifest))
    process = sdbatch_command("verify", out, "--remake", 4)
    assert "4 images made again from their metadata, 0 of them different" in process.stdout

    # One pixel changed, and everything that tells of it put right: only making it again can show.
    forge(out, "000000003")
    assert "0 bad" in sdbatch_command("verify", out).stdout
    process = sdbatch_command("verify", out, "--remake", 6, status=1)
    assert "image 000000003: made again, its bytes differ" in process.stdout
    assert "1 of them different" in process.stdout


def test_images_of_fp8_are_made_again(tmp_path, sdbatch_command):
    prompts, out = write_table(tmp_path / "p.parquet", {"prompt": ["a red circle", "a blue square"]}), tmp_path / "out"
    options = ("--steps", 4, "--sampler", "ddim", "--actors", 1)
    sdbatch_command("generate", prompts, out, "--quantization", "fp8", *options)
    assert json.loads((out / "run.json").read_text())["engine"]["quantization"] == "fp8"
    said = sdbatch_command("verify", out, "--remake", 2).stdout
    assert "2 images made again from their metadata, 0 of them different" in said
    sdbatch_command("generate", prompts, tmp_path / "whole", *options)
    pictures = [(folder / "00000" / "000000000.png").read_bytes() for folder in (out, tmp_path / "whole")]
    assert pictures[0] != pictures[1]


def test_outputs_of_earlier_versions_are_made_again_with_the_settings_of_their_runs(tmp_path, sdbatch_command):
    prompts, out = write_table(tmp_path / "p.parquet", {"prompt": ["one", "two"], "id": [1, 2]}), tmp_path / "out"
    options = ("--steps", 4, "--sampler", "ddim", "--guidance-start", 0.3, "--guidance-stop", 0.7)
    # As earlier versions compressed PNGs.
    sdbatch_command("generate", prompts, out, *options, "--compression", "small", "--actors", 1)
    for as_before in (as_before_fields, as_version_1):
        old = shutil.copytree(out, tmp_path / as_before.__name__)
        as_before(old)
        said = sdbatch_command("verify", old, "--remake", 2).stdout
        assert "2 images made again from their metadata, 0 of them different" in said


def forge(out, key: str) -> None:
    path = out / "00000" / f"{key}.png"
    with Image.open(path) as image:
        chunks = PngInfo()
        chunks.add_text("parameters", image.text["parameters"])
        image.putpixel((0, 0), (1, 2, 3))
        file = io.BytesIO()
        image.save(file, "PNG", pnginfo=chunks)
    path.write_bytes(file.getvalue())
    for metadata in (out / "00000.parquet", out / "00000" / "metadata.parquet"):
        table = pq.read_table(metadata)
        keys, digests = table["key"].to_pylist(), table["sha256"].to_pylist()
        digests[keys.index(key)] = hashlib.sha256(file.getvalue()).hexdigest()
        at = table.column_names.index("sha256")
        pq.write_table(table.set_column(at, "sha256", pa.array(digests, pa.string())), metadata)
