"""Scores an existing output: chooses scorers and shards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sdbatch.errors import UsageError
from sdbatch.model_source import ModelSource
from sdbatch.output.dataset import open_dataset
from sdbatch.output.manifest_files import read_manifest
from sdbatch.output.scores import ScoreReport, score_shards
from sdbatch.output.stored import open_shard
from sdbatch.scoring.registry import Models, find_scorers
from sdbatch.scoring.scorer_weights import refuse_unused, weight_paths

__all__ = ["score"]

# Those that need neither torch nor the model's folder.
LIGHT = frozenset({"obedience", "phash", "sharpness", "entropy"})


def score(
    out: str,
    scorers: Sequence[str],
    *,
    models: Mapping[str, str] | None = None,
    device: str = "auto",
    part: tuple[int, int] = (1, 1),
    again: bool = False,
    options: Mapping[str, Any] | None = None,
    progress: Callable[[ScoreReport], None] | None = None,
) -> ScoreReport:
    """Score the finished shards of an output, like the command `sdbatch score`.

    Args:
        models: the folder or file of each scorer's weights, by its name.
        part: I and N: only every N-th shard, from the I-th on.
        again: replace scores that were made with other weights or another version.

    Raises:
        UsageError: there is no output; an unknown scorer; a missing weight file; a column that already exists.
        ModelError: a scorer's weights cannot be read.
        StorageError: the store cannot be read or written, or a shard is damaged.
    """
    if not scorers:
        raise UsageError("--scorer: name at least one, such as --scorer obedience")
    declared = find_scorers(tuple(scorers))
    refuse_unused(models or {}, scorers)
    given = weight_paths(models or {})
    dataset = open_dataset(out, options)
    record = read_manifest(dataset.store)
    folder = Path()
    if "nsfw" in scorers and "nsfw" not in given:  # the model's own safety checker
        folder = ModelSource.recorded(record.model, options).inspect().folder
    made = [
        (declaration, declaration.make(Models(given, folder, _device(device, scorers)))) for declaration in declared
    ]
    index, parts = part
    stats = [found for found in dataset.markers() if found.shard % parts == index - 1]
    shards = (open_shard(dataset.store, found.shard) for found in stats)
    return score_shards(dataset.store, shards, record, made, again=again, progress=progress)


def _device(device: str, scorers: Sequence[str]) -> str:
    if device != "auto":
        return device
    if all(name in LIGHT or ":" in name for name in scorers):
        return "cpu"
    import torch  # takes seconds

    return "cuda" if torch.cuda.is_available() else "cpu"
