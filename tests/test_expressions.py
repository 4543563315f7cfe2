"""Conditions: what they mean, what is refused, and that nothing in them runs."""

from __future__ import annotations

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdbatch.errors import UsageError
from sdbatch.scoring.expressions import Expression

KINDS = {"clip": "number", "steps": "number", "nsfw": "flag", "sampler": "text"}


def holds(text, **values):
    return Expression.parse(text, KINDS, "--keep").holds(values)


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("clip >= 0.27 and not nsfw", {"clip": 0.27, "nsfw": False}, True),
        ("clip >= 0.27 and not nsfw", {"clip": 0.3, "nsfw": True}, False),
        ("0.2 < clip <= 0.9", {"clip": 0.9}, True),
        ("0.2 < clip <= 0.9", {"clip": 0.2}, False),
        ("sampler in ('ddim', 'ddpm') or steps > 20", {"sampler": "ddpm", "steps": 1}, True),
        ("sampler not in ['ddim']", {"sampler": "ddim"}, False),
        ("-clip * 2 + 1 < 0", {"clip": 0.6}, True),
        ("nsfw == false", {"nsfw": False}, True),
        ("clip / (steps - 1) > 0", {"clip": 1.0, "steps": 1}, False),  # no number at all
    ],
)
def test_meaning(text, values, expected):
    assert holds(text, **values) is expected


@pytest.mark.parametrize("missing", [None, float("nan")])
@pytest.mark.parametrize("text", ["clip > 0", "not clip > 0", "clip != 0", "not (clip > 0 or nsfw)"])
def test_the_unknown_is_not_kept(text, missing):
    assert not holds(text, clip=missing, nsfw=False)


def test_the_unknown_does_not_spoil_what_is_certain():
    assert holds("clip > 0 or steps > 1", clip=None, steps=2)
    assert not holds("clip > 0 and steps > 1", clip=1.0, steps=None)


number = st.one_of(st.none(), st.integers(-3, 3).map(float))
flag = st.one_of(st.none(), st.booleans())
comparison = st.builds(
    "{} {} {}".format,
    st.sampled_from(["clip", "steps"]),
    st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    st.sampled_from(["clip", "steps", "0", "-1.5", "2"]),
)
condition = st.recursive(
    st.one_of(comparison, st.just("nsfw")),
    lambda inner: st.one_of(
        st.builds("({} and {})".format, inner, inner),
        st.builds("({} or {})".format, inner, inner),
        st.builds("(not {})".format, inner),
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(condition, number, number, flag)
def test_as_duckdb_understands_it(text, clip, steps, nsfw):
    row = "(select ?::double clip, ?::double steps, ?::boolean nsfw)"
    query = f"select coalesce({text.replace('==', '=')}, false) from {row}"
    ((expected,),) = duckdb.execute(query, [clip, steps, nsfw]).fetchall()
    assert holds(text, clip=clip, steps=steps, nsfw=nsfw) is expected


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "invalid syntax"),
        ("clip >", "invalid syntax"),
        ("clip", "is not a condition"),
        ("clipp > 1", "did you mean 'clip'"),
        ("clip > 'a'", "compares"),
        ("nsfw > 1", "compares"),
        ("clip and nsfw", "expected a flag"),
        ("sampler + 1 > 2", "expected a number"),
        ("__import__('os').system('true')", "not supported"),
        ("clip.real > 1", "not supported"),
        ("(lambda: nsfw)()", "not supported"),
        ("[x for x in (1, 2)]", "not supported"),
        ("clip ** 9 > 1", "not supported"),
        ("clip is None", "use =="),
        ("sampler in sampler", "in parentheses"),
        ("nsfw or " * 300 + "nsfw", "at most 2,000 characters"),
        ("not " * 60 + "nsfw", "nested"),
        ("(" * 900 + "nsfw" + ")" * 900, ""),
        ("clip > 1\0", ""),
    ],
)
def test_refused_in_one_line(text, word):
    with pytest.raises(UsageError, match="(?s)^--keep.*" + word) as caught:
        Expression.parse(text, KINDS, "--keep")
    assert "\n" not in str(caught.value)


def test_which_of_its_conditions_are_not_fulfilled():
    expression = Expression.parse("clip > 0.2 and not nsfw and steps < 9", KINDS, "--keep")
    assert expression.unfulfilled({"clip": 0.1, "nsfw": None, "steps": 1}) == ["clip > 0.2", "not nsfw"]
    assert Expression.parse("clip > 1 or nsfw", KINDS, "").unfulfilled({"clip": 1, "nsfw": False}) == [
        "clip > 1 or nsfw"
    ]


def test_what_it_looks_at_and_which_end_it_prefers():
    expression = Expression.parse("clip > 0.2 and 3 > steps", KINDS, "--keep")
    assert expression.names == ("clip", "steps")
    assert expression.prefers_low("steps") and not expression.prefers_low("clip")
