"""Detects the encoding of a text file, and reads it as UTF-8."""

from __future__ import annotations

import codecs
import io
import unicodedata
from typing import BinaryIO

from charset_normalizer import from_bytes

from sdbatch.errors import InputError
from sdbatch.prompts.compressed import inner_name

__all__ = ["UTF8", "as_utf8", "find_encoding"]

UTF8 = "utf-8"
# The byte order mark of UTF-32 begins with that of UTF-16.
MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16"}
MARKS |= {codecs.BOM_UTF16_BE: "utf-16"}
WESTERN = "cp1252"
OTHERS = ("cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp932", "gb18030", "big5", "euc_jp", "euc_kr")
SURE = 0.1  # coherence with some language
MAX_MARKED_SHARE = 1 / 3  # of Western text's characters are beyond ASCII
SAMPLE_BYTES = 64 << 10
MAX_LINE_BYTES = 128 << 20  # a .json file may be one line


def find_encoding(file: BinaryIO, path: str) -> str:
    """The encoding of a file positioned at its start: UTF-8, that of its byte order mark, or a detected one.

    Raises:
        InputError: it is not UTF-8, and its encoding can't be detected, or it has an endless line; the message names
            line and byte.
    """
    head = file.read(4)
    if mark := next((mark for mark in MARKS if head.startswith(mark)), None):
        return MARKS[mark]
    file.seek(0)
    line, at, sample, bad, has_utf8 = 0, 0, b"", "", False
    while len(sample) < SAMPLE_BYTES and (text := file.readline(MAX_LINE_BYTES)):
        line += 1
        if len(text) == MAX_LINE_BYTES and not text.endswith(b"\n"):
            advice = "use JSON Lines" if inner_name(path).endswith(".json") else "is it a text file?"
            raise InputError(f"{path}: line {line:,} is longer than {MAX_LINE_BYTES >> 20} MB, the maximum; {advice}")
        try:
            text.decode()
        except UnicodeDecodeError as error:
            byte = f"byte {at + error.start:,} (0x{text[error.start]:02x})"
            bad, sample = bad or f"line {line:,}, {byte}, is not UTF-8", sample + text
        else:
            has_utf8 = has_utf8 or not text.isascii()
        at += len(text)
    if not bad:
        return UTF8
    if has_utf8:  # other encodings hardly ever look like UTF-8 by chance
        raise InputError(f"{path}: {bad}, unlike other lines; correct it, or save the file as UTF-8")
    if encoding := _guess(sample):
        return encoding
    raise InputError(f"{path}: {bad}, and its encoding cannot be detected; save the file as UTF-8")


def as_utf8(file: BinaryIO, encoding: str) -> BinaryIO:
    """The file's text in UTF-8, without a byte order mark; held in memory if it must be decoded."""
    return io.BytesIO(codecs.decode(file.read(), encoding).encode())


def _guess(sample: bytes) -> str | None:
    coherence = {name: _coherence(sample, name) for name in (WESTERN, *OTHERS)}
    best = max(coherence, key=coherence.__getitem__)  # the first of equals
    if coherence[best] >= SURE and best != WESTERN:
        return best
    return WESTERN if _is_western(sample) else None


def _coherence(sample: bytes, encoding: str) -> float:
    found = from_bytes(sample, cp_isolation=[encoding]).best()
    return found.coherence if found is not None and found.encoding == encoding else 0.0


def _is_western(sample: bytes) -> bool:
    try:
        text = sample.decode(WESTERN)
    except UnicodeDecodeError:
        return False
    marked = [character for character in text if not character.isascii()]
    fits = all(character.isalpha() or unicodedata.category(character)[0] in "PSZ" for character in marked)
    return fits and len(marked) <= MAX_MARKED_SHARE * len(text)
