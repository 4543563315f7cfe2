"""The formats of exports, listed in `FORMS`: for data sets; those for evaluations are in a module of their own."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import pyarrow as pa

from sdbatch.output.export_evaluations import DpgBench, GenEval, HpsV2, T2ICompBench
from sdbatch.output.export_form import Chosen, Form, stored_images
from sdbatch.output.layouts import webdataset_tar
from sdbatch.output.metadata import FOLDER_METADATA, folder_table
from sdbatch.output.stored import StoredShard
from sdbatch.storage.parquet import parquet_bytes

__all__ = ["FORMS"]


class ImageFolder(Form):
    """`NNNNN/KEY.png` with `NNNNN/metadata.parquet`, as Hugging Face's imagefolder reads it."""

    def write(self, shard: StoredShard, rows: Sequence[Chosen]) -> int:
        metadata = f"{shard.name}/{FOLDER_METADATA}"
        if self._target.exists(metadata):
            return 0
        for chosen, image in stored_images(shard, rows):
            self.place(f"{shard.name}/{chosen.row['key']}{self._extension}", image)
        table = _table(rows, self._columns)
        names = [f"{chosen.row['key']}{self._extension}" for chosen in rows]
        self._target.replace(metadata, parquet_bytes(folder_table(table, names)))
        return 1


class WebDataset(Form):
    """`NNNNN.tar`: image, `.txt` and `.json` of each."""

    def write(self, shard: StoredShard, rows: Sequence[Chosen]) -> int:
        name = f"{shard.name}.tar"
        if self._target.exists(name):
            return 0
        tar = io.BytesIO()
        webdataset_tar(
            tar, ((chosen.row, image.read()) for chosen, image in stored_images(shard, rows)), self._extension
        )
        self._target.replace(name, tar.getvalue())
        return 1


def _table(rows: Sequence[Chosen], columns: pa.Schema) -> pa.Table:
    arrays = {
        column.name: pa.array([chosen.row.get(column.name) for chosen in rows], column.type) for column in columns
    }
    return pa.table(arrays)


FORMS: Mapping[str, type[Form]] = {
    "imagefolder": ImageFolder,
    "webdataset": WebDataset,
    "geneval": GenEval,
    "dpg-bench": DpgBench,
    "hpsv2": HpsV2,
    "t2i-compbench": T2ICompBench,
}
