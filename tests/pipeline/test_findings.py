"""A run's warnings about devices and libraries: failed checks, and differences from earlier runs."""

from __future__ import annotations

import io
import json

from sdbatch.cli.log_lines import LogLines
from sdbatch.cli.progress import ProgressLine
from sdbatch.run.pipeline import generate
from tests.outputs import report, write_table

FAST = {"steps": 1, "sampler": "ddim", "guidance_scale": 1, "shard_size": 2, "lanes": 4, "actors": (1, 1)}


def uneven(*networks: str, width: int | None = None):
    """What makes engines whose networks give the first of a batch other bits, at latents of one width or at all."""

    def make_engine(job):
        from sdbatch.diffusion.families.stable_diffusion import StableDiffusion
        from sdbatch.run.job import load_engine

        def spoil(network):
            method = getattr(StableDiffusion, network)

            def first_is_other(self, inputs, *rest):
                outputs = method(self, inputs, *rest)
                if width in (None, getattr(inputs, "shape", (None,))[-1]):
                    for tensor in outputs.values() if network == "encode" else (outputs,):
                        tensor[0] = tensor[0] * 1.001
                return outputs

            setattr(StableDiffusion, network, first_is_other)

        for network in networks:  # an actor's process ends with it
            spoil(network)
        return load_engine(job)

    return make_engine


def test_checks_that_fail_are_told_at_the_start_and_in_the_report(tmp_path, ray_session):
    prompts, out = write_table(tmp_path / "p.parquet", {"prompt": ["one"] * 8}), tmp_path / "out"
    stream, results = io.StringIO(), io.StringIO()
    progress = ProgressLine(stream, results, quiet=True)
    run = {"address": ray_session, "progress": progress, "make_engine": uneven("encode", "decode")}
    generated = generate(str(prompts), str(out), **run, **FAST)
    progress.end(generated)
    said = [line for line in stream.getvalue().splitlines() if line.startswith("warning")]
    assert len(said) == 2 and all("beside other rows" in line for line in said)
    assert all(any(name in line for line in said) for name in ("text encoder", "VAE at 64x64"))
    findings = list(generated.findings)
    assert findings == report(out)["findings"] == [line.removeprefix("warning: ") for line in said]


def test_a_check_at_a_further_size_is_told_when_it_runs(tmp_path, ray_session):
    table = {"prompt": ["one"] * 4, "width": [64, 64, 32, 32]}
    prompts, out = write_table(tmp_path / "p.parquet", table), tmp_path / "out"
    stream = io.StringIO()
    progress = LogLines(stream)
    run = {"address": ray_session, "progress": progress, "make_engine": uneven("decode", width=4)}
    progress.end(generate(str(prompts), str(out), **run, **FAST))
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    (problem,) = [event["text"] for event in events if event["event"] == "problem"]
    assert "VAE at 32x64" in problem and "VAE at 64x64" not in problem
    assert events[-1]["event"] == "end" and events[-1]["findings"] == [problem]
    assert events[-1]["engines"][-1]["checks"]["VAE at 64x64"] is True


def test_a_resume_on_another_device_or_with_other_libraries_is_told_once(tmp_path, stand_in_command):
    prompts, out = write_table(tmp_path / "p.parquet", {"prompt": ["one"] * 8}), tmp_path / "out"
    options = ("--steps", 1, "--sampler", "ddim", "--guidance-scale", 1, "--shard-size", 2, "--actors", 2)
    assert "warning" not in stand_in_command("generate", prompts, out, *options).stderr
    record = json.loads((out / "run.json").read_text())
    assert record["device"]["device_name"] and record["versions"]["torch"]
    record["device"]["device_name"] = "an abacus"
    record["versions"]["diffusers"] = "0.1"
    (out / "run.json").write_text(json.dumps(record))
    for number in range(4):
        (out / f"{number:05d}_stats.json").unlink()
    process = stand_in_command("generate", prompts, out, *options)
    (said,) = [line for line in process.stderr.splitlines() if line.startswith("warning")]
    assert "device an abacus → " in said and "diffusers 0.1 → " in said and said in process.stdout
    (out / "00000_stats.json").unlink()
    process = stand_in_command("generate", prompts, out, *options, "--same-device", status=3)
    assert "an abacus" in process.stderr.splitlines()[-1]
