"""run.json: what one OUT was made from and with, so that a second run continues the same dataset or is refused."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from sdbatch import __version__
from sdbatch.errors import InputError, UsageError
from sdbatch.output.check import Expected
from sdbatch.prompts import InputFile
from sdbatch.settings import RunSettings
from sdbatch.storage import Store

__all__ = ["NAME", "RunRecord", "picture_settings", "versions"]

NAME = "run.json"
FORMAT_VERSION = 1
PICTURE_SETTINGS = (
    "sampler",
    "steps",
    "guidance_scale",
    "guidance_rescale",
    "guidance_start",
    "guidance_stop",
    "negative_prompt",
    "height",
    "width",
    "seed",
    "images_per_prompt",
    "layout",
    "image_format",
    "image_quality",
    "column",
)
# What run.json did not hold at first, and what a dataset from then was made with.
SETTINGS_BEFORE = {"guidance_start": 0.0, "guidance_stop": 1.0}
ENGINE_BEFORE = {"quantization": "none", "deep_cache": 1}
PACKAGES = ("torch", "diffusers", "transformers", "numpy", "pillow", "pyarrow")


@dataclass(frozen=True)
class RunRecord:
    """The content of run.json.

    Attributes:
        settings: every setting that can change a picture or its file, by name.
        model: name, source (where it was found), hash (hex sha256 of the weights), family, height and width.
        engine: the arguments of `Engine`, as resolved at the first run and imposed on every actor since.
        inputs: path, size, stamp and rows of each input file; the position is the file's number for ever, also
            where the file has moved since.
        shard_rows: rows of the table a shard.
        versions: of the packages that have a say in the pixels, at the first run.
        report: the sums of the latest run, or None before the first has ended.
    """

    settings: Mapping[str, Any]
    model: Mapping[str, Any]
    engine: Mapping[str, Any]
    inputs: Sequence[Mapping[str, Any]]
    shard_rows: int
    versions: Mapping[str, str] = field(default_factory=dict)
    report: Mapping[str, Any] | None = None
    version: int = FORMAT_VERSION

    @classmethod
    def load(cls, out: Store) -> RunRecord | None:
        """The record of OUT, or None where there is none.

        Raises:
            UsageError: a run.json that is damaged or of a newer sdbatch.
        """
        if not out.exists(NAME):
            return None
        try:
            content = json.loads(out.read(NAME))
            found = content["version"]
            if found != FORMAT_VERSION:
                raise UsageError(f"{out.url}/{NAME} has format version {found}; this sdbatch reads {FORMAT_VERSION}")
            content["settings"] = SETTINGS_BEFORE | content["settings"]
            content["engine"] = ENGINE_BEFORE | content["engine"]
            return cls(**content)
        except (ValueError, KeyError, TypeError) as exc:
            raise UsageError(
                f"{out.url}/{NAME} cannot be read ({exc}); restore it, or start anew with --overwrite"
            ) from exc

    @classmethod
    def read(cls, out: Store) -> RunRecord:
        """The record of an OUT that must have one.

        Raises:
            UsageError: there is none, or it can't be read.
        """
        record = cls.load(out)
        if record is None:
            raise UsageError(f"{out.url}: has no {NAME}; is it the output of `sdbatch generate`?")
        return record

    def save(self, out: Store) -> None:
        text = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False, sort_keys=False)
        out.write(NAME, text.encode() + b"\n")

    def continued(self, new: RunRecord) -> RunRecord:
        """This record, with the inputs that only `new` has numbered after its own.

        Raises:
            UsageError: `new` would make different pictures; the message names the setting.
            InputError: an input file that changed or went away since.
        """
        hint = "use another OUT, or --overwrite to start this one anew"
        for ours, theirs, what in ((self.settings, new.settings, "--"), (self.model, new.model, "model ")):
            for name in sorted((set(ours) | set(theirs)) - {"source"}):
                if ours.get(name) != theirs.get(name):
                    option = f"{what}{name.replace('_', '-')}"
                    before, now = ours.get(name), theirs.get(name)
                    raise UsageError(f"OUT was begun with {option} {before!r}, this run has {now!r}; {hint}")
        if self.shard_rows != new.shard_rows:
            raise UsageError(
                f"OUT was begun with {self.shard_rows} rows a shard, this run has {new.shard_rows}; {hint}"
            )
        return dataclasses.replace(self, inputs=self._inputs_now(new.inputs, hint))

    def _inputs_now(self, inputs: Sequence[Mapping[str, Any]], hint: str) -> list[Mapping[str, Any]]:
        """The inputs known so far, in their order and where they are now, then those that are new."""
        current = {entry["path"]: entry for entry in inputs}
        kept = [current.pop(known["path"], None) for known in self.inputs]
        for number, known in enumerate(self.inputs):
            entry = kept[number] or _moved(known, current)
            if entry is None:
                raise InputError(f"{known['path']} was an input of OUT and is not among the prompts now; {hint}")
            for name in ("rows", "size", "stamp"):
                if entry[name] != known[name]:
                    change = f"{name} {known[name]} → {entry[name]}"
                    raise InputError(f"{known['path']} changed since OUT was begun ({change}); {hint}")
            kept[number] = entry
        return [*kept, *current.values()]

    def expected(self) -> Expected:
        """What OUT holds once all its shards are made.

        Raises:
            UsageError: the record is damaged.
        """
        most = self.shard_rows
        try:
            # Each input file is cut by itself, in order.
            rows = [min(most, file["rows"] - at) for file in self.inputs for at in range(0, file["rows"], most)]
            return Expected(
                shard_rows=tuple(rows),
                images_per_prompt=self.settings["images_per_prompt"],
                layout=self.settings["layout"],
                image_format=self.settings["image_format"],
                model=self.model["name"],
                model_hash=self.model["hash"],
            )
        except (ValueError, KeyError, TypeError) as exc:
            raise UsageError(f"{NAME} cannot be read ({exc!r}); restore it, or start anew with --overwrite") from exc

    def numbered(self, files: Sequence[InputFile]) -> list[InputFile]:
        """`files` in the order of their numbers."""
        by_path = {file.path: file for file in files}
        return [by_path[entry["path"]] for entry in self.inputs]


def _moved(known: Mapping[str, Any], current: dict[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Take the one of `current` that is an input known under another path: same name, size, rows and time of change."""

    def traits(entry: Mapping[str, Any]) -> tuple[Any, ...]:
        return entry["path"].rpartition("/")[2], entry["size"], entry["rows"], entry["stamp"]

    if not known["stamp"]:  # a prompt in the place of a path
        return None
    same = [path for path, entry in current.items() if traits(entry) == traits(known)]
    return current.pop(same[0]) if len(same) == 1 else None


def picture_settings(settings: RunSettings) -> dict[str, Any]:
    """The settings that can change a picture or its file, as JSON values (model and engine apart)."""
    values = {name: getattr(settings, name) for name in PICTURE_SETTINGS}
    return {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that have a say in the pixels or in the files."""
    return {"python": platform.python_version(), "sdbatch": __version__, **{p: version(p) for p in PACKAGES}}


def input_entry(file: InputFile) -> dict[str, Any]:
    return {"path": file.path, "size": file.size, "stamp": file.stamp, "rows": file.rows}
