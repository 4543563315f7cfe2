"""`ModelSource` fetches, inspects and records a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sdbatch.diffusion import ModelInfo, inspect_model
from sdbatch.diffusion.checkpoints.clip_vocabulary import VOCABULARY_FILES
from sdbatch.diffusion.checkpoints.configs import MAX_CONFIG_BYTES, Config
from sdbatch.diffusion.checkpoints.hub import CONFIG_SUFFIXES, at_commit
from sdbatch.diffusion.checkpoints.single_files import SINGLE_FILE_SUFFIXES, refuse_pickle
from sdbatch.diffusion.checkpoints.weights import MAX_INDEX_BYTES, choose_weights, find_weights
from sdbatch.diffusion.models.inspection import INDEX, family_of
from sdbatch.diffusion.models.model_identity import different_files, model_files, model_hash, model_identity
from sdbatch.errors import ModelError, UsageError
from sdbatch.fields import FrozenMapping
from sdbatch.storage.local_copies import copied, local_copy
from sdbatch.storage.store import Store, StoredFile

__all__ = ["MODELS", "ModelSource", "check_recorded", "fetch_model"]

MODELS = Path("~/.cache/sdbatch/models")
EMBEDDINGS = Path("~/.cache/sdbatch/embeddings")


@dataclass(frozen=True)
class ModelSource:
    """The location of a model.

    Attributes:
        name: `tiny`, a folder in diffusers' format or a single-file checkpoint, local, on the hub, or behind an fsspec
            URL.
        revision: branch, tag or commit of a model on the hub.
        variant: of the weight files, such as "fp16".
        tokenizer: for a single file: a folder with CLIP's vocabulary, local or behind an fsspec URL.
        prediction_type: for a single file.
        vae: instead of the model's own: a folder or a single file, local, on the hub, or behind an fsspec URL.
        text_encoders: instead of the model's own, by component: folders, local, on the hub, or behind fsspec URLs.
        scheduler_config: entries that replace those of the scheduler's configuration.
        embeddings: files of textual inversion, local or behind fsspec URLs, by the token that names each in prompts.
        options: fsspec storage options; never recorded.
    """

    name: str
    revision: str | None = None
    variant: str | None = None
    tokenizer: str | None = None
    prediction_type: str | None = None
    vae: str | None = None
    text_encoders: Mapping[str, str] = FrozenMapping()
    scheduler_config: Mapping[str, object] = FrozenMapping()
    embeddings: Mapping[str, str] = FrozenMapping()
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def recorded(cls, model: Mapping[str, Any], options: Mapping[str, Any] | None) -> ModelSource:
        """The source recorded in a manifest by `entry`.

        Raises:
            UsageError: the manifest, of another tool or an early version, does not say where the model was.
        """
        if not model.get("source"):
            raise UsageError("run.json does not record where the model is (model.source); make a new output")
        found = cls(
            model["source"],
            revision=model.get("revision"),
            variant=model.get("variant"),
            tokenizer=model.get("tokenizer"),
            prediction_type=model.get("prediction_type"),
            vae=model.get("vae"),
            text_encoders=FrozenMapping(model.get("text_encoders", {})),
            scheduler_config=FrozenMapping(model.get("scheduler_config", {})),
            embeddings=FrozenMapping(model.get("embeddings", {})),
            options=options or {},
        )
        return found.pinned(model)

    def inspect(self) -> ModelInfo:
        """Fetch the model to this machine if needed, and read its configurations.

        Raises:
            ModelError, StorageError, UsageError: as for `fetch_model` and `inspect_model`.
        """
        folder = fetch_model(self.name, options=self.options, revision=self.revision, variant=self.variant)
        return inspect_model(
            folder,
            revision=self.revision,
            variant=self.variant,
            tokenizer=None if self.tokenizer is None else _fetched_tokenizer(self.tokenizer, self.options),
            prediction_type=self.prediction_type,
            vae=None if self.vae is None else _fetched_vae(self.vae, self.options),
            text_encoders={
                name: _fetched_text_encoder(name, place, self.options) for name, place in self.text_encoders.items()
            },
            scheduler_config=self.scheduler_config,
            embeddings={token: _fetched_embedding(path, self.options) for token, path in self.embeddings.items()},
        )

    def entry(self, info: ModelInfo) -> dict[str, Any]:
        """The manifest's entry: where the model was, and digests that identify it."""
        files = model_files(info)
        given = {"tokenizer": self.tokenizer, "prediction_type": self.prediction_type, "vae": self.vae}
        mappings = {
            "text_encoders": self.text_encoders,
            "scheduler_config": info.scheduler_config,
            "embeddings": self.embeddings,
            "part_commits": info.part_commits,
        }
        return {
            "name": info.name,
            "source": Store(self.name).url if "://" in self.name else self.name,
            **{name: value for name, value in given.items() if value is not None},
            **{name: dict(value) for name, value in mappings.items() if value},
            "revision": self.revision,
            "commit": info.commit,
            "variant": self.variant,
            "hash": model_hash(info),
            "identity": model_identity(files),
            "files": files,
            "family": info.family,
            "height": info.height,
            "width": info.width,
        }

    def pinned(self, entry: Mapping[str, Any]) -> ModelSource:
        """This source at the recorded commits, so that a branch that moves during the run has no effect."""
        commits: Mapping[str, str] = entry.get("part_commits", {})
        encoders = {name: at_commit(place, commits.get(name)) for name, place in self.text_encoders.items()}
        return replace(
            self,
            revision=entry.get("commit") or self.revision,
            vae=self.vae and at_commit(self.vae, commits.get("vae")),
            text_encoders=FrozenMapping(encoders),
        )


def check_recorded(info: ModelInfo, model: Mapping[str, Any], where: str) -> None:
    """Compare a model with the one recorded in a manifest.

    A manifest of an earlier version has only the hash of the weights.

    Raises:
        ModelError: the models differ; the message names the files.
    """
    files = model.get("files")
    if files is None:
        if model_hash(info) != model["hash"]:
            raise ModelError(
                f"{where} was made with a different model than {info.folder}: the hashes of the weights differ"
            )
    elif (found := model_files(info)) != files:
        differ = different_files(files, found)
        hint = _earlier_commits(info, model)
        raise ModelError(f"{where} was made with a different model than {info.folder}: {differ} differ{hint}")


def _earlier_commits(info: ModelInfo, model: Mapping[str, Any]) -> str:
    """How to get what was recorded, if it has changed on the hub since."""
    before: Mapping[str, str] = model.get("part_commits", {})
    given = {"vae": model.get("vae"), **model.get("text_encoders", {})}
    options = []
    if info.commit and (commit := model.get("commit")) not in (None, info.commit):
        options.append(f"--revision {commit}")
    for part, commit in before.items():
        if info.part_commits.get(part, commit) != commit:
            option = "--vae " if part == "vae" else f"--text-encoder {part}="
            options.append(f"{option}{at_commit(given[part], commit)}")
    return f"; the hub has other files now: continue with {' '.join(options)}" if options else ""


def fetch_model(
    model: str,
    *,
    revision: str | None = None,
    variant: str | None = None,
    options: Mapping[str, Any] | None = None,
    cache: Path | None = None,
) -> str:
    """Return what the engine should open for `model`: the name, folder or hub id itself, or a local copy of a URL.

    A copy is kept under `cache` by the names, sizes and etags of the remote files, so that a model that changes
    is fetched again. Safe to call from several processes at once: one downloads, the others wait for it.

    Args:
        model: `tiny`, a local folder or single file, a hub id, or an fsspec URL of a folder in diffusers' format or of
            a single file.
        variant: in diffusers' sense (`fp16`): used for parts that have it, the plain weights for the others.
        options: fsspec storage options.
        cache: default `~/.cache/sdbatch/models`.

    Raises:
        ModelError: the URL holds no folder in diffusers' format and no safetensors file, or only pickled weights.
        StorageError: it cannot be read, or the cache cannot be written.
        UsageError: a revision of a model that is not on the hub.
    """
    if "://" not in model:
        return model
    if revision is not None:
        raise UsageError(f"--revision {revision}: only models on the hub have revisions; {model} has none")
    source = Store(model, options)
    if model.endswith(SINGLE_FILE_SUFFIXES):
        refuse_pickle(model)
        return str(local_copy(source, (cache or MODELS).expanduser()))
    return str(copied(source, dict(_wanted(source, variant)), (cache or MODELS).expanduser()))


def _fetched_vae(name: str, options: Mapping[str, Any]) -> str:
    """Where a VAE is on this machine: a folder or a file; the name itself of one on the hub."""
    if "://" not in name:
        return name
    source = Store(name, options)
    if name.endswith(SINGLE_FILE_SUFFIXES):
        refuse_pickle(name)
        return str(local_copy(source, MODELS.expanduser()))
    return str(copied(source, _component(source, "vae", "--vae"), MODELS.expanduser()))


def _fetched_text_encoder(part: str, name: str, options: Mapping[str, Any]) -> str:
    """Where a text encoder is on this machine, with the tokenizer in its folder or beside it."""
    if "://" not in name:
        return name
    folder = Store(name, options)
    parent, _, own = folder.url.rstrip("/").rpartition("/")
    source, tokenizer = Store(parent, options), part.replace("text_encoder", "tokenizer")
    files = {f"{own}/{file}": found for file, found in _component(folder, part, f"--text-encoder {part}=").items()}
    beside = Store(source.name(tokenizer), options).files_by_name()
    files |= {f"{tokenizer}/{file}": beside[file] for file in beside if file.endswith(CONFIG_SUFFIXES)}
    return str(copied(source, files, MODELS.expanduser()) / own)


def _component(source: Store, part: str, option: str) -> dict[str, StoredFile]:
    """The configurations and weights of a component that lies in a folder by itself."""
    found = source.files_by_name()
    if "config.json" not in found:
        raise ModelError(f"{option} {source.url}: has no config.json")

    def read(name: str) -> Config:
        return _read(source, name, MAX_INDEX_BYTES, found[name].size)

    chosen = (choose_weights(part, list(found), variant, read) for variant in (None, "fp16"))
    weights = next((weights.files for weights in chosen if weights), ())
    return {name: found[name] for name in found if name in weights or name.endswith(CONFIG_SUFFIXES)}


def _fetched_embedding(path: str, options: Mapping[str, Any]) -> Path:
    """Where a file of textual inversion is on this machine."""
    if "://" not in path:
        return Path(path)
    # The hub's own address is read with options of its own.
    return local_copy(Store(path, {} if path.startswith("hf://") else options), EMBEDDINGS.expanduser())


def _fetched_tokenizer(name: str, options: Mapping[str, Any]) -> str:
    """Where a folder with vocabularies is on this machine."""
    if "://" not in name:
        return name
    source = Store(name, options)
    files: dict[str, StoredFile] = {}
    for part in ("", "tokenizer/", "tokenizer_2/"):
        inside = (Store(source.name(part.rstrip("/")), options) if part else source).files_by_name()
        files |= {f"{part}{file}": inside[file] for file in VOCABULARY_FILES if file in inside}
    if not files:
        raise ModelError(f"--tokenizer {source.url}: holds none of {', '.join(VOCABULARY_FILES)}")
    return str(copied(source, files, MODELS.expanduser()))


def _wanted(source: Store, variant: str | None) -> Iterator[tuple[str, StoredFile]]:
    """The files that an engine reads, by their name relative to the model."""
    top = source.files_by_name()
    if INDEX not in top:
        raise ModelError(f"{source.url} holds no {INDEX}; a URL must name a model folder in diffusers' format")
    family = family_of(_read(source, INDEX, MAX_CONFIG_BYTES, top[INDEX].size))
    yield INDEX, top[INDEX]
    parts = {part.name: Store(source.name(part.name), source.options).files_by_name() for part in family.parts}

    def read_index(part: str, name: str) -> Config:
        return _read(source, f"{part}/{name}", MAX_INDEX_BYTES, parts[part][name].size)

    weighted = family.weighted
    try:
        found = find_weights(weighted, {part: list(parts[part]) for part in weighted}, variant, read_index)
    except ModelError as exc:
        raise ModelError(str(exc) if source.url in str(exc) else f"{source.url}: {exc}") from exc
    chosen = {(weights.part, name) for weights in found for name in weights.files}
    for part, name in sorted(chosen):
        if name not in parts[part]:
            raise ModelError(f"{source.name(part)}: {name} is missing; its index names it")
    for part, files in parts.items():
        for name, file in files.items():
            if (part, name) in chosen or name.endswith(CONFIG_SUFFIXES):
                yield f"{part}/{name}", file


def _read(source: Store, name: str, max_bytes: int, size: int) -> Config:
    if size > max_bytes:
        raise ModelError(f"{source.name(name)}: larger than {max_bytes:,} bytes, the maximum for such a file")
    return Config.parse(source.read(name), source.name(name))
