"""A setting is declared once, by a task or a family, and nowhere else."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import sdbatch
from benchmarks.standin import StandIn
from sdbatch.bounds import Number, Whole
from sdbatch.diffusion.request import ROW_FIELDS, Request
from sdbatch.diffusion.row_fields import FAMILIES, FamilyDeclaration, own_fields
from sdbatch.diffusion.tasks import TASKS
from sdbatch.fields import Field
from sdbatch.kinds import Choice, Flag, Picture, Text
from sdbatch.run_options import RunOptions
from sdbatch.settings import RunSettings, all_fields
from tests.conftest import REPOSITORY
from tests.outputs import metadata, write_table
from tests.test_cli import sdbatch as command

Made = Callable[..., list[dict[str, Any]]]


class Sketch:
    """A task that only this file knows."""

    name = "sketch"
    defaults: ClassVar[Mapping[str, Any]] = {"steps": 7}
    uses = None
    fields: Sequence[Field] = (
        Field(
            name="wash",
            kind=Number(0, 1),
            default=0.8,
            help="how much is drawn over",
            group="sketch",
            aliases=("denoising_wash",),
            parameter="Denoising wash",
        ),
        Field(name="paper", kind=Choice(("white", "black")), default="white"),
        Field(name="layers", kind=Whole(1, 9)),
        Field(name="ink", kind=Text()),
        Field(name="rough", kind=Flag(), default=False),
        Field(name="motif", kind=Picture()),
    )


@pytest.fixture
def sketch() -> Iterator[None]:
    TASKS.append(Sketch())
    yield
    TASKS.pop()


@pytest.fixture
def declare() -> Iterator[Callable[..., None]]:
    """Lets models of the family of `tiny` declare something else, and more fields."""
    declared = FAMILIES[0]

    def change(fields: Sequence[Field] = (), **changes: Any) -> None:
        FAMILIES[0] = FamilyDeclaration(declared.name, fields=(*declared.fields, *fields), **changes)

    yield change
    FAMILIES[0] = declared


def table(path: Path, **columns: Any) -> str:
    return str(write_table(path, {"prompt": ["a red circle", "a blue square", "a cross"], **columns}))


@pytest.fixture
def made(ray_session: str) -> Made:
    """A run with an engine that makes noise; gives the metadata's rows."""

    def run(prompts: str, out: Path, **options: Any) -> list[dict[str, Any]]:
        sdbatch.generate(prompts, str(out), make_engine=StandIn(0.0), actors=(1, 1), address=ray_session, **options)
        return metadata(out)

    return run


@pytest.mark.usefixtures("sketch")
def test_a_tasks_own_settings_are_columns_options_metadata_and_manifest(tmp_path, made):
    prompts = table(
        tmp_path / "p.parquet",
        **{"Denoising wash": [0.25, None, 2.0]},
        rough=[True, None, False],
        layers=pa.array([3, None, 4], pa.int8()),
        motif=["a.png", None, "c.png"],
    )
    out = tmp_path / "out"
    rows = made(prompts, out, task="sketch", wash=0.5, layout="parquet", column={"motif": "motif"})
    assert [row["wash"] for row in rows] == [0.25, 0.5, 2.0]
    assert [row["rough"] for row in rows] == [True, False, False]
    assert [row["layers"] for row in rows] == [3, None, 4]
    assert [(row["paper"], row["ink"], row["steps"]) for row in rows] == [("white", None, 7)] * 3
    assert [row["input_motif"] for row in rows] == ["a.png", None, "c.png"]
    assert [row["error"] for row in rows] == [None, None, "Denoising wash is 2.0; must be a number from 0 to 1"]


@pytest.mark.usefixtures("sketch")
def test_a_resume_with_another_value_is_refused(tmp_path, made):
    prompts, out = table(tmp_path / "p.parquet", wash=[0.25, None, None]), tmp_path / "out"
    made(prompts, out, task="sketch", wash=0.5, ink="red")
    schema = pq.read_schema(out / "00000.parquet")
    kinds = {"wash": pa.float64(), "paper": pa.string(), "layers": pa.int64(), "rough": pa.bool_()}
    assert {name: schema.field(name).type for name in kinds} == kinds
    with Image.open(out / "00000" / "000000000.png") as picture:
        assert "Denoising wash: 0.25" in picture.text["parameters"]
    manifest = json.loads((out / "run.json").read_text())
    settings = {"task": "sketch", "wash": 0.5, "paper": "white", "ink": "red", "steps": 7}
    assert manifest["settings"] == manifest["settings"] | settings
    assert manifest["columns"] == {"prompt": "prompt", "wash": "wash"}
    options = ("--task", "sketch", "--ink", "red")
    assert "0 to do" in command("plan", prompts, out, *options, "--wash", 0.5).stdout
    for more, words in (
        (("--wash", 0.6), ["--wash 0.5", "0.6"]),
        (("--wash", 0.5, "--paper", "black"), ["--paper 'white'", "'black'"]),
        ((), ["--wash 0.5", "0.8"]),
    ):
        said = command("plan", prompts, out, *options, *more, status=2).stderr
        assert len(said.splitlines()) == 1 and all(word in said for word in words)
    said = command("plan", prompts, out, status=2).stderr
    assert "--task 'sketch'" in said and len(said.splitlines()) == 1
    assert command("verify", out).stdout


@pytest.mark.usefixtures("sketch")
def test_an_option_without_use_is_refused_and_a_column_carried(tmp_path):
    prompts = table(tmp_path / "p.parquet", wash=["much", "x", "y"])
    out = tmp_path / "out"
    said = command("plan", prompts, out, "--wash", 0.5, status=2).stderr
    assert said == "sdbatch: error: --wash: text-to-image does not use it; omit it\n"
    said = command("plan", prompts, out).stdout
    assert "carried wash" in said
    assert "column 'wash' is carried to the output but has no effect: text-to-image does not use it" in said
    said = command("plan", prompts, out, "--task", "sketch", status=1).stdout
    assert "wash is much; must be a number" in said
    assert "how much is drawn over; default 0.8" in command("generate", "--help").stdout
    for option, words in (("--wash=2", "a number from 0 to 1"), ("--paper=red", "white"), ("--task=x", "sketch")):
        assert words in command("plan", prompts, out, option, status=2).stderr


def test_what_a_family_has_no_use_for(tmp_path, made, declare):
    own = Field(name="max_tokens_read", kind=Whole(1, 512), default=256, aliases=("max_sequence_length",))
    uses = [field.name for field in ROW_FIELDS if field.name != "negative_prompt"]
    declare(fields=(own,), uses=uses, defaults={"sampler": "euler", "steps": 4, "guidance_scale": 1.0})
    prompts = table(tmp_path / "p.parquet", negative_prompt=["x", "y", "z"], **{"max sequence length": [77, None, 0]})
    out = tmp_path / "out"
    said = command("plan", prompts, out, "--negative-prompt", "fog", status=2).stderr
    assert said == "sdbatch: error: --negative-prompt: Stable Diffusion 1.x and 2.x does not use it; omit it\n"
    said = command("plan", prompts, out, status=1).stdout
    assert "carried negative_prompt as input_negative_prompt" in said
    assert (
        "'negative_prompt' is carried to the output but has no effect: Stable Diffusion 1.x and 2.x does not use"
        in said
    )
    rows = made(prompts, out, max_tokens_read=128)
    assert [(row["input_negative_prompt"], row["negative_prompt"]) for row in rows] == [("x", ""), ("y", ""), ("z", "")]
    assert [row["max_tokens_read"] for row in rows] == [77, 128, 0]
    assert [row["status"] for row in rows] == ["ok", "ok", "failed"]
    assert [(row["sampler"], row["steps"], row["guidance_scale"]) for row in rows] == [("euler", 4, 1.0)] * 3
    kept = json.loads((out / "run.json").read_text())["settings"]
    assert (kept["sampler"], kept["steps"], kept["max_tokens_read"]) == ("euler", 4, 128)
    declare(fields=(own,), uses=uses, defaults={"sampler": "euler", "steps": 8, "guidance_scale": 1.0})
    said = command("plan", prompts, out, "--max-tokens-read", 128, status=2).stderr
    assert "--steps 4" in said


def test_an_output_from_before_a_field_existed(tmp_path, made, declare):
    prompts, out = table(tmp_path / "p.parquet", tone=["x", "y", "z"]), tmp_path / "out"
    before = made(prompts, out)
    declare(fields=(Field(name="tone", kind=Text(), default="warm", before="cold"),))
    said = command("plan", prompts, out, status=2).stderr
    assert "--tone 'cold'" in said and "'warm'" in said
    (out / "00000_stats.json").unlink()
    assert made(prompts, out, tone="cold") == before
    declare(fields=(Field(name="tone", kind=Text(), default="warm"),))
    assert "--tone" in command("plan", prompts, out, status=2).stderr


def test_a_default_is_stated_from_its_declaration_alone():
    """A help text may explain a default ("auto: …"), but does not write it down again."""
    again = []
    for field in all_fields():
        default = field.effective_default
        plain = f"{default:g}" if isinstance(default, float) else str(default)
        if re.search(rf"default:? {re.escape(plain)}([;,]|$)", field.help):
            again.append(f"{field.option}: {field.help}")
    assert again == []


def test_a_name_that_is_taken_is_no_name_for_a_field(declare):
    declare(fields=(Field(name="steps", kind=Text()),))
    with pytest.raises(ValueError, match="'steps'"):
        all_fields()


@pytest.mark.parametrize(("name", "meant"), [("stpes", "steps"), ("guidence_scale", "guidance_scale")])
def test_an_unknown_keyword_is_a_type_error_that_names_the_nearest(tmp_path, name, meant):
    with pytest.raises(TypeError, match=f"{name!r}; did you mean {meant!r}"):
        sdbatch.generate("a red circle", str(tmp_path / "out"), **{name: 3})
    assert not list(tmp_path.iterdir())


def test_a_type_checker_sees_it(tmp_path):
    lines = ["import sdbatch", 'sdbatch.generate("a", "b", stpes=3)', 'sdbatch.generate("a", "b", steps="x")']
    lines += ['sdbatch.generate("a", "b", steps=3, model="tiny", column={"prompt": "text"})']
    lines += ["sdbatch.Engine(lanse=4)", "sdbatch.ImageGenerator(stpes=3)", 'sdbatch.generate(3, "b")']
    lines += ['sdbatch.generate(["a", {"prompt": "b"}], "b")']
    (tmp_path / "run.py").write_text("\n".join(lines))
    options = ("--config-file", REPOSITORY / "pyproject.toml", "--cache-dir", tmp_path / "cache")
    mypy = [sys.executable, "-m", "mypy", *options, tmp_path / "run.py"]
    said = subprocess.run(mypy, cwd=REPOSITORY, capture_output=True, text=True, timeout=300).stdout
    assert 'run.py:2: error: Unexpected keyword argument "stpes" for "generate"; did you mean "steps"?' in said
    assert 'run.py:3: error: Argument "steps" to "generate"' in said and "Found 5 errors" in said
    assert 'run.py:5: error: Unexpected keyword argument "lanse" for "Engine"' in said
    assert 'run.py:6: error: Unexpected keyword argument "stpes" for "ImageGenerator"' in said
    assert 'run.py:7: error: Argument 1 to "generate"' in said


def test_no_entry_point_takes_just_anything():
    for name in sdbatch.__all__:
        thing = getattr(sdbatch, name)
        parameters = inspect.signature(thing).parameters.values() if not _is_error(thing) else ()
        kinds = [str(p.annotation) for p in parameters if p.kind is p.VAR_KEYWORD]
        assert kinds == (["Unpack[RunOptions]"] if name in ("generate", "ImageGenerator") else []), name


def _is_error(thing: Any) -> bool:
    return inspect.isclass(thing) and issubclass(thing, Exception)


def test_request_settings_and_keywords_have_the_fields_and_nothing_else():
    rows = [field.name for field in ROW_FIELDS]
    assert [attribute.name for attribute in dataclasses.fields(Request)] == [*rows, "task", "extra"]
    attributes = {attribute.name for attribute in dataclasses.fields(RunSettings)}
    own = {field.name for field in own_fields()}
    assert attributes | own == {field.name for field in all_fields()} | {"extra"} and not attributes & own
    assert set(RunOptions.__annotations__) == attributes - {"extra"} | own
    assert all(getattr(RunSettings(), name) is None for name in rows if name != "prompt")
    assert RunSettings(**{field.name: field.default for field in all_fields() if field.name not in own})


def test_what_follows_from_the_fields_is_current():
    spec = importlib.util.spec_from_file_location("generate_docs", REPOSITORY / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for path, text in module.generated().items():
        assert path.read_text() == text, f"{path.relative_to(REPOSITORY)} is not current; run `make docs`"
