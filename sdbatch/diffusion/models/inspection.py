"""Inspects a model folder: reads configuration files only, without weights or torch."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sdbatch.diffusion.checkpoints.architectures import INDEX_KINDS, PART_OF_INDEX
from sdbatch.diffusion.checkpoints.configs import Config, read_config, read_regular
from sdbatch.diffusion.checkpoints.hub import HUB_ID, commit_of, fetch_configs, fetch_files, fetch_weights
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.checkpoints.single_files import SINGLE_FILE_SUFFIXES, refuse_pickle
from sdbatch.diffusion.checkpoints.text_embeddings import TextEmbedding, inspect_embedding
from sdbatch.diffusion.checkpoints.weights import (
    MAX_INDEX_BYTES,
    PartWeights,
    Tensor,
    find_weights,
    index_name,
    read_headers,
    weights_name,
)
from sdbatch.diffusion.families import family_named, family_of_pipeline, pipelines
from sdbatch.diffusion.families.declaration import Declaration, Part
from sdbatch.diffusion.families.unsupported import why_unsupported
from sdbatch.diffusion.models.converted_files import converted
from sdbatch.diffusion.models.swapped_parts import swapped
from sdbatch.errors import AdapterError, ModelError
from sdbatch.fields import FrozenMapping

__all__ = [
    "INDEX",
    "ModelInfo",
    "check_deep_cache",
    "family_of",
    "headers",
    "inspect_model",
    "weight_files",
]

INDEX = "model_index.json"
NOTHING: Mapping[str, Any] = FrozenMapping()

HUB_FILE = rf"({HUB_ID})/([\w./ -]+)"
TINY = Path(__file__).parents[2] / "tiny" / "model"


def inspect_model(
    model: str | Path,
    *,
    revision: str | None = None,
    variant: str | None = None,
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
    vae: str | Path | None = None,
    text_encoders: Mapping[str, str | Path] = NOTHING,
    scheduler_config: Mapping[str, object] = NOTHING,
    embeddings: Mapping[str, str | Path] = NOTHING,
) -> ModelInfo:
    """Read a model's configuration files; a model on the hub is checked before its weights are downloaded.

    A single-file checkpoint is converted first, which takes torch and a minute, once per node.

    Args:
        model: "tiny", the packaged model; a folder in diffusers' format; a hub id such as "org/name"; a single-file
            checkpoint of Stable Diffusion 1.x, 2.x or XL, also on the hub ("org/name/file.safetensors").
        revision: branch, tag or commit of a model on the hub.
        variant: the variant of the weight files, such as "fp16"; detected if there are no other weights.
        tokenizer: for a single file: a folder with CLIP's vocabulary; None to find one.
        prediction_type: for a single file: "epsilon" or "v_prediction"; None for the file's metadata, or the usual one.
        vae: to be used instead of the model's own: a folder, a hub id or a single safetensors file.
        text_encoders: CLIP text encoders to be used instead of the model's own, by component: folders or hub ids.
        scheduler_config: entries that replace those of the scheduler's configuration; values may be text.
        embeddings: files of textual inversion by the token that names each in prompts.

    Raises:
        AdapterError: an embedding can't be read or does not fit the model.
        ModelError: the model does not exist, or the engine can't run it; the message names the part and the reason.
    """
    info = _inspect(model, revision, variant, tokenizer, prediction_type)
    if vae is not None or text_encoders or scheduler_config:
        encoders = {name: str(place) for name, place in text_encoders.items()}
        info = _swapped(info, variant, None if vae is None else str(vae), encoders, scheduler_config)
    return replace(info, embeddings=_inspect_embeddings(info, embeddings)) if embeddings else info


def _inspect(
    model: str | Path,
    revision: str | None,
    variant: str | None,
    tokenizer: str | Path | None,
    prediction_type: str | None,
) -> ModelInfo:
    if not str(model):
        raise ModelError("the model's name is empty")
    if (single := _single_file(str(model), revision)) is not None:
        if variant is not None:
            raise ModelError(f"model {str(model)!r}: a single file has no variants; omit --variant")
        return _inspect_single_file(single, Path(model).stem, tokenizer, prediction_type)
    for option, value in (("--tokenizer", tokenizer), ("--prediction-type", prediction_type)):
        if value is not None:
            raise ModelError(f"{option} is for single-file checkpoints, which {str(model)!r} is not; omit it")
    # Not Path's methods, which raise for names that are too long and for cyclic links.
    folder, name = (TINY, "tiny") if str(model) == "tiny" else (Path(model), os.path.basename(os.path.realpath(model)))
    on_hub = not os.path.exists(folder) and re.fullmatch(HUB_ID, str(model)) is not None
    if on_hub:
        folder, name = fetch_configs(str(model), revision), str(model)
    elif revision is not None:
        raise ModelError(f"model {str(model)!r}: a revision is for models on the hub, not for folders")
    if not os.path.isdir(folder):
        raise ModelError(f"model {str(model)!r}: no such folder")
    index = read_config(folder / INDEX)
    family = family_of(index)
    configs = {part.name: _read_part(folder, part) for part in family.parts}
    found = family.inspect(index, configs)
    if on_hub:
        _fetch_weights(name, folder, family, variant)
    weights = _find_weights(folder, family, variant)
    info = replace(
        found,
        name=name,
        folder=folder,
        variant=next((part.variant for part in weights if part.variant), None),
        weights=weights,
        commit=folder.name if on_hub else None,
    )
    headers(info)
    return info


def _single_file(model: str, revision: str | None) -> Path | None:
    """Where a single-file checkpoint is on this machine; one on the hub is downloaded. None for other models."""
    if os.path.exists(model):
        if os.path.isdir(model):
            return None
        if revision is not None:
            raise ModelError(f"model {model!r}: a revision is for models on the hub, not for files")
        refuse_pickle(model)
        return Path(model)
    if not model.endswith(SINGLE_FILE_SUFFIXES):
        return None
    refuse_pickle(model)
    on_hub = re.fullmatch(HUB_FILE, model)
    if on_hub is None or model.startswith("."):
        raise ModelError(f"model {model!r}: no such file")
    repository, name = on_hub.groups()
    return fetch_files(repository, [name], revision) / name


def _inspect_single_file(path: Path, name: str, tokenizer: str | Path | None, prediction_type: str | None) -> ModelInfo:
    done = converted(path, None if tokenizer is None else Path(tokenizer), prediction_type)
    info = inspect_model(done.folder)
    return replace(info, name=name, checkpoint=done.sha256, commit=commit_of(path) or None)


def _swapped(
    info: ModelInfo,
    variant: str | None,
    vae: str | None,
    text_encoders: Mapping[str, str],
    scheduler_config: Mapping[str, object],
) -> ModelInfo:
    found = swapped(info.folder, family_named(info.family), vae, text_encoders, scheduler_config)
    try:
        other = _inspect(found.folder, None, variant, None, None)
    except ModelError as error:
        raise ModelError(found.in_the_users_words(str(error), info.folder)) from error
    return replace(
        other,
        name=info.name,
        commit=info.commit,
        checkpoint=info.checkpoint,
        swapped=found.given,
        scheduler_config=found.scheduler_config,
        part_commits=found.commits,
    )


def _inspect_embeddings(info: ModelInfo, embeddings: Mapping[str, str | Path]) -> tuple[TextEmbedding, ...]:
    family = family_named(info.family)
    if not family.takes_embeddings:
        raise AdapterError(f"--embedding: {info.title} does not use embeddings of textual inversion; omit it")
    by_case: dict[str, str] = {}
    for token in embeddings:
        if (other := by_case.setdefault(token.lower(), token)) != token:
            raise AdapterError(f"--embedding {token}: differs from {other} only in case, which CLIP does not know")
    encoders = [part.name for part in family.parts if part.sort == "text_encoder"]
    return tuple(
        inspect_embedding(token, Path(path), info.folder, encoders, info.max_tokens)
        for token, path in sorted(embeddings.items())
    )


def family_of(index: Config) -> Declaration:
    """The family of the pipeline that a model_index.json describes.

    Raises:
        ModelError: the engine does not run it; the message has the reason.
    """
    index.check(INDEX_KINDS)
    pipeline = index.get("_class_name")
    family = family_of_pipeline(pipeline)
    if family is None:
        refused = f"{pipeline} is not a pipeline that sdbatch runs{why_unsupported(pipeline)}"
        raise ModelError(f"{index.source}: {refused}; it runs {', '.join(pipelines())}")
    index.check(family.index_kinds)
    for part in family.parts:
        declared = index.value(part.name, PART_OF_INDEX)
        if not declared or declared[1] is None:
            raise ModelError(f"{index.source}: names no {part.name}, which {pipeline} needs")
        if part.classes and declared[1] not in part.classes:
            wanted = " or ".join(sorted(part.classes))
            raise ModelError(f"{index.source}: its {part.name} is a {declared[1]}; sdbatch runs {wanted}")
    return family


def headers(info: ModelInfo) -> dict[str, dict[str, Tensor]]:
    """The tensors of each component with weights, from the headers of its files.

    Raises:
        ModelError: a file is missing, damaged, or quantised.
    """
    return {weights.part: read_headers(info.folder, weights) for weights in info.weights}


def weight_files(info: ModelInfo) -> list[Path]:
    """The safetensors files that make up the model, sorted."""
    return sorted(info.folder / weights.part / name for weights in info.weights for name in weights.files)


def check_deep_cache(info: ModelInfo) -> None:
    """Refuse a model that DeepCache does not support. Raises `ModelError`."""
    family_named(info.family).check_deep_cache(info)


def _read_part(folder: Path, part: Part) -> Config:
    config = read_config(folder / part.name / part.config)
    config.check(part.kinds)
    return config


def _find_weights(folder: Path, family: Declaration, variant: str | None) -> tuple[PartWeights, ...]:
    parts = family.weighted
    try:
        return find_weights(parts, {part: _names(folder / part) for part in parts}, variant, _index_reader(folder))
    except ModelError as error:
        raise ModelError(str(error) if str(folder) in str(error) else f"{folder}: {error}") from error


def _index_reader(folder: Path):
    def read(part: str, name: str) -> Config:
        path = folder / part / name
        return Config.parse(read_regular(path, MAX_INDEX_BYTES), path)

    return read


def _names(folder: Path) -> Collection[str]:
    return os.listdir(folder) if folder.is_dir() else []


def _fetch_weights(repository: str, folder: Path, family: Declaration, variant: str | None) -> None:
    """Download the weights that `_find_weights` will choose. The folder's name is the commit of its files."""
    left = family.weighted
    for candidate in (variant, None) if variant else (None, "fp16"):
        names = []
        for part in left:
            names.append(f"{part}/{weights_name(part, candidate)}")
            if (folder / part / index_name(part, candidate)).exists():
                index = _index_reader(folder)(part, index_name(part, candidate))
                files = index.get("weight_map", {})
                names += sorted({f"{part}/{name}" for name in files.values()}) if isinstance(files, dict) else []
        fetch_weights(repository, folder.name, names)
        left = [part for part in left if not _has_weights(folder, part, candidate)]
        if not left:
            return


def _has_weights(folder: Path, part: str, variant: str | None) -> bool:
    names = _names(folder / part)
    return weights_name(part, variant) in names or index_name(part, variant) in names
