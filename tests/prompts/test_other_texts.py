"""Tables as other tools write them: compressed text, JSON arrays, semicolons, numbers as text."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sdbatch.errors import InputError
from sdbatch.prompts import list_inputs, text
from tests.conftest import REPOSITORY
from tests.prompts.test_text import rows

FRAME = pd.DataFrame({"prompt": ["a cat, sitting", "ein Würfel; blau", "c"], "steps": [5, None, 7]})


def told(path: Path) -> list[tuple[str | None, int, str | None]]:
    return [(row.requests[0].prompt, row.requests[0].steps, row.error) for row in rows(path)]


EXPECTED = [("a cat, sitting", 5, None), ("ein Würfel; blau", 50, None), ("c", 7, None)]


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zst"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "json"])
def test_packed_text(tmp_path, ending, kind):
    path = tmp_path / f"p.{kind}.{ending}"
    plain = tmp_path / "p"
    if kind == "csv":
        FRAME.to_csv(plain, index=False)
    else:
        FRAME.to_json(plain, orient="records", lines=kind == "jsonl")
    content = plain.read_bytes()
    if ending == "zst":
        with pa.output_stream(path, compression="zstd") as stream:
            stream.write(content)
    else:
        path.write_bytes({"gz": gzip, "bz2": bz2, "xz": lzma}[ending].compress(content))
    assert told(path) == EXPECTED
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(InputError, match=r"is damaged, or not compressed as its name says|is not JSON"):
        told(path)
    path.write_bytes(content)
    with pytest.raises(InputError, match="is damaged, or not compressed as its name says"):
        told(path)


def test_packed_text_is_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "PIECE_BYTES", 4096)
    lines = "".join(f'{{"prompt": "number {i}"}}\n' for i in range(2000)).encode()
    for name, packed in (("a.jsonl.gz", gzip.compress(lines)), ("a.txt.xz", lzma.compress(lines))):
        (tmp_path / name).write_bytes(packed)
        assert len(rows(tmp_path / name, shard=300)) == 2000
    with pa.output_stream(tmp_path / "a.jsonl.zst", compression="zstd") as stream:
        stream.write(lines)
    assert [row.requests[0].prompt for row in rows(tmp_path / "a.jsonl.zst", shard=300)][-1] == "number 1999"


BOMBS = """
import re, sys
from sdbatch.errors import InputError
from sdbatch.prompts import list_inputs
for path in sys.argv[1:]:
    try:
        list_inputs(path)
    except InputError as error:
        print(error)
# Not ru_maxrss, which begins with the memory of the process that started this one.
print(int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]) >> 10)
"""


def test_a_bomb_takes_little_memory(tmp_path):
    blanks, wide = gzip.compress(b" " * (16 << 20)), gzip.compress(b" \0" * (8 << 20))
    marks = {"line.csv.gz": (b"a", blanks * 5), "array.json.gz": (b"[", blanks * 9)}
    marks["wide.txt.gz"] = b"\xff\xfe", wide * 17
    for name, (mark, rest) in marks.items():
        (tmp_path / name).write_bytes(gzip.compress(mark) + rest)
    run = [sys.executable, "-c", BOMBS, *(tmp_path / name for name in marks)]
    said = subprocess.run(run, env={"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, timeout=300)
    *told, megabytes = said.stdout.splitlines()
    assert [line.partition(": ")[2][:14] for line in told] == ["a line is long", "line 1 is long", "is larger than"], (
        said
    )
    assert "use JSON Lines" in told[1]
    # 128 MB of text as bytes, as a string of up to 4 bytes each, and once more encoded, and all libraries.
    assert int(megabytes) < 1536


def test_arrays_of_json(tmp_path):
    path = tmp_path / "p.json"
    FRAME.to_json(path, orient="records")
    assert told(path) == EXPECTED
    path.write_text(json.dumps(["a cat", "b"], indent=2))
    assert told(path) == [("a cat", 50, None), ("b", 50, None)]
    path.write_text('[{"prompt": "a", "seed": 18446744073709551615}]')
    assert rows(path)[0].requests[0].seed == 2**64 - 1
    for content, words in (
        ('{"prompt":\n"a"}', "is not an array; expected an array of objects"),
        ('["a", 3]', "item 2 is int; expected an array"),
        ("[1,", "is not JSON"),
        ("[" * 100_000, "is nested too deeply"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=words):
            list_inputs(str(path))


def test_other_files_beside_a_table_are_none(tmp_path):
    FRAME.to_csv(tmp_path / "p.csv", index=False)
    FRAME.to_csv(tmp_path / "p.csv.gz", index=False)
    (tmp_path / "settings.json").write_text("{}")
    assert [Path(file.path).name for file in list_inputs(str(tmp_path))] == ["p.csv"]


def test_semicolons_tabs_and_the_line_that_says_them(tmp_path):
    path = tmp_path / "p.csv"
    for separator in (";", "\t"):
        FRAME.to_csv(path, index=False, sep=separator)
        assert told(path) == EXPECTED
    path.write_text("sep=;\r\n" + FRAME.to_csv(index=False, sep=";"))
    assert told(path) == EXPECTED
    path.write_text("sep=|\n" + FRAME.to_csv(index=False, sep="|"), "utf-16")
    assert told(path) == EXPECTED
    path.write_text("prompt,note;more\na;b,c\n")
    assert told(path) == [("a;b", 50, None)]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_numbers_as_text(tmp_path, kind):
    columns = {"steps": ["5", "", "few"], "cfg": ["7.5", None, "1e1"], "seed": [str(2**64 - 1), "-1", "3"]}
    arrays = {name: pa.array(texts).cast(kind) for name, texts in columns.items()}
    pq.write_table(pa.table({"prompt": ["a", "b", "c"], **arrays}), tmp_path / "p.parquet")
    parsed = rows(tmp_path / "p.parquet")
    assert [(row.requests[0].steps, row.requests[0].guidance_scale) for row in parsed[:2]] == [(5, 7.5), (50, 7.5)]
    assert parsed[0].requests[0].seed == 2**64 - 1 and parsed[2].error == "steps is few; must be a number"
    (tmp_path / "p.jsonl").write_text('{"prompt": "a", "steps": "5"}\n')
    assert rows(tmp_path / "p.jsonl")[0].requests[0].steps == 5
