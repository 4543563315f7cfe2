"""Reads the header of a safetensors file: eight bytes and JSON.

safetensors itself opens only whole files on this machine; a plan reads the headers of files in stores, too. Files are
untrusted: the format is checked completely (offsets, sizes, shapes). No tensor is read.
"""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO

from sdbatch.diffusion.checkpoints.weights import Tensor

__all__ = ["Refused", "read_tensors"]

MAX_HEADER_BYTES = 16 << 20
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1}
PICKLES = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class Refused(Exception):
    """Why a file is rejected; the caller adds its name."""


def read_tensors(file: BinaryIO, size: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of a safetensors file, whose bytes must fill it without gaps; and the file's metadata."""
    start = file.read(8)
    if start.startswith(PICKLES):
        raise Refused("is a pickle, which can run code when it is loaded; convert it to safetensors")
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise Refused("is not a safetensors file, or is truncated")
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError) as error:
        raise Refused("is not a safetensors file: its header is not JSON") from error
    if not isinstance(header, dict):
        raise Refused("is not a safetensors file: its header is not an object")
    metadata = header.pop("__metadata__", None)
    tensors = {name: _tensor(name, entry) for name, entry in header.items()}
    end = 0
    for name, (tensor, (first, last)) in sorted(tensors.items(), key=lambda item: item[1][1]):
        if first != end or last - first != tensor.numbers * SIZES[tensor.dtype]:
            raise Refused(f"is damaged: {name} is not where the header says")
        end = last
    if end != size - 8 - length:
        raise Refused("is shorter or longer than its header says")
    return {name: tensor for name, (tensor, _) in tensors.items()}, metadata if isinstance(metadata, dict) else {}


def _tensor(name: str, entry: Any) -> tuple[Tensor, tuple[int, int]]:
    entry = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not (_is_whole_numbers(shape) and _is_whole_numbers(offsets) and len(offsets) == 2 and isinstance(dtype, str)):
        raise Refused(f"is damaged: the header's entry of {name} describes no valid tensor")
    if dtype not in SIZES:
        raise Refused(f"{name} holds {dtype}; expected floating-point numbers")
    return Tensor(dtype, tuple(shape)), (offsets[0], offsets[1])


def _is_whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(number) is int and 0 <= number < 2**63 for number in value)
