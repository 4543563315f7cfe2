"""Applies the LoRAs of a model's rows: to passes of the denoiser, and to what is computed once per text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch

from sdbatch.diffusion.adapters.lora_bank import LoraBank
from sdbatch.diffusion.adapters.lora_files import MAX_RANK, LoraModel
from sdbatch.diffusion.adapters.lora_layers import Current, Gathered, lora_twin
from sdbatch.diffusion.adapters.lora_names import Layer
from sdbatch.diffusion.adapters.lora_rows import Lora, loras_of
from sdbatch.diffusion.adapters.lora_slots import LoraSlots, Place, Weighted, filled, on_device
from sdbatch.diffusion.device.transfer import send
from sdbatch.diffusion.embeddings import Text
from sdbatch.diffusion.request import Request
from sdbatch.errors import AdapterError

__all__ = ["RowLoras"]

# Rows share passes with rows of the same bucket: a pass has one rank, and padding with zeros costs time.
BUCKETS = (16, 32, 64, 128, 256, MAX_RANK)
# Memory for the slots of one lane set: bytes on a CPU, a share of the memory of a GPU.
CPU_SLOT_BYTES, GPU_SLOT_SHARE = 1 << 30, 8

Encoded = Mapping[str, torch.Tensor]


class RowLoras:
    """Applies LoRAs that differ between rows to a denoiser and its text encoders.

    Args:
        model: the layers that files may change.
        network: the denoiser; a UNet with fused self-attention.
        like: a tensor of its device and dtype.
        encoders: the networks that encode texts, by part of the model; the denoiser itself if it has such layers.
        once_per_text: layers of the denoiser that depend on the text alone and run outside of passes.

    Attributes:
        slot_bytes: bytes for the slots of one lane set.
    """

    def __init__(
        self,
        model: LoraModel,
        network: torch.nn.Module,
        like: torch.Tensor,
        encoders: Mapping[str, torch.nn.Module] | None = None,
        once_per_text: Collection[str] = (),
    ):
        self._network = network
        self._part = model.denoiser
        self._encoders = encoders or {}
        self._like = like
        self.bank = LoraBank(model, like.dtype)
        self._places = _places(network, once_per_text)
        self._in_slots = {(self._part, name) for place in self._places.values() for name in place.parts}
        self._ranks: dict[tuple[str, ...], tuple[int, int]] = {}
        self._current = Current()
        self._text_currents = [Current() for _ in self._encoders]
        self.slot_bytes = CPU_SLOT_BYTES
        if self._like.device.type == "cuda":
            self.slot_bytes = torch.cuda.get_device_properties(self._like.device).total_memory // GPU_SLOT_SHARE

    @cached_property
    def network(self) -> torch.nn.Module:
        """The denoiser for rows with LoRAs. It shares its weights with the plain one."""
        return lora_twin(self._network, self._current, hooked=False)

    @cached_property
    def _twin_encoders(self) -> list[torch.nn.Module]:
        pairs = zip(self._encoders.values(), self._text_currents, strict=True)
        return [lora_twin(encoder, current, hooked=True) for encoder, current in pairs]

    @cached_property
    def _text_places(self) -> list[dict[str, Place]]:
        return [_text_places(encoder) for encoder in self._encoders.values()]

    @property
    def is_applied(self) -> bool:
        """Whether the current pass is for rows with LoRAs."""
        return self._current.source is not None

    def rank(self, request: Request) -> int:
        """The rank of a row's slot; 0 if the row needs none.

        Raises:
            AdapterError: a file of the row does not fit the model.
        """
        return self._buckets(loras_of(request))[0]

    def load(self, request: Request) -> None:
        """Read the tensors of a row's files. Raises `AdapterError`, also for values that are not finite."""
        for lora in loras_of(request):
            self.bank.factors(lora.path)
            self.bank.check(lora.path, lora.sha256)

    def key(self, request: Request) -> Hashable:
        """The key of rows that share a slot."""
        return tuple((lora.path, lora.weight) for lora in loras_of(request))

    def text_key(self, request: Request) -> Hashable:
        """The LoRAs that the encoding of a row's texts depends on."""
        loras = loras_of(request)
        return tuple(lora for lora in loras if any(map(self._is_in_texts, self.bank.header(lora.path).layers)))

    def slot_count(self, rank: int, lanes: int) -> int:
        """The maximum of different LoRAs in the lanes of a set at once."""
        numbers = sum(place.numbers(rank) for place in self._places.values())
        return max(1, min(lanes, self.slot_bytes // (numbers * self._like.element_size())))

    def slots(self, rank: int, lanes: int) -> LoraSlots:
        """Create the slots of a lane set."""
        return LoraSlots(self._places, self.slot_count(rank, lanes), rank, self._like)

    def slot(self, slots: LoraSlots, request: Request, in_use: Iterable[Request]) -> torch.Tensor:
        """The slot of a row that is admitted to the lanes, as a lane's tensor: int64, ().

        Args:
            in_use: the rows of these lanes, this one included.
        """
        loras = self.additions(
            ((lora, lora.weight) for lora in loras_of(request)), self._part, self._in_slots.__contains__
        )
        slot = slots.slot(self.key(request), {self.key(other) for other in in_use}, loras)
        return send(torch.tensor(slot), self._like.device)

    def additions(
        self, loras: Iterable[tuple[Lora, float]], part: str, is_wanted: Callable[[Layer], bool]
    ) -> dict[str, list[Weighted]]:
        """What weighted files add to the wanted layers of one part of the model, by layer, on the host."""
        found: dict[str, list[Weighted]] = {}
        for lora, weight in loras:
            for layer, factors in self.bank.factors(lora.path).items():
                if layer[0] == part and is_wanted(layer):
                    found.setdefault(layer[1], []).append((factors, weight))
        return found

    @contextmanager
    def applied(self, slots: LoraSlots, lanes: torch.Tensor) -> Iterator[None]:
        """Set the slot of each lane, int64 (L,), while `network` runs."""
        slots.lanes, self._current.source = lanes, slots
        try:
            yield
        finally:
            slots.lanes = self._current.source = None

    def encode(self, texts: list[Text], encode: Callable[[list[Text], Sequence[torch.nn.Module]], Encoded]) -> Encoded:
        """Encode texts, each with its own LoRAs. Texts without LoRAs are encoded by the plain encoders.

        Args:
            encode: encodes a batch with the text encoders passed to it.
        """
        ranks = [self._buckets(text.adapters)[1] for text in texts]
        found: list[Encoded] = [{} for _ in texts]
        plain = list(self._encoders.values())
        if not any(ranks):
            return encode(texts, plain)
        for rank in sorted(set(ranks)):
            # All texts are encoded at every rank, because the batch's shape must not change.
            encoders = self._twin_encoders if rank else plain
            with self._applied_to_texts(texts, ranks, rank):
                encoded = encode(texts, encoders)
            for i in range(len(texts)):
                if ranks[i] == rank:
                    found[i] = {name: tensor[i] for name, tensor in encoded.items()}
        return {name: torch.stack([encoded[name] for encoded in found]) for name in found[0]}

    @contextmanager
    def _applied_to_texts(self, texts: list[Text], ranks: list[int], rank: int) -> Iterator[None]:
        lanes = [text.adapters if own == rank else () for text, own in zip(texts, ranks, strict=True)]
        for i, part in enumerate(self._encoders if rank else ()):
            of_denoiser = part == self._part
            loras = [
                self.additions(
                    ((lora, lora.weight if of_denoiser else lora.te_weight) for lora in lane), part, self._is_in_texts
                )
                for lane in lanes
            ]
            self._text_currents[i].source = _Texts(self._text_places[i], loras, rank, self._encoders[part])
        try:
            yield
        finally:
            for current in self._text_currents:
                current.source = None

    def _buckets(self, loras: Sequence[Lora]) -> tuple[int, int]:
        """The ranks of a combination's slot and of the batch of its texts."""
        paths = tuple(lora.path for lora in loras)
        if paths not in self._ranks:
            sums: dict[Layer, int] = {}
            for header in map(self.bank.header, paths):
                for layer in header.layers:
                    sums[layer] = sums.get(layer, 0) + header.rank(layer)
            in_passes = max((rank for layer, rank in sums.items() if layer in self._in_slots), default=0)
            in_texts = max((rank for layer, rank in sums.items() if self._is_in_texts(layer)), default=0)
            self._ranks[paths] = _bucket(in_passes, paths), _bucket(in_texts, paths)
        return self._ranks[paths]

    def _is_in_texts(self, layer: Layer) -> bool:
        """Whether a layer runs when texts are encoded."""
        return layer[0] in self._encoders and layer not in self._in_slots


class _Texts:
    """The factors of one batch of texts, assembled layer by layer, because a text is encoded only once."""

    def __init__(
        self,
        places: Mapping[str, Place],
        lanes: Sequence[Mapping[str, Sequence[Weighted]]],
        rank: int,
        encoder: torch.nn.Module,
    ):
        self._places, self._rank = places, rank
        self._like = next(encoder.parameters())
        self._lanes = [on_device(lane, self._like.device) for lane in lanes]
        self._changed = {name for lane in lanes for name in lane}

    def gathered(self, layer: str) -> Gathered | None:
        place = self._places[layer]
        if self._changed.isdisjoint(place.parts):
            return None
        return filled(place, self._rank, self._lanes, self._like)


def _bucket(rank: int, paths: Sequence[str]) -> int:
    if rank == 0:
        return 0
    if rank > BUCKETS[-1]:
        raise AdapterError(f"{' and '.join(paths)}: combined rank {rank}; at most {BUCKETS[-1]} per row")
    return next(bucket for bucket in BUCKETS if rank <= bucket)


def _places(network: torch.nn.Module, once_per_text: Collection[str]) -> dict[str, Place]:
    """The layers that a pass of the denoiser runs."""
    found = {}
    for name, module in network.named_modules():
        if name not in once_per_text and (place := _place(module, _parts(name))):
            found[name] = place
    return found


def _text_places(encoder: torch.nn.Module) -> dict[str, Place]:
    named = ((name, _place(module, (name.removeprefix("text_model."),))) for name, module in encoder.named_modules())
    return {name: place for name, place in named if place}


def _parts(name: str) -> tuple[str, ...]:
    """The model's layers that a fused layer of the denoiser replaces."""
    block, _, own = name.rpartition(".")
    return tuple(f"{block}.{part}" for part in ("to_q", "to_k", "to_v")) if own == "to_qkv" else (name,)


def _place(module: torch.nn.Module, parts: tuple[str, ...]) -> Place | None:
    if isinstance(module, torch.nn.Linear):
        return Place(parts, module.in_features, 1, module.out_features)
    if isinstance(module, torch.nn.Conv2d):
        height, width = module.kernel_size
        return Place(parts, module.in_channels, height * width, module.out_channels)
    return None
