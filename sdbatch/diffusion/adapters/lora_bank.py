"""LoRA files in this process: headers are kept, tensors up to a limit of memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from sdbatch.diffusion.adapters.lora_files import LoraHeader, LoraLayer, LoraModel, read_lora_header
from sdbatch.diffusion.adapters.lora_names import Layer
from sdbatch.diffusion.byte_cache import ByteCache
from sdbatch.diffusion.checkpoints.configs import check_regular
from sdbatch.diffusion.checkpoints.file_hashes import file_hash
from sdbatch.errors import AdapterError, ModelError

__all__ = ["Factors", "LoraBank"]

CAPACITY_BYTES = 1 << 30


@dataclass(frozen=True)
class Factors:
    """The change of a layer's weight by a file: `up` · `down` · `scale`.

    Attributes:
        down: (rank, in) or (rank, in, kh, kw), in the model's dtype; on the host, as the bank has them.
        up: (out, rank).
        scale: alpha / rank. It is applied between the two: multiplied into `up` in half precision, it would cost 2%.
    """

    down: torch.Tensor
    up: torch.Tensor
    scale: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]


class LoraBank:
    """Reads files once; drops the tensors of the least recently used ones if there are too many.

    Args:
        model: the model that the files are for.
        capacity: the maximum of bytes of tensors to keep.
    """

    def __init__(self, model: LoraModel, dtype: torch.dtype, capacity: int = CAPACITY_BYTES):
        self._model = model
        self._dtype = dtype
        self._headers: dict[str, LoraHeader] = {}
        self._hashes: dict[str, str] = {}
        self._kept: ByteCache[str, Mapping[Layer, Factors]] = ByteCache(capacity, _size)

    def header(self, path: str) -> LoraHeader:
        """A file's header. Raises `AdapterError` if it does not fit the model."""
        if path not in self._headers:
            try:
                check_regular(Path(path))
                with open(path, "rb") as file:
                    self._headers[path] = read_lora_header(file, Path(path).stat().st_size, path, self._model)
            except (OSError, ModelError) as error:
                raise AdapterError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
        return self._headers[path]

    def factors(self, path: str) -> Mapping[Layer, Factors]:
        """A file's factors by layer.

        Raises:
            AdapterError: it does not fit the model, is damaged, or contains values that are not finite.
        """
        if path not in self._kept:
            self._kept.add(path, self._read(path))
        factors = self._kept[path]
        self._kept.trim(at_least=1)
        return factors

    def check(self, path: str, sha256: str | None) -> None:
        """Raise `AdapterError` if the factors of a file were read from other content than that of a row."""
        if sha256 is not None and self._hashes.get(path, sha256) != sha256:
            raise AdapterError(f"{path}: has changed since it was read; run again")

    def _read(self, path: str) -> dict[Layer, Factors]:
        header = self.header(path)
        try:
            with safe_open(path, framework="pt") as file:
                factors = {layer: self._factors(path, file, lora) for layer, lora in header.layers.items()}
            self._hashes[path] = file_hash(Path(path))
        except (SafetensorError, OSError, ModelError) as error:
            raise AdapterError(f"{path}: has changed since its header was read: {error}") from error
        return factors

    def _factors(self, path: str, file: safe_open, lora: LoraLayer) -> Factors:
        down, up = (file.get_tensor(name).to(self._dtype) for name in (lora.down, lora.up))
        alpha = float(file.get_tensor(lora.alpha)) if isinstance(lora.alpha, str) else lora.alpha
        divisor = lora.rank**0.5 if lora.rank_stabilised else lora.rank
        scale = torch.tensor(1.0 if alpha is None else alpha / divisor)
        for name, tensor in ((lora.down, down), (lora.up, up), (lora.alpha or "alpha", scale)):
            if not tensor.isfinite().all():
                raise AdapterError(f"{path}: {name} holds numbers that are not finite in {str(self._dtype)[6:]}")
        return Factors(down, up.flatten(1)[slice(*lora.outputs or (None,))], float(scale))


def _size(layers: Mapping[Layer, Factors]) -> int:
    return sum(factors.down.nbytes + factors.up.nbytes for factors in layers.values())
