"""A run in a file: options by name, under those of the command line."""

from __future__ import annotations

import pytest

from sdbatch.cli import main
from tests.output.writing import write_output
from tests.outputs import write_table


@pytest.fixture
def config(tmp_path):
    def write(text: str) -> str:
        (tmp_path / "run.yaml").write_text(text)
        return str(tmp_path / "run.yaml")

    return write


def test_the_file_gives_what_the_command_line_leaves_out(tmp_path, config, capsys):
    write_table(tmp_path / "p.parquet", {"prompt": ["a red circle"] * 40})
    path = config(
        f"prompts: {tmp_path}/p.parquet\nout: {tmp_path}/out\nshard-size: 8\nactors: '1:4'\nguidance_scale: 2\n"
    )
    assert main(["plan", "--config", path]) == 0
    assert "5 of up to 8 rows" in capsys.readouterr().out
    assert main(["plan", "--config", path, "--shard-size", "20"]) == 0
    assert "2 of up to 20 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stpes: 3", ["stpes"]),
        ("steps: many", ["steps", "many"]),
        ("- a\n- b", ["mapping"]),
        ("a: [", ["YAML"]),
        ('overwrite: "no"', ["line 1", "overwrite", "'no'", "true or false"]),
        ('overwrite: "false"', ["overwrite"]),
        ("overwrite: 0", ["overwrite"]),
        ("overwrite: null", ["overwrite"]),
        ("steps: [1]", ["steps", "a list"]),
        ("steps: {a: 1}", ["steps", "a mapping"]),
        ("steps: 5\nsteps: 6", ["line 2", "steps", "twice"]),
        ("shard-size: 5\nshard_size: 6", ["line 2", "shard_size", "twice"]),
        ("guidance_scale: null", ["guidance_scale", "no value"]),
        ("guidance_scale: .nan", ["guidance_scale", "1,000,000"]),
        ("stall_timeout: inf", ["stall_timeout", "1,000,000,000"]),
        ("part:", ["part", "no value"]),
        ("column: prompt=prompt", ["column", "such as {NAME: COLUMN}"]),
        ("column: {prompt: [a]}", ["column: expected text for each name"]),
        ("scheduler_config: {shift: [3]}", ["scheduler_config: expected text or a number for each name"]),
        ("scheduler_config: 5", ["scheduler_config", "such as {KEY: VALUE}"]),
        ("text_encoder: [a]", ["text_encoder", "such as {NAME: DIR}"]),
        ("{text_encoder: no/such/folder, scheduler_config: {beta_end: 0.02}}", ["--text-encoder text_encoder=no/such"]),
        ("column: {prompt: a, prompt: b}", ["column", "once"]),
        ("command: x", ["command"]),
        ("self: 1", ["self"]),
        ("help: true", ["help"]),
        ("5: 1", ["'5'"]),
        ("layout: [files]", ["layout"]),
        ("layout: fiels", ["layout", "files, parquet"]),
        ("storage_options: 5", ["storage_options"]),
        ("a: &a [1]\nb: [*a, *a]", ["aliases"]),
        ("variant: !!set {a}", ["line 1", "tags", "set"]),
        ("watermark: !!python/object:os.system x", ["tags"]),
        ('watermark: "\\ud800"', ["line 1", "surrogate"]),
        ('address: ""', ["--address is empty"]),
        ("sampler: " + "9" * 5000, ["sampler code"]),
        ("a: [" + "[]," * 100_000 + "]", ["more than the maximum"]),
        ("a: " + "[" * 5000 + "]" * 5000, ["nested too deeply"]),
        ('out: "a\\0b"', ["NUL"]),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path, config, capsys, text, words):
    arguments = ["plan", "--config", config(text), "a red circle", *([] if "out:" in text else [str(tmp_path / "out")])]
    try:
        status = main(arguments)
    except SystemExit as ended:  # argparse's own way
        status = ended.code
    assert status == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    for word in words:
        assert word in error


def test_a_word_is_what_it_says_and_no_number_or_truth_value(tmp_path, config, capsys):
    write_table(tmp_path / "p.parquet", {"text": ["a red circle"] * 40})
    path = config(
        f"prompts: {tmp_path}/p.parquet\nout: {tmp_path}/out\nactors: 1:4\ncompile: off\noverwrite: no\n"
        "column: {prompt: text, width: }\nlog-format: json\nstorage_options: {client_kwargs: {verify: false}}\n"
    )
    assert main(["plan", "--config", path, "--images-per-second", "1"]) == 0
    assert ", 0:10 with 4" in capsys.readouterr().out


def test_a_switch_that_is_not_on_leaves_out_alone(tmp_path, config, capsys):
    write_output(str(tmp_path / "out"), write_table(tmp_path / "p.parquet", {"prompt": ["a red circle"]}))
    before = sorted(str(path) for path in (tmp_path / "out").rglob("*"))
    for text in ('overwrite: "no"', "overwrite: 0", "overwrite: [false]"):
        assert main(["generate", "--config", config(text), "a blue square", str(tmp_path / "out")]) == 2
    assert sorted(str(path) for path in (tmp_path / "out").rglob("*")) == before


def test_a_cluster_that_is_not_there_is_said_at_once(tmp_path, sdbatch_command):
    prompts = write_table(tmp_path / "p.parquet", {"prompt": ["a red circle"]})
    process = sdbatch_command("generate", prompts, tmp_path / "out", "--address", "127.0.0.1:1", status=3)
    assert "no Ray cluster answers at 127.0.0.1:1" in process.stderr
