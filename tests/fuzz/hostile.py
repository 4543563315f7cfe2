"""What fuzzers share: values that no file should hold, ways to damage one, and the command that must say so.

SDBATCH_FUZZ is the number of examples of each fuzzer (20; `make fuzz`: 2,000).
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import resource
import time
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from sdbatch.cli import main

EXAMPLES = int(os.environ.get("SDBATCH_FUZZ", "20"))
LONGEST_S = 20.0  # of CPU time, which other processes of the machine do not lengthen
MAX_MEMORY_KB = 6 << 20  # of the whole test process, which holds the libraries, too

fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

TEXTS = st.text(max_size=12) | st.sampled_from(
    ["", "../../x", "/etc/passwd", "a\0b", "\x1b[2J", "\ud800", "nan", "1e999", "x" * 5000, "s3://b/x", "%s{}"]
)
NUMBERS = st.integers() | st.sampled_from([-1, 0, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**15, 10**400]) | st.floats()
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def changed(draw: st.DrawFn, document: Any) -> Any:
    """The JSON document with one or a few of its values, at any depth, replaced, removed or doubled."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(document))
        if not places:
            return draw(VALUES)
        holder, key = draw(st.sampled_from(places))
        act = draw(st.sampled_from(["replace", "remove", "add"]))
        if act == "remove":
            del holder[key]
        elif act == "replace":
            holder[key] = draw(VALUES)
        elif isinstance(holder, list):
            holder.append(draw(VALUES))
        else:
            holder[draw(TEXTS)] = draw(VALUES)
    return document


def _places(document: Any) -> Any:
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in list(items):
        yield document, key
        if isinstance(value, dict | list):
            yield from _places(value)


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with some of them changed, left out, put in, or cut off."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.sampled_from([0, 1, 4, 100]))
        data = data[:at] + draw(st.binary(max_size=8)) + data[at + length :]
        if draw(st.integers(0, 5)) == 0:
            data = data[: draw(st.integers(0, len(data)))]
    return data


def encoded(document: Any) -> bytes:
    """A document as a file holds it; a lone surrogate stays the escape that JSON has for it."""
    return json.dumps(document).encode()


def assert_told(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run the command: it ends soon, with a status of its own, a line for an error, and nothing new in `folder`."""
    before = sorted(path.name for path in folder.iterdir())
    began, output, errors = time.process_time(), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            status = main(list(arguments))
        except SystemExit as ended:  # argparse's own way
            status = ended.code
    said = errors.getvalue()
    assert status in (0, 1, 2) or (status == 3 and "unexpected error" not in said), said
    lines = said.splitlines()
    assert len(lines) == 1 if status >= 2 else all(line.startswith("warning") for line in lines), said
    assert "\x1b" not in said + output.getvalue()
    assert time.process_time() - began < LONGEST_S
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < MAX_MEMORY_KB
    assert sorted(path.name for path in folder.iterdir()) == before
    return status, output.getvalue() + said
