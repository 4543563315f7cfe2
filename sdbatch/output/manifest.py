"""The manifest: inputs and settings of one OUT, so that a later run continues the same dataset or is refused."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any
from uuid import uuid4

from sdbatch.diffusion.declarations import own_fields
from sdbatch.diffusion.request import FIRST_FIELDS, ROW_FIELDS
from sdbatch.engine_settings import EngineSettings
from sdbatch.errors import InputError, UsageError
from sdbatch.fields import Field
from sdbatch.output.check import Expected
from sdbatch.output.footprint import Footprint
from sdbatch.output.metadata import setting_types
from sdbatch.prompts import Columns, InputFile
from sdbatch.prompts.partitions import partition_folders
from sdbatch.prompts.prompt_files import FORMAT as PROMPT_FILE
from sdbatch.prompts.shards import Cut
from sdbatch.prompts.text import TEXT_FORMATS
from sdbatch.settings import ROW_OPTIONS, RUN_FIELDS, RunSettings
from sdbatch.version import __version__

__all__ = [
    "FORMAT_VERSION",
    "RunRecord",
    "as_json",
    "input_entry",
    "is_recorded",
    "new_record",
    "picture_settings",
    "versions",
]

FORMAT_VERSION = 2
# Where a model was found; `model_source.check_recorded` compares its content.
MODEL_LOCATION_KEYS = {
    *("source", "revision", "commit", "variant", "tokenizer", "vae", "text_encoders", "embeddings"),
    *("identity", "files", "part_commits"),
}
PACKAGES = ("torch", "diffusers", "transformers", "numpy", "pillow", "pyarrow")
HINT = "use another OUT, or --overwrite to replace this one"


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
            (of a LoRA the absolute path or URL), where it was found (`source`, `commit`), and the `sha256` of its
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

    def continued(self, new: RunRecord) -> RunRecord:
        """This record, with the additional inputs of `new` numbered after its own.

        Raises:
            UsageError: `new` would make different pictures; the message names the setting.
            InputError: an input file was changed or removed, or the table has other columns.
        """
        for ours, theirs, what in ((self.settings, new.settings, "--"), (self.model, new.model, "model ")):
            names = (set(ours) | set(theirs)) - MODEL_LOCATION_KEYS
            for name in sorted(names, key=lambda name: (name != "task", name)):  # others follow from the task
                if ours.get(name) != theirs.get(name):
                    option = f"{what}{name.replace('_', '-')}"
                    before, now = ours.get(name), theirs.get(name)
                    raise UsageError(f"OUT was started with {option} {before!r}, this run has {now!r}; {HINT}")
        if self.shard_rows != new.shard_rows:
            raise UsageError(
                f"OUT was started with {self.shard_rows} rows per shard, this run has {new.shard_rows}; {HINT}"
            )
        self._check_columns(new)
        self._check_networks(new)
        inputs = self._inputs_now(new.inputs)
        starts = self.starts + append_starts(len(self.inputs), len(inputs) - len(self.inputs))
        known = {network["name"] for network in self.networks}
        networks = [*self.networks, *(network for network in new.networks if network["name"] not in known)]
        return dataclasses.replace(self, inputs=inputs, starts=starts, networks=networks)

    def _check_networks(self, new: RunRecord) -> None:
        before = {network["name"]: _content(network) for network in self.networks}
        for network in new.networks:
            if before.get(name := network["name"], _content(network)) != _content(network):
                raise UsageError(f"{name!r} has changed since OUT was started: its content differs; {HINT}")

    def _check_columns(self, new: RunRecord) -> None:
        if self.columns is not None and dict(self.columns) != dict(new.columns or {}):
            raise InputError(
                f"OUT was started with the columns {_mapping(self.columns)}; "
                f"this table has {_mapping(new.columns or {})}; choose them with --column, {HINT}"
            )
        if self.schema is not None and list(self.schema) != list(new.schema or ()):
            raise InputError(
                f"OUT was started with {_fields(self.schema)}; this table has {_fields(new.schema or ())}; {HINT}"
            )
        if None not in (self.columns, self.fields) and list(self.fields or ()) != list(new.fields or ()):
            settings, now = (", ".join(f"{f['name']} ({f['type']})" for f in r.fields or ()) for r in (self, new))
            raise UsageError(f"the metadata of OUT has the settings {settings}; this run would write {now}; {HINT}")

    def _inputs_now(self, inputs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The known inputs in their order, at their current paths, then the new ones."""
        current = {entry["path"]: entry for entry in inputs}
        kept = [current.pop(known["path"], None) for known in self.inputs]
        alike: dict[tuple[Any, ...], list[str]] = {}
        for entry in current.values():
            alike.setdefault(_traits(entry), []).append(entry["path"])
        for number, known in enumerate(self.inputs):
            entry = kept[number] or _moved(known, alike, current)
            if entry is None:
                raise InputError(f"{known['path']} was an input of OUT and is no longer among the prompts; {HINT}")
            for name in ("rows", "size", "stamp", "encoding"):
                if name in known and entry.get(name) != known[name]:
                    change = f"{name} {known[name]} → {entry.get(name)}"
                    raise InputError(f"{known['path']} changed since OUT was started ({change}); {HINT}")
            kept[number] = entry
        return [*kept, *current.values()]

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


def _content(network: Mapping[str, str]) -> tuple[str, str]:
    return network.get("sha256", ""), network.get("stamp", "")


def append_starts(first: int, count: int) -> tuple[int, ...]:
    """The starts of new shards among `count` files that are added together, numbered from `first`."""
    return (first,) if count else ()


def _moved(
    known: Mapping[str, Any], alike: Mapping[tuple[Any, ...], list[str]], current: dict[str, Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """Take the file of `current` that is a known input at another path: otherwise equal, partitions included.

    Args:
        alike: paths by their other properties.
    """
    if not known["stamp"]:  # a prompt instead of a path
        return None
    same = [path for path in alike.get(_traits(known), ()) if path in current]
    return current.pop(same[0]) if len(same) == 1 else None


def _traits(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    path = entry["path"]
    name = "/".join([*partition_folders(path), path.rpartition("/")[2]])  # including the columns in its path
    return name, entry["size"], entry["rows"], entry["stamp"]


def _mapping(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{setting}={column}" for setting, column in columns.items())


def _fields(schema: Sequence[Mapping[str, str]]) -> str:
    if not schema:
        return "no further columns"
    return "the further columns " + ", ".join(f"{field['name']} ({field['type']})" for field in schema)


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
