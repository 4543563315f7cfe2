"""From rows to requests: defaults, nulls, widths of numbers, and rows that fail alone."""

from __future__ import annotations

import math
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdbatch.diffusion.request import Request
from sdbatch.prompts import Columns, Piece, PromptRow, parse
from sdbatch.settings import RunSettings


def parsed(columns: dict[str, object], text: bool = False, **options: object) -> list[PromptRow]:
    table = pa.table(columns)
    meaning = Columns({name: name for name in table.column_names}, {}, pa.schema([]), text)
    return parse(table, meaning, RunSettings.from_options(options), [Piece(0, 0, table.num_rows)])


def one(**columns: object) -> PromptRow:
    (row,) = parsed({"prompt": ["a"]} | {k: v if isinstance(v, pa.Array) else [v] for k, v in columns.items()})
    return row


def test_a_row_overrides_every_setting() -> None:
    row = one(negative_prompt="n", seed=7, sampler="ddim", steps=3, guidance_scale=1.5, height=64, width=128)
    assert row == PromptRow((Request("a", "n", 7, "ddim", 3, 1.5, 64, 128),), None)


def test_null_is_the_runs_own_value_but_a_null_negative_prompt_is_none() -> None:
    names = ("negative_prompt", "sampler", "steps", "guidance_scale", "height", "width")
    (row,) = parsed(
        {"prompt": ["a"], "seed": [5]} | {name: pa.nulls(1) for name in names},
        negative_prompt="n",
        sampler="euler",
        steps=4,
        guidance_scale=2.0,
        height=64,
        width=128,
    )
    assert row.requests == (Request("a", "", 5, "euler", 4, 2.0, 64, 128),)
    (row,) = parsed({"prompt": ["a"]}, negative_prompt="n")
    assert row.requests[0].negative_prompt == "n"


def test_images_of_a_row_count_its_seed_up() -> None:
    (row,) = parsed({"prompt": ["a"], "seed": [10]}, images_per_prompt=3)
    assert [request.seed for request in row.requests] == [10, 11, 12]


def test_seeds_of_their_own_follow_from_run_seed_file_and_row() -> None:
    def seeds(rows: int, run_seed: int, file: int, first: int) -> list[int]:
        columns = Columns({"prompt": "prompt"}, {}, pa.schema([]))
        table = pa.table({"prompt": ["a"] * rows})
        parsed = parse(table, columns, RunSettings(seed=run_seed), [Piece(file, first, table.num_rows)])
        return [row.requests[0].seed for row in parsed]

    whole = seeds(100, 0, 0, 0)
    assert whole[40:] == seeds(60, 0, 0, 40)  # however the file is cut
    assert len({*whole, *seeds(100, 1, 0, 0), *seeds(100, 0, 1, 0)}) == 300
    assert all(0 <= seed < 2**32 for seed in whole)
    # printf 0/0/0 | b2sum -l 32. This must never change: outputs made so far rest on it.
    assert whole[0] == 0x121E3F8A


@pytest.mark.parametrize(
    "kind", [pa.uint8(), pa.int16(), pa.uint32(), pa.int64(), pa.uint64(), pa.float32(), pa.float64()]
)
def test_whole_numbers_of_any_width(kind: pa.DataType) -> None:
    row = one(steps=pa.array([20], kind), seed=pa.array([3], kind))
    assert (row.requests[0].steps, row.requests[0].seed) == (20, 3)
    assert type(row.requests[0].steps) is int


def test_float32_is_read_as_it_was_written() -> None:
    assert one(guidance_scale=pa.array([7.1], pa.float32())).requests[0].guidance_scale == 7.1


def test_samplers_go_by_their_own_names_and_unknown_ones_by_what_they_were_called() -> None:
    given = {
        "ddim": "ddim",
        "k_euler_ancestral": "euler_a",
        "Euler a": "euler_a",
        "PLMS": "pndm",
        "nonsense": "nonsense",
    }
    assert {name: one(sampler=name).requests[0].sampler for name in given} == given
    codes = {1: "ddim", 2: "pndm", 3: "euler", 4: "euler_a", 5: "heun", 6: "dpm2", 7: "dpm2_a", 8: "lms", 9: "9"}
    assert {code: one(sampler=pa.array([code], pa.uint8())).requests[0].sampler for code in codes} == codes


def test_dictionaries_and_every_kind_of_string() -> None:
    assert one(sampler=pa.array(["ddim"]).dictionary_encode()).requests[0].sampler == "ddim"
    for kind in (pa.large_string(), pa.string_view()):
        assert one(negative_prompt=pa.array(["n"], kind)).requests[0].negative_prompt == "n"


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": " \n\t"}, "prompt is empty"),
        ({"prompt": None}, "prompt is empty"),
        ({"steps": 0}, "steps is 0; must be at least 1"),
        ({"steps": -3}, "steps is -3; must be at least 1"),
        ({"steps": 2.5}, "steps is 2.5; must be a whole number"),
        ({"steps": math.nan}, "steps is nan; must be a whole number"),
        ({"steps": math.inf}, "steps is inf; must be a whole number"),
        ({"steps": Decimal("2.5")}, "steps is 2.5; must be a whole number"),
        ({"seed": -2}, "seed is -2; must be at least 0, or -1 for none"),
        ({"seed": Decimal(2**64)}, "seed is 18446744073709551616; must be less than 2**64"),
        ({"seed": 2.5}, "seed is 2.5; must be a whole number"),
        ({"seed": math.inf}, "seed is inf; must be a whole number"),
        (
            {"seed": float(2**53)},
            "seed is 9007199254740992.0 as a float, which is not exact from 2**53 on; store it as an integer",
        ),
        (
            {"seed": pa.array([2**24], pa.float32())},
            "seed is 16777216.0 as a float, which is not exact from 2**24 on; store it as an integer",
        ),
        ({"height": 0}, "height is 0; must be at least 1"),
        ({"guidance_scale": math.inf}, "guidance_scale is inf; must be a finite number"),
        ({"guidance_scale": math.nan}, "guidance_scale is nan; must be a finite number"),
    ],
)
def test_a_bad_row_says_why(columns: dict[str, object], reason: str) -> None:
    assert one(**columns).error == reason


def test_a_bad_row_keeps_what_could_be_read() -> None:
    row = one(steps=0, seed=9, guidance_scale=math.nan, height=64)
    assert row.requests[0] == Request("a", "", 9, "ddpm", 0, None, 64, None)


def test_text_that_is_not_utf8_fails_alone() -> None:
    data = pa.array([b"good", b"\xff\xfe", b"fine"])
    strings = pa.Array.from_buffers(pa.string(), 3, data.buffers())
    assert [row.error for row in parsed({"prompt": strings})] == [None, "prompt is not valid UTF-8", None]


@pytest.mark.parametrize("seed", [2**63, 2**64 - 1])
def test_seeds_are_exact_in_every_type_that_holds_them(seed: int) -> None:
    for values in (pa.array([seed], pa.uint64()), pa.array([Decimal(seed)], pa.decimal128(38, 2))):
        assert one(seed=values).requests[0].seed == seed
    (row,) = parsed({"prompt": ["a"], "seed": [f" {seed} "]}, text=True)
    assert row.requests[0].seed == seed
    assert one(seed=pa.array([2.0**53 - 1])).requests[0].seed == 2**53 - 1


def test_seeds_wrap() -> None:
    (row,) = parsed({"prompt": ["a"], "seed": pa.array([2**64 - 1], pa.uint64())}, images_per_prompt=3)
    assert [request.seed for request in row.requests] == [2**64 - 1, 0, 1]


@pytest.mark.parametrize("seed", [pa.array([-1]), pa.array([-1.0]), pa.nulls(1), pa.array([Decimal(-1)])])
def test_a_seed_of_minus_one_is_none_given(seed: pa.Array) -> None:
    assert one(seed=seed) == one()
    (row,) = parsed({"prompt": ["a"], "seed": ["-1"]}, text=True)
    assert row == one()


def test_an_earlier_outputs_seeds_stay_below_2_63() -> None:
    columns = Columns({"prompt": "prompt", "seed": "seed"}, {}, pa.schema([]), seed_type=pa.int64())
    table = pa.table({"prompt": ["a"] * 3, "seed": pa.array([2**63 - 1, 2**63, 7], pa.uint64())})
    rows = parse(table, columns, RunSettings(images_per_prompt=2), [Piece(0, 0, 3)])
    assert [row.error is None for row in rows] == [False, False, True]
    assert "must be less than 2**63" in rows[0].error and "must be less than 2**63" in rows[1].error
    (row,) = parse(pa.table({"prompt": ["a"], "seed": [-1]}), columns, RunSettings(), [Piece(0, 0, 1)])
    assert row.error == "seed is -1; must be at least 0"


@pytest.mark.parametrize(
    ("value", "steps", "error"),
    [
        ("20", 20, None),
        (" 20.0 ", 20, None),
        ("2e1", 20, None),
        ("", 50, None),
        (None, 50, None),
        ("many", None, "steps is many; must be a number"),
        ("nan", None, "steps is nan; must be a number"),
        ("sNaN", None, "steps is sNaN; must be a number"),
        ("1e999999999", None, "steps is 1E+999999999; must be less than 2**63"),
        ("\x1b[31m", None, "steps is \\x1b[31m; must be a number"),
        ("9" * 10_000, None, f"steps is {'9' * 40}…; must be less than 2**63"),
    ],
)
def test_numbers_in_text(value: str | None, steps: int | None, error: str | None) -> None:
    (row,) = parsed({"prompt": ["a"], "steps": pa.array([value], pa.string())}, text=True)
    assert (row.requests[0].steps, row.error) == (steps, error)


@given(
    prompt=st.none() | st.text(),
    numbers=st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=4, max_size=4),
    scale=st.none() | st.floats(),
    sampler=st.none() | st.text(),
)
def test_any_values_give_a_request_in_range_or_a_reason(
    prompt: str | None, numbers: list[int | None], scale: float | None, sampler: str | None
) -> None:
    seed, steps, height, width = (pa.array([number], pa.int64()) for number in numbers)
    (row,) = parsed(
        {
            "prompt": pa.array([prompt], pa.string()),
            "seed": seed,
            "steps": steps,
            "height": height,
            "width": width,
            "guidance_scale": pa.array([scale], pa.float64()),
            "sampler": pa.array([sampler], pa.string()),
        }
    )
    (request,) = row.requests
    if row.error is None:
        assert request.prompt.strip() and request.steps >= 1 and 0 <= request.seed < 2**64
        assert math.isfinite(request.guidance_scale)
        assert request.height is None or request.height >= 1
    else:
        assert "\n" not in row.error


@given(value=st.text(max_size=60))
def test_any_text_is_a_number_or_a_reason(value: str) -> None:
    columns = {name: pa.array([value], pa.string()) for name in ("steps", "guidance_scale", "seed")}
    (row,) = parsed({"prompt": ["a"]} | columns, text=True)
    assert row.error is None or row.error.isprintable()
