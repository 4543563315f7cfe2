"""The vocabulary of CLIP's tokenizer, which single-file checkpoints lack: found on this machine, or on the hub."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sdbatch.diffusion.checkpoints.configs import Config, Kind, integer, mapping, read_regular
from sdbatch.diffusion.checkpoints.hub import cached_files, fetch_files
from sdbatch.errors import ModelError

__all__ = ["VOCABULARY_FILES", "ClipVocabulary", "find_vocabularies"]

HUB = "openai/clip-vit-large-patch14"
VOCAB, MERGES, FAST = VOCABULARY_FILES = "vocab.json", "merges.txt", "tokenizer.json"
OPEN_CLIP = "bpe_simple_vocab_16e6.txt.gz"
MAX_BYTES = 64 << 20
# The first line of CLIP's merges, and the number that follow; open_clip's list is longer.
VERSION, OPEN_CLIP_MERGES = "#version: 0.2", 49152 - 256 - 2
SPECIAL = ("<|startoftext|>", "<|endoftext|>")
TOKENS = Kind(
    "an object of tokens and their numbers",
    lambda value: isinstance(value, dict) and all(map(integer(0, 1 << 24).accepts, value.values())),
)
PAIRS = Kind("a list of pairs of tokens", lambda value: isinstance(value, list) and all(map(_is_pair, value)))


@dataclass(frozen=True)
class ClipVocabulary:
    """A vocabulary of byte-level BPE.

    Attributes:
        numbers: of the tokens.
        merges: pairs of tokens, joined by a blank, the most frequent first.
    """

    numbers: Mapping[str, int]
    merges: Sequence[str]

    def files(self) -> dict[str, bytes]:
        """The files that CLIPTokenizer reads; the same bytes wherever the vocabulary was found."""
        ordered = dict(sorted(self.numbers.items(), key=lambda token: token[1]))
        vocab = json.dumps(ordered, ensure_ascii=False, separators=(",", ":"))
        return {VOCAB: vocab.encode(), MERGES: ("\n".join([VERSION, *self.merges]) + "\n").encode()}


def find_vocabularies(folder: Path | None, parts: Sequence[str]) -> list[ClipVocabulary]:
    """The vocabulary of each tokenizer.

    Args:
        folder: where to read it: a model's folder with `tokenizer` in it, or a tokenizer's own; None for the hub's
            cache, an installed open_clip, or the hub, in this order.
        parts: the tokenizers: `tokenizer`, and for XL `tokenizer_2`, which is the first one's if it is not there.

    Raises:
        ModelError: there is none, or it can't be read.
    """
    if folder is not None:
        return [_in_folder(folder, part) for part in parts]
    return [_of_this_machine()] * len(parts)


def _in_folder(folder: Path, part: str) -> ClipVocabulary:
    for place in (folder / part, folder / "tokenizer", folder):
        if (place / VOCAB).exists() and (place / MERGES).exists():
            return _plain(place)
        if (place / FAST).exists():
            return _fast(place / FAST)
    raise ModelError(f"--tokenizer {folder}: has neither {VOCAB} and {MERGES}, nor {FAST}, nor a folder tokenizer")


def _of_this_machine() -> ClipVocabulary:
    found = cached_files(HUB, (VOCAB, MERGES))
    if found is not None:
        return _plain(found)
    package = find_spec("open_clip")
    for place in (package.submodule_search_locations or ()) if package else ():
        if (path := Path(place) / OPEN_CLIP).exists():
            return _of_open_clip(path)
    try:
        return _plain(fetch_files(HUB, (VOCAB, MERGES)))
    except ModelError as error:
        raise ModelError(
            "a single-file checkpoint has no vocabulary, and CLIP's was not found on this machine; name a folder that "
            f"has it with --tokenizer (a copy of {HUB}, or a Stable Diffusion folder), or install open_clip"
        ) from error


def _plain(folder: Path) -> ClipVocabulary:
    path = folder / VOCAB
    numbers = _parsed(path)
    if not TOKENS.accepts(numbers):
        raise ModelError(f"{path}: expected {TOKENS.description}")
    return ClipVocabulary(numbers, _merges(_text(read_regular(folder / MERGES, MAX_BYTES), folder / MERGES)))


def _fast(path: Path) -> ClipVocabulary:
    """The vocabulary in the file that recent versions of transformers write instead."""
    config = Config(_parsed(path), path)
    model = config.value("model", mapping({"vocab": TOKENS, "merges": PAIRS}), {})
    if "vocab" not in model or "merges" not in model:
        raise ModelError(f"{path}: has no byte-level BPE vocabulary")
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    return ClipVocabulary(model["vocab"], merges)


def _of_open_clip(path: Path) -> ClipVocabulary:
    """The vocabulary that CLIP's own code makes of its merges: bytes, bytes that end words, merges, special tokens."""
    with gzip.open(path, "rb") as file:
        merges = _merges(_text(file.read(MAX_BYTES), path))[:OPEN_CLIP_MERGES]
    symbols = _byte_symbols()
    tokens = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *("".join(pair.split()) for pair in merges), *SPECIAL]
    return ClipVocabulary({token: number for number, token in enumerate(tokens)}, merges)


def _byte_symbols() -> list[str]:
    """GPT-2's characters for the 256 bytes: printable ones stand for themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def _merges(text: str) -> list[str]:
    lines = text.split("\n")
    return [line for line in lines[1:] if line.strip()]


def _parsed(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(_text(read_regular(path, MAX_BYTES), path))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: can't be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path}: expected a JSON object")
    return values


def _text(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: is not UTF-8") from error


def _is_pair(value: object) -> bool:
    pair = value.split(" ") if isinstance(value, str) else value
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(token, str) for token in pair)
