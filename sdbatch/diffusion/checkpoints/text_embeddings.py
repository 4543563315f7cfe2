"""Textual inversion embeddings (Gal et al. 2022): the input vectors of a text encoder for a new token.

Reads only the headers of files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdbatch.diffusion.checkpoints.clip_vocabulary import find_vocabularies
from sdbatch.diffusion.checkpoints.configs import read_config
from sdbatch.diffusion.checkpoints.file_hashes import file_hash
from sdbatch.diffusion.checkpoints.weights import FLOATS, SUFFIX, Tensor, read_header
from sdbatch.errors import AdapterError, ModelError
from sdbatch.fields import FrozenMapping

__all__ = ["TextEmbedding", "inspect_embedding", "token_names"]

# The tensor names of an SDXL embedding, as kohya's and diffusers' scripts write them.
PAIR = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}


@dataclass(frozen=True)
class TextEmbedding:
    """A textual inversion embedding.

    Attributes:
        token: the word in prompts that stands for it.
        path: its safetensors file.
        tensors: by text encoder, the name of the tensor in the file, and its number of vectors.
        sha256: hash of the file, in hex.
    """

    token: str
    path: Path
    tensors: Mapping[str, tuple[str, int]]
    sha256: str


def inspect_embedding(token: str, path: Path, folder: Path, encoders: Sequence[str], context: int) -> TextEmbedding:
    """Read the header of an embedding's file, and check that it fits the model.

    The layouts of AUTOMATIC1111 (`emb_params`) and diffusers (one tensor of any name) are supported, and pairs for two
    text encoders (`clip_l`, `clip_g`). Tensors are (vectors, width) or (width,).

    Args:
        folder: the model's folder, in diffusers' format.
        encoders: names of the model's text encoders.
        context: maximum number of tokens of a text encoder, including start and end.

    Raises:
        AdapterError: the file has another layout, or does not fit; the message names token, file and reason.
    """
    where = f"--embedding {token}={path}"
    if not token or token.split() != [token]:
        raise AdapterError(f"{where}: expected a token without blanks")
    if path.suffix != SUFFIX:
        raise AdapterError(f"{where}: expected a {SUFFIX} file; pickled files can run code when they are loaded")
    if not path.is_file():
        raise AdapterError(f"{where}: is missing, or is not a file")
    try:
        header = read_header(path)
        _refuse_known(token, folder, encoders)
    except ModelError as error:
        raise AdapterError(f"{where}: {error}") from error
    found: dict[str, tuple[str, int]] = {}
    for encoder, name in _tensors_of(header, encoders, where).items():
        width = read_config(folder / encoder / "config.json").get("hidden_size", 512)
        found[encoder] = name, _vectors(header[name], name, width, context, where)
    if len({count for _, count in found.values()}) > 1:
        raise AdapterError(f"{where}: clip_l and clip_g must have the same number of vectors")
    return TextEmbedding(token, path, FrozenMapping(found), file_hash(path))


def token_names(token: str, vectors: int) -> list[str]:
    """The names of a token's vectors in a tokenizer, as in diffusers: `token`, `token_1`, …"""
    return [token, *(f"{token}_{number}" for number in range(1, vectors))]


def _tensors_of(header: Mapping[str, Tensor], encoders: Sequence[str], where: str) -> dict[str, str]:
    is_pair = set(PAIR.values()) <= header.keys()
    if is_pair and len(encoders) == 1 and encoders[0] == "text_encoder":
        raise AdapterError(f"{where}: is for Stable Diffusion XL (clip_l and clip_g)")
    if is_pair:
        return {encoder: PAIR[encoder] for encoder in encoders}
    if len(encoders) > 1:
        raise AdapterError(f"{where}: has no clip_l and clip_g, the vectors for the two text encoders of SDXL")
    if "emb_params" in header:
        return {encoders[0]: "emb_params"}
    if len(header) != 1:
        raise AdapterError(f"{where}: is not an embedding; expected emb_params, one tensor, or clip_l and clip_g")
    return {encoders[0]: next(iter(header))}


def _vectors(tensor: Tensor, name: str, width: int, context: int, where: str) -> int:
    """The number of vectors in a tensor."""
    if tensor.dtype not in FLOATS or len(tensor.shape) not in (1, 2):
        shown = f"{tensor.dtype} {list(tensor.shape)}"
        raise AdapterError(f"{where}: {name} is {shown}; expected vectors of floating-point numbers")
    if tensor.shape[-1] != width:
        raise AdapterError(
            f"{where}: {name} has vectors of {tensor.shape[-1]} numbers, but the text encoder needs {width}"
        )
    vectors = 1 if len(tensor.shape) == 1 else tensor.shape[0]
    if not 1 <= vectors <= context - 2:
        raise AdapterError(f"{where}: {name} has {vectors} vectors; expected 1 to {context - 2}")
    return vectors


def _refuse_known(token: str, folder: Path, encoders: Sequence[str]) -> None:
    """Refuse a token that is already in the model's vocabulary, as diffusers does."""
    tokenizers = [encoder.replace("text_encoder", "tokenizer") for encoder in encoders]
    for vocabulary in find_vocabularies(folder, tokenizers):
        if token.lower() in vocabulary.numbers:  # CLIP's tokens have no case
            raise ModelError("the model's vocabulary already has this token; use another one, such as <my-token>")
