"""Well-known prompt tables with their published schemas."""

from __future__ import annotations

import datetime

import pyarrow as pa

from tests.outputs import metadata
from tests.tables import write_table

# https://huggingface.co/datasets/poloclub/diffusiondb: metadata.parquet
DIFFUSIONDB = {
    "image_name": pa.array(["a.png", "b.png", "c.png", "d.png"], pa.string()),
    "prompt": pa.array(["a red circle, by greg rutkowski", "a blue square", "green cross", "a fox"], pa.string()),
    "part_id": pa.array([1, 1, 2, 2], pa.uint16()),
    "seed": pa.array([4294967295, 1, 2, 3], pa.uint32()),
    "step": pa.array([2, 3, 2, 2], pa.uint16()),
    "cfg": pa.array([7.0, 7.1, 1.0, 7.0], pa.float32()),
    "sampler": pa.array([1, 4, 8, 9], pa.uint8()),
    "width": pa.array([64, 96, 64, 64], pa.uint16()),
    "height": pa.array([64, 64, 32, 64], pa.uint16()),
    "user_name": pa.array(["d41d", None, "8cd9", "8cd9"], pa.string()),
    "timestamp": pa.array([datetime.datetime(2022, 8, 7, 22, 57, tzinfo=datetime.UTC)] * 4, pa.timestamp("us", "UTC")),
    "image_nsfw": pa.array([0.1, 2.0, 0.2, 0.3], pa.float32()),
    "prompt_nsfw": pa.array([0.0, 0.1, 0.2, 0.3], pa.float32()),
}
# https://github.com/google-research/parti: PartiPrompts.tsv
PARTIPROMPTS = {
    "Prompt": ["a red circle", 'a sign that says "Hello"'],
    "Category": ["Abstract", "World Knowledge"],
    "Challenge": ["Basic", "Writing & Symbols"],
    "Note": ["", None],
}
SETTINGS = {"prompt", "seed", "step", "cfg", "sampler", "width", "height"}


def test_diffusiondb_goes_in_as_it_is(tmp_path, stand_in_command):
    prompts = write_table(tmp_path / "metadata.parquet", DIFFUSIONDB)
    said = stand_in_command("generate", prompts, tmp_path / "out", status=1)
    assert "sampler code 9" in said.stdout
    rows = metadata(tmp_path / "out")
    assert [(row["sampler"], row["steps"], row["guidance_scale"], row["seed"]) for row in rows[:3]] == [
        ("ddim", 2, 7.0, 4294967295),
        ("euler_a", 3, 7.1, 1),
        ("lms", 2, 1.0, 2),
    ]
    assert [(row["width"], row["height"], row["status"]) for row in rows] == [
        (64, 64, "ok"),
        (96, 64, "ok"),
        (64, 32, "ok"),
        (64, 64, "failed"),
    ]
    for name, values in DIFFUSIONDB.items():
        if name not in SETTINGS:
            assert [row[name] for row in rows] == values.to_pylist()


def test_partiprompts_goes_in_as_parquet_and_as_its_tsv(tmp_path, stand_in_command):
    prompts = write_table(tmp_path / "parti.parquet", PARTIPROMPTS)
    lines = [
        "\t".join(PARTIPROMPTS),
        *("\t".join(cell or "" for cell in row) for row in zip(*PARTIPROMPTS.values(), strict=True)),
    ]
    (tmp_path / "PartiPrompts.tsv").write_text("\n".join(lines) + "\n")
    for number, table in enumerate((prompts, tmp_path / "PartiPrompts.tsv")):
        stand_in_command("generate", table, tmp_path / f"{number}", "--steps", 2, "--sampler", "ddim")
    of_parquet, of_tsv = (metadata(tmp_path / name) for name in "01")
    assert [(row["prompt"], row["Category"], row["Challenge"], row["status"]) for row in of_parquet] == [
        ("a red circle", "Abstract", "Basic", "ok"),
        ('a sign that says "Hello"', "World Knowledge", "Writing & Symbols", "ok"),
    ]
    assert [row["sha256"] for row in of_tsv] == [row["sha256"] for row in of_parquet]
