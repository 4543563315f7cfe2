"""The scorers by name, with their columns; a scorer's code is only loaded when it is created."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sdbatch.errors import ModelError, UsageError, in_one_line
from sdbatch.scoring.expressions import Kind
from sdbatch.scoring.function import function_declaration, imported_function
from sdbatch.scoring.scorer import Scorer

__all__ = ["BUILT_IN", "ENTRY_POINTS", "Declaration", "Models", "find_scorers", "own_functions"]

ENTRY_POINTS = "sdbatch.scorers"
RESERVED = frozenset({"attempt", "accepted"})


@dataclass(frozen=True)
class Models:
    """The folders and files that scorers read.

    Attributes:
        given: the paths from `--scorer-model NAME=PATH`, by name.
        folder: the folder of the model that makes the pictures.
        device: the torch device that networks run on.
    """

    given: Mapping[str, Path]
    folder: Path
    device: str = "cpu"

    def of(self, name: str, what: str) -> Path:
        """The path given for a name. Raises `ModelError` if there is none; `what` describes the needed file."""
        if name not in self.given:
            raise ModelError(f"scorer {name} needs {what}; give it with --scorer-model {name}=PATH")
        return self.given[name]


@dataclass(frozen=True)
class Declaration:
    """A scorer that can be chosen by name.

    Attributes:
        name: its name for `--scorer`.
        columns: the kinds of the columns that it fills, by name.
        make: creates the scorer in a worker; imports the packages that it needs.
        about: a description in one line.
    """

    name: str
    columns: Mapping[str, Kind]
    make: Callable[[Models], Scorer]
    about: str = ""


def _obedience(models: Models) -> Scorer:
    from sdbatch.scoring.obedience import Obedience

    return Obedience()


def _sharpness(models: Models) -> Scorer:
    from sdbatch.scoring.quality import Sharpness

    return Sharpness()


def _entropy(models: Models) -> Scorer:
    from sdbatch.scoring.quality import Entropy

    return Entropy()


def _phash(models: Models) -> Scorer:
    from sdbatch.scoring.phash import PerceptualHash

    return PerceptualHash()


def _clip(models: Models) -> Scorer:
    from sdbatch.scoring.clip import Clip

    return Clip(models.of("clip", "a CLIP model"), models.device)


def _aesthetic(models: Models) -> Scorer:
    from sdbatch.scoring.aesthetic import Aesthetic

    head = models.of("aesthetic", "the weights of LAION's linear head or of the V2 predictor")
    return Aesthetic(models.of("clip", "CLIP ViT-L/14"), head, models.device)


def _nsfw(models: Models) -> Scorer:
    from sdbatch.scoring.nsfw import Nsfw

    own = models.folder / "safety_checker"
    checker = models.given.get("nsfw", own)
    if not checker.is_dir():
        raise ModelError(
            f"scorer nsfw: {models.folder} has no safety_checker; give one with --scorer-model nsfw=FOLDER"
        )
    beside = checker.parent / "feature_extractor"
    return Nsfw(checker, beside if beside.is_dir() else checker, models.device)


BUILT_IN = (
    Declaration(
        "obedience", {"obedience": "number"}, _obedience, "share of the prompt's things that a picture of tiny shows"
    ),
    Declaration("clip", {"clip": "number"}, _clip, "cosine similarity of picture and prompt in CLIP"),
    Declaration("aesthetic", {"aesthetic": "number"}, _aesthetic, "LAION's aesthetic predictors"),
    Declaration("nsfw", {"nsfw": "flag", "nsfw_score": "number"}, _nsfw, "Stable Diffusion's safety checker"),
    Declaration("phash", {"phash": "text"}, _phash, "perceptual hash, equal for near-duplicates"),
    Declaration("sharpness", {"sharpness": "number"}, _sharpness, "variance of the Laplacian"),
    Declaration("entropy", {"entropy": "number"}, _entropy, "entropy of the luminance, in bits; 0 for a blank picture"),
)


def find_scorers(
    names: tuple[str, ...], functions: Mapping[str, Callable[..., Any]] = MappingProxyType({})
) -> list[Declaration]:
    """The scorers of a run: built in, installed under the entry point `sdbatch.scorers`, or `module:function`.

    Args:
        functions: functions that were sent with the run; others are imported.

    Raises:
        UsageError: a scorer is unknown or cannot be imported, or two scorers fill the same column.
    """
    found = [_find(name, functions) for name in names]
    owners: dict[str, str] = {}
    for declaration in found:
        for column in declaration.columns:
            if not re.fullmatch(r"[A-Za-z_]\w*", column) or column in RESERVED:
                raise UsageError(f"--scorer {declaration.name}: a score column can't be named {column!r}")
            if column in owners:
                raise UsageError(
                    f"--scorer {owners[column]} and --scorer {declaration.name} both fill the column {column!r}"
                )
            owners[column] = declaration.name
    return found


def own_functions(names: tuple[str, ...]) -> dict[str, Callable[..., Any]]:
    """Import the user-defined functions among the scorers. Raises `UsageError`."""
    built_in = {declaration.name for declaration in BUILT_IN}
    return {name: imported_function(name) for name in names if ":" in name and name not in built_in}


def _find(name: str, functions: Mapping[str, Callable[..., Any]]) -> Declaration:
    known: dict[str, Any] = {declaration.name: declaration for declaration in BUILT_IN}
    if name in known:
        return known[name]
    if ":" in name:
        return Declaration(name, *function_declaration(name, functions.get(name)))
    installed = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    if name in installed:
        try:
            declared = installed[name].load()
            return Declaration(name, dict(declared.columns), declared.make, getattr(declared, "about", ""))
        except KeyboardInterrupt:
            raise
        except BaseException as exc:  # third-party code, which may even exit
            raise UsageError(f"--scorer {name}: {installed[name].value} can't be used: {in_one_line(exc)}") from exc
    names = sorted({*known, *installed})
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known names: {', '.join(names)}"
    raise UsageError(f"--scorer {name!r}: {hint} or give your own as module:function")
