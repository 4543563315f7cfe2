"""Make the runs and record their results: `python -m tests.unchanged.record`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import sdbatch
from tests.unchanged.runs import RUNS, build_models, build_table, processor

__all__ = ["RECORDED", "rows_of"]

RECORDED = Path(__file__).parent / "recorded"


def rows_of(out: Path) -> pa.Table:
    """Every metadata row of an output with the image file's bytes beside it, shards in order."""
    tables = []
    for shard in sdbatch.open(str(out)).stored_shards():
        images = shard.images()
        made = [next(images) if status == "ok" else None for status in shard.metadata.column("status").to_pylist()]
        tables.append(shard.metadata.append_column("image", pa.array(made, pa.binary())))
    return pa.concat_tables(tables)


def main() -> None:
    shutil.rmtree(RECORDED, ignore_errors=True)
    RECORDED.mkdir()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = build_models(folder)
        for title, run in RUNS.items():
            table, out = build_table(folder, run), folder / title
            arguments = ["generate", table, out, "--model", models[run.model], *run.arguments]
            subprocess.run([sys.executable, "-m", "sdbatch", *map(str, arguments)], check=False)
            pq.write_table(rows_of(out), RECORDED / f"{title}.parquet", compression="zstd")
    (RECORDED / "made-on.json").write_text(json.dumps({"processor": processor()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
