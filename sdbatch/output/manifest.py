"""The manifest: inputs and settings of one OUT, so that a later run continues the same dataset or is refused."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any
from uuid import uuid4

from sdbatch.diffusion.request import FIRST_FIELDS, ROW_FIELDS
from sdbatch.diffusion.row_fields import own_fields
from sdbatch.engine_settings import EngineSettings
from sdbatch.fields import Field
from sdbatch.output.check import Expected
from sdbatch.output.footprint import Footprint
from sdbatch.output.metadata import setting_types
from sdbatch.prompts import Columns, InputFile
from sdbatch.prompts.prompt_files import FORMAT as PROMPT_FILE
from sdbatch.prompts.shards import Cut
from sdbatch.prompts.text import TEXT_FORMATS
from sdbatch.settings import ROW_OPTIONS, RUN_FIELDS, RunSettings
from sdbatch.version import __version__

__all__ = [
    "FORMAT_VERSION",
    "RunRecord",
    "append_starts",
    "as_json",
    "is_recorded",
    "new_record",
    "versions",
]

FORMAT_VERSION = 2
PACKAGES = ("torch", "diffusers", "transformers", "numpy", "pillow", "pyarrow")


@dataclass(frozen=True)
class RunRecord:
    """The content of run.json and the files that extend it (engine.json, inputs-NNNN.json).

    Attributes:
        settings: every setting that can change a picture or its file, by name: resolved defaults for rows, and
            settings of the run.
        model: name, source, revision, commit and variant (where it was found), the same of parts that are not its own,
            changes of its scheduler's configuration, hash (hex sha256 of the weights), identity and files (digests of
            all files that can change a picture), family, height and width.
        engine: the engine settings, resolved by the first run and used by every actor since; None before a
            run has needed an engine.
        inputs: path, size, stamp and rows of each input file, and the encoding of text; the position is the file's
            permanent number, also if the file has moved since.
        shard_rows: rows of the table per shard.
        starts: numbers of the files with which a new shard starts.
        columns: which column of the table holds which setting; None in an OUT of version 1.
        schema: name and type of each column that is carried into the metadata; None in an OUT of version 1.
        fields: name and type of each setting that has a column in the metadata; None in an OUT from before this was
            recorded, which has `FIRST_FIELDS`.
        networks: networks that rows name, such as ControlNets, and LoRA files: the `setting` that names it, its `name`
            (for a LoRA the absolute path or URL), where it was found (`source`, `commit`), and the `sha256` of its
            files, or the `stamp` of a file in a store.
        versions: of the packages that affect pixels, from the worker that made the first pictures.
        device: name and capability of the device that made the first pictures, with its CUDA versions; empty if
            unknown.
        id: of this dataset; its markers carry it. None in an OUT of version 1.
        replaces: footprints that `--overwrite` found in OUT, to be removed before the first shard is made.
        recorded, recorded_networks: how many of the inputs and of the networks OUT has already recorded.
        appends: number of inputs-NNNN.json files.
        version: of the format.
    """

    settings: Mapping[str, Any]
    model: Mapping[str, Any]
    engine: EngineSettings | None
    inputs: Sequence[Mapping[str, Any]]
    shard_rows: int
    starts: tuple[int, ...] = ()
    columns: Mapping[str, str] | None = None
    schema: Sequence[Mapping[str, str]] | None = None
    fields: Sequence[Mapping[str, str]] | None = None
    networks: Sequence[Mapping[str, str]] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    device: Mapping[str, str] = field(default_factory=dict)
    id: str | None = None
    replaces: tuple[Footprint, ...] = ()
    recorded: int = 0
    recorded_networks: int = 0
    appends: int = 0
    version: int = FORMAT_VERSION

    @property
    def cut(self) -> Cut:
        """The limits of this OUT's shards. In version 1, each input file was split separately."""
        starts = tuple(range(len(self.inputs))) if self.version == 1 else self.starts
        return Cut(self.shard_rows, tuple(file["rows"] for file in self.inputs), starts)

    @property
    def footprint(self) -> Footprint:
        """The names that this OUT's shards can have."""
        settings = self.settings
        return Footprint(self.cut, settings["images_per_prompt"], settings["layout"], settings["image_format"])

    def known_fields(self) -> tuple[Field, ...]:
        """The settings with a column in the metadata, except those that are no longer declared."""
        if self.fields is None:
            return FIRST_FIELDS
        known = {field.recorded_as: field for field in (*ROW_FIELDS, *own_fields())}
        return tuple(known[entry["name"]] for entry in self.fields if entry["name"] in known)

    @property
    def started_with(self) -> dict[str, Any]:
        """The device and versions of the first pictures, as in `findings.made_with`; empty before there are any."""
        return {} if self.engine is None else {"device": self.device, "versions": self.versions}

    def expected(self) -> Expected:
        """The expected content of OUT when all its shards are made."""
        return Expected(
            cut=self.cut,
            images_per_prompt=self.settings["images_per_prompt"],
            layout=self.settings["layout"],
            image_format=self.settings["image_format"],
            model=self.model["name"],
            model_hash=self.model["hash"],
            run=self.id,
            fields=self.known_fields(),
            carried=None if self.schema is None else tuple((field["name"], field["type"]) for field in self.schema),
        )

    def numbered(self, files: Sequence[InputFile]) -> list[InputFile]:
        """`files` in the order of their numbers."""
        by_path = {file.path: file for file in files}
        return [by_path[entry["path"]] for entry in self.inputs]


def new_record(
    settings: RunSettings,
    model: Mapping[str, Any],
    files: Sequence[InputFile],
    columns: Columns,
    shard_rows: int,
    scorer_weights: Mapping[str, str] | None = None,
    networks: Sequence[Mapping[str, str]] = (),
) -> RunRecord:
    """The record of a new OUT.

    Args:
        scorer_weights: hashes of the scorers' weights, by scorer name.
        networks: the networks that rows name.
    """
    types = setting_types(columns.fields, columns.seed_type, columns.keeps_pictures)
    return RunRecord(
        settings=picture_settings(settings) | {"scorer_weights": dict(scorer_weights or {})},
        model=model,
        engine=None,
        inputs=[input_entry(file) for file in files],
        shard_rows=shard_rows,
        starts=append_starts(0, len(files)),
        columns=dict(columns.settings),
        schema=[{"name": column.name, "type": str(column.type)} for column in columns.schema],
        fields=[{"name": name, "type": str(kind)} for name, kind in types.items()],
        networks=networks,
        versions=versions(),
        id=uuid4().hex,
    )


def append_starts(first: int, count: int) -> tuple[int, ...]:
    """The starts of new shards among `count` files that are added together, numbered from `first`."""
    return (first,) if count else ()


def picture_settings(settings: RunSettings) -> dict[str, Any]:
    """The settings that can change a picture or its file, as JSON values (model and engine apart)."""
    own = [field for field in own_fields() if field.name in settings.extra]
    values = {field.name: settings.given(field.name) for field in (*ROW_OPTIONS, *own) if field.changes_picture}
    values |= {field.name: getattr(settings, field.name) for field in RUN_FIELDS if is_recorded(field)}
    return {name: as_json(value) for name, value in values.items()}


def as_json(value: Any) -> Any:
    """A setting's value as stored in the manifest."""
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def is_recorded(field: Field) -> bool:
    """Whether a setting of the run is among the manifest's settings."""
    return field.changes_picture and field.kept_in == "settings"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect pixels or files."""
    return {"python": platform.python_version(), "sdbatch": __version__, **{p: version(p) for p in PACKAGES}}


def input_entry(file: InputFile) -> dict[str, Any]:
    """The manifest's entry for an input file; for a text file, including its encoding."""
    stamp = f"sha256:{file.sha256}" if file.sha256 else file.stamp
    entry = {"path": file.path, "size": file.size, "stamp": stamp, "rows": file.rows}
    has_encoding = file.format in (*TEXT_FORMATS.values(), PROMPT_FILE)
    return entry | ({"encoding": file.encoding} if has_encoding else {})
