"""`sdbatch plan` through the real command: its report on a table agrees with what generate then does."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa

from sdbatch.diffusion import Engine, Request
from tests.outputs import markers, write_table
from tests.test_cli import sdbatch


def table(rows=600):
    cycle = lambda *values: [values[i % len(values)] for i in range(rows)]  # noqa: E731
    return {
        "prompt": ["" if i in (7, 300) else f"a red circle, number {i}" for i in range(rows)],
        "steps": pa.array([0 if i == 11 else i % 12 + 1 for i in range(rows)], pa.int32()),
        "sampler": cycle("ddim", "heun", "euler_a", "no_such_sampler"),
        "guidance_scale": pa.array(cycle(1.0, 7.5, None), pa.float32()),
        "height": pa.array(cycle(None, 32), pa.int32()),
        "baggage": ["x" * 100] * rows,
    }


def test_the_plan_of_a_mixed_table(tmp_path):
    prompts = write_table(tmp_path / "prompts.parquet", table(), row_group_size=100)
    said = sdbatch("plan", prompts, tmp_path / "out", "--images-per-prompt", 2, "--shard-size", 100, status=1).stdout
    assert "600 rows in 1 file, 2 images each: 1,200 images" in said
    assert "12 of up to 50 rows; 12 to do, with 600 rows" in said
    assert "bad rows  151 of 600" in said
    assert re.search(r"148  unknown sampler 'no_such_sampler'.*\n +first: .*prompts.parquet, row 3 ", said)
    assert re.search(r"  2  prompt is empty\n +first: .*prompts.parquet, row 7 ", said)
    assert re.search(r"  1  steps is 0; must be at least 1\n +first: .*, row 11 ", said)
    assert re.search(r"sampler +(\w+: \d+ *){3}", said)
    assert "64x64: " in said and "64x32: " in said
    assert not (tmp_path / "out").exists()


def test_the_calls_are_those_of_the_samplers(tmp_path):
    columns = {
        "prompt": ["a circle"] * 5,
        "sampler": ["ddim", "heun", "pndm", "euler_a", "dpm2"],
        "steps": [10, 10, 10, 10, 10],
        "guidance_scale": [7.5, 7.5, 1.0, 0.0, 1.0],
    }
    prompts = write_table(tmp_path / "prompts.parquet", columns)
    said = sdbatch("plan", prompts, tmp_path / "out", "--images-per-second", 0.5, "--price-per-hour", 36).stdout
    # 2 lanes × 10, 2 × (2 × 10 − 1), 10 + 1, 10, 2 × 10 − 1
    assert f"5 images, {20 + 38 + 11 + 10 + 19} calls of the model" in said
    assert "time    0:10 with one worker; cost 0.1 at 36 per hour" in said
    said = sdbatch("plan", prompts, tmp_path / "out", "--guidance-stop", 0.5).stdout
    assert f"{(10 + 5) + (19 + 9) + 11 + 10 + 19} calls of the model" in said


def test_weights_in_eight_bits_take_less_memory(tmp_path):
    prompts = write_table(tmp_path / "prompts.parquet", {"prompt": ["a red circle"]})

    def megabytes(*options) -> tuple[float, float]:
        said = sdbatch("plan", prompts, tmp_path / "out", *options).stdout
        told = re.search(r"million parameters take ([\d.]+) MB in fp32 or ([\d.]+) MB in fp16(.*); --measure", said)
        assert told[3] == (f", with layers of the denoiser in {options[1]}" if options else "")
        return float(told[1]), float(told[2])

    whole, int8, fp8 = megabytes(), megabytes("--quantization", "int8"), megabytes("--quantization", "fp8")
    assert all(fewest < fewer < all_ for fewest, fewer, all_ in zip(int8, fp8, whole, strict=True))


def test_measuring_says_time_and_memory(tmp_path):
    prompts = write_table(tmp_path / "prompts.parquet", {"prompt": ["a red circle"] * 40})
    said = sdbatch("plan", prompts, tmp_path / "out", "--steps", 3, "--measure", "--lanes", 4, "--actors", 2).stdout
    assert re.search(r"in 60 passes of 4 lanes", said)
    assert re.search(r"speed +\d+\.\d\d passes per second on .+, fp32", said)
    assert re.search(r"memory +[\d.]+ [MG]B at peak, measured at 4 lanes", said)
    assert re.search(r"time +\d+:\d\d with one worker, \d+:\d\d with 2", said)


def test_passes_with_deep_cache_are_those_of_the_engine(tmp_path):
    """Cached calls are passes, too; the measured speed is that of full and cached ones together."""
    prompts = write_table(tmp_path / "prompts.parquet", {"prompt": ["a red circle"] * 12})
    options = ("--steps", 4, "--deep-cache", 3, "--measure", "--lanes", 4)
    said = sdbatch("plan", prompts, tmp_path / "out", *options).stdout
    assert "12 images, 96 calls of the model" in said and "in 24 passes of 4 lanes" in said
    engine = Engine("tiny", lanes=4, deep_cache=3)
    assert len(list(engine.generate([Request("a red circle", seed=i, steps=4) for i in range(12)]))) == 12
    assert engine.counters["lane_calls"] == 24 * 4


def test_what_is_done_is_not_planned_again(tmp_path, stand_in_command):
    columns = {"prompt": ["a red circle"] * 24, "steps": [1] * 8 + [2] * 16}
    prompts = write_table(tmp_path / "prompts.parquet", columns)
    arguments = (prompts, tmp_path / "out", "--sampler", "ddim", "--guidance-scale", 1, "--shard-size", 8)
    stand_in_command("generate", *arguments, "--part", "1/3")
    assert len(markers(tmp_path / "out")) == 1
    said = sdbatch("plan", *arguments).stdout
    assert "3 of up to 8 rows; 2 to do, with 16 rows" in said
    assert "16 images, 32 calls" in said


def test_a_large_table_is_looked_through_in_bounded_memory(tmp_path):
    rows = 60_000
    columns = {
        "prompt": pa.array(["a red circle"] * rows).dictionary_encode(),
        "seed": np.arange(rows),
        "guidance_scale": np.linspace(1, 20, rows),  # no two alike
        "baggage": pa.array(["x" * 2000] * rows).dictionary_encode(),
    }
    prompts = write_table(tmp_path / "prompts.parquet", columns)
    said = sdbatch("plan", prompts, tmp_path / "out").stdout
    assert "60,000 rows" in said and "bad rows  none" in said
    assert "994+ others" in said


def test_a_column_by_which_most_rows_fail_is_told_with_the_option_that_carries_it(tmp_path):
    sizes = {"WIDTH": [1500, 31, 64, 333, 641] * 20, "HEIGHT": [1001, 64, 707, 32, 480] * 20}
    prompts = write_table(tmp_path / "laion.parquet", {"prompt": ["a red circle"] * 100, **sizes})
    said = sdbatch("plan", prompts, tmp_path / "out", status=1).stdout
    line = "most rows fail because of 'HEIGHT' and 'WIDTH'; to carry the values instead of using them: "
    assert line + "--column height= --column width=\n" in said
    options = ("--column", "height=", "--column", "width=")
    said = sdbatch("plan", prompts, tmp_path / "out", *options).stdout
    assert "most rows fail" not in said and "carried WIDTH, HEIGHT" in said


def test_what_a_column_cannot_help_blames_no_column(tmp_path):
    columns = {"prompt": [""] * 60 + ["a"] * 40, "steps": [0] * 40 + [1] * 60}
    prompts = write_table(tmp_path / "p.parquet", columns)
    assert "most rows fail" not in sdbatch("plan", prompts, tmp_path / "out", status=1).stdout
    write_table(tmp_path / "p.parquet", {"prompt": ["a"] * 10, "cfg": [float("nan")] * 9 + [1.0]})
    said = sdbatch("plan", tmp_path / "p.parquet", tmp_path / "out", status=1).stdout
    assert (
        "most rows fail because of 'cfg'; to carry the values instead of using them: --column guidance_scale=\n" in said
    )
