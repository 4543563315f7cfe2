"""Sampling from noise to latents: the inputs of the denoiser's passes, and the use of their outputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from typing import Any

import torch

from sdbatch.diffusion.accelerate.cuda_graph import CudaGraphs
from sdbatch.diffusion.adapters.lora_slots import LoraSlots
from sdbatch.diffusion.adapters.net_fields import nets_named
from sdbatch.diffusion.adapters.residuals import Residuals
from sdbatch.diffusion.device.memory import is_out_of_memory
from sdbatch.diffusion.device.transfer import send
from sdbatch.diffusion.embeddings import Embeddings, Text, WindowedEmbeddings
from sdbatch.diffusion.families.family import Family, Named
from sdbatch.diffusion.lanes import LaneSet
from sdbatch.diffusion.pictures.picture_encodings import PictureEncodings
from sdbatch.diffusion.sampling_row import SamplingRow
from sdbatch.diffusion.slots import Slots, numbers_of
from sdbatch.diffusion.tasks import Need
from sdbatch.errors import AdapterError, PictureError

__all__ = ["NoRoomForRow", "Sampling"]

TEXT_BATCH = 8
LORA_SLOT = "lora_slot"  # the lanes' tensor with the slots of their LoRAs
# Number of waiting rows whose texts may fill a batch of the text encoder.
LOOK_AHEAD = 64
# Number of passes that the host may queue on a GPU: enough to keep it busy, few enough to bound memory.
RUN_AHEAD = 2


class NoRoomForRow(Exception):
    """What a row needs, such as a net of its own, does not fit into memory; the cause is the library's error."""

    def __init__(self, row: SamplingRow) -> None:
        super().__init__(f"no memory for row {row.index}")
        self.row = row


class Sampling:
    """The tensors of all lane sets. Each method is one stage of a step for one set.

    Args:
        cuda_graphs: whether passes are replayed from graphs, which must give the same bits.
    """

    def __init__(self, family: Family, *, cuda_graphs: bool = False):
        self._family = family
        self._graphs = CudaGraphs(family.denoise) if cuda_graphs else None
        self._embeddings = (
            Embeddings(family.encode, TEXT_BATCH)
            if family.residency is None
            else WindowedEmbeddings(family.encode, TEXT_BATCH, family.device, self._encoding)
        )
        self._pictures = PictureEncodings(family.encoders, family.device)
        self._slots: dict[Hashable, Slots] = {}
        self._lora_slots: dict[Hashable, LoraSlots] = {}
        self._passes: deque[torch.cuda.Event] = deque()

    @property
    def graph_error(self) -> str | None:
        """The reason why CUDA graphs can't be used for some size although requested, or None."""
        return None if self._graphs is None else self._graphs.error

    def may_enter(self, lane_set: LaneSet) -> Callable[[SamplingRow], bool]:
        """A function that decides whether a waiting row can be admitted: whether there is a slot for its LoRAs.

        It assumes that every row it accepts is admitted.
        """
        in_use = {self._family.loras.key(row.request) for row in lane_set.rows if row.lora_rank}

        def may_enter(row: SamplingRow) -> bool:
            if not row.lora_rank:
                return True
            loras = self._family.loras
            key = loras.key(row.request)
            if key not in in_use and len(in_use) >= loras.slot_count(row.lora_rank, lane_set.size):
                return False
            in_use.add(key)
            return True

        return may_enter

    def admit(
        self,
        lane_set: LaneSet,
        rows: list[SamplingRow],
        waiting: Iterable[SamplingRow],
        elsewhere: Iterable[SamplingRow] = (),
    ) -> list[tuple[SamplingRow, str]]:
        """Set initial latents and conditioning of newly admitted rows; `waiting` rows come next.

        Args:
            elsewhere: rows that wait for other sets; their texts are encoded, too, while the text encoders are on the
                device.

        Returns:
            The rows whose pictures or adapters can't be used, with the reasons; they must leave their lanes.

        Raises:
            NoRoomForRow: what one of them needs does not fit into memory.
        """
        family = self._family
        reasons = [(row, self._without_loras(row)) for row in rows]
        failed = [(row, reason) for row, reason in reasons if reason]
        rows = [row for row, reason in reasons if not reason]
        if not rows:
            return failed
        slots = self._slots.get(lane_set.place)
        if slots is None:
            shape = family.latent_shape(*rows[0].task.size(rows[0].request, family.info))
            slots = self._slots[lane_set.place] = Slots(shape, lane_set.size, family.device)
        waiting = iter(waiting)
        following = list(islice(waiting, LOOK_AHEAD))
        further = () if family.residency is None else chain(waiting, elsewhere)
        upcoming = self._texts(chain(following, further))
        self._embeddings.get([text for row in rows for text in family.texts(row.request)], upcoming)
        for i, row in enumerate(rows):
            try:
                self._start(lane_set, row, [*rows[i + 1 :], *following])
            except (PictureError, AdapterError) as error:
                failed.append((row, str(error)))
            except Exception as error:
                if is_out_of_memory(error):
                    raise NoRoomForRow(row) from error
                raise
        return failed

    def _texts(self, rows: Iterable[SamplingRow]) -> Iterator[Text]:
        """The texts of rows, one row at a time, without those whose LoRAs can't be loaded."""
        for row in rows:
            texts = self._family.texts(row.request)
            if not any(text.adapters for text in texts) or self._without_loras(row) is None:
                yield from texts

    @contextmanager
    def _encoding(self) -> Iterator[None]:
        """Have the text encoders on the device. Graphs contain the addresses of weights, which may change."""
        if self._graphs is not None:
            self._graphs.forget()
        with self._family.encoding():
            yield

    def _without_loras(self, row: SamplingRow) -> str | None:
        """The reason why a row's LoRAs can't be loaded, or None."""
        try:
            self._family.load_loras(row.request)
        except AdapterError as error:
            return str(error)
        return None

    def _start(self, lane_set: LaneSet, row: SamplingRow, following: list[SamplingRow]) -> None:
        slots = self._slots[lane_set.place]
        family, request = self._family, row.request
        needs = self._needs(row)
        if family.nets is not None and nets_named(request):
            family.encoders.update(family.nets.encoders(request))
        pictures = self._pictures.get(needs, (need for row in following for need in self._needs(row)))
        row.generator = torch.Generator().manual_seed(int(request.seed))
        count = len(row.task.needs(request, family.info))
        own, shown = pictures[:count], pictures[count:]
        start = row.task.start(request, family.info, row.coefficients, own, partial(self._draw, slots.shape, row))
        encoded = self._embeddings.get(family.texts(request))
        if shown:
            texts = partial(_hidden_states, family.joined(request, encoded), row.width)
            feature_calls = family.adapter_calls(request, row.task.run(request, family.info), row.calls)
            row.prepared = family.nets.prepared(request, shown, texts, lanes=row.width, feature_calls=feature_calls)
        lanes = family.conditioning(request, encoded, slots.shape)
        lanes = [*lanes, *lanes[-1:] * (row.width - len(lanes))][: row.width]
        slot = self._lora_slot(lane_set, row)
        lanes = [{**named, **start.of_lane(i), **row.prepared.of_lane(i), **slot} for i, named in enumerate(lanes)]
        row.keeps, row.unusable = start.keep is not None, start.unusable
        slots.admit(row, start.latents, lanes, start.keep)

    def _lora_slot(self, lane_set: LaneSet, row: SamplingRow) -> Mapping[str, torch.Tensor]:
        """The lane tensor of a row with LoRAs: their slot."""
        if not row.lora_rank:
            return {}
        loras, place = self._family.loras, lane_set.place
        if place not in self._lora_slots:
            self._lora_slots[place] = loras.slots(row.lora_rank, lane_set.size)
        in_use = (other.request for other in lane_set.rows)
        return {LORA_SLOT: loras.slot(self._lora_slots[place], row.request, in_use)}

    def _needs(self, row: SamplingRow) -> list[Need]:
        """The pictures to encode for a row: those of its task, then those of its networks."""
        family, request = self._family, row.request
        own = row.task.needs(request, family.info)
        if family.nets is None or not nets_named(request):
            return own
        return [*own, *family.nets.needs(request, row.task.size(request, family.info), next(iter(own), None))]

    def _draw(self, shape: tuple[int, ...], row: SamplingRow, other: tuple[int, ...] | None = None) -> torch.Tensor:
        """The next N(0, I) of a row's generator on the device, in the latents' shape or the given one."""
        return send(_draw(other or shape, row.generator), self._family.device)

    def denoise(self, lane_set: LaneSet) -> tuple[torch.Tensor, torch.Tensor]:
        """Run one pass of the denoiser; returns its prediction and the coefficients of the step."""
        self._keep_in_step()
        slots = self._slots[lane_set.place]
        rows = (
            (row, row.coefficients, row.guidance_scales, self._family.rescale(row.request), row.image_guidance)
            for row in lane_set.rows
        )
        numbers = send(numbers_of(rows, lane_set.size), self._family.device)
        features = slots.deep_features if lane_set.passes_since_deep else None
        run = partial(self._pass, lane_set, *slots.inputs(numbers), slots.conditioning, features)
        outputs, slots.deep_features = run() if self._graphs is None else self._graphs.beside(run)
        return outputs, numbers

    def _pass(self, lane_set: LaneSet, *inputs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `Family.denoise`, with what the set's rows add to it."""
        residuals = self._residuals(lane_set, *inputs[:3])
        loras = self._lora_slots.get(lane_set.place)
        if loras is not None:
            with self._family.loras.applied(loras, inputs[2][LORA_SLOT]):
                return self._family.denoise(*inputs, residuals=residuals)
        if residuals is not None:
            return self._family.denoise(*inputs, residuals=residuals)
        run = self._family.denoise if self._graphs is None else partial(self._graphs, place=lane_set.place)
        return run(*inputs)

    def _residuals(self, lane_set: LaneSet, latents, timesteps, conditioning) -> Residuals | None:
        """What the networks of the set's rows add to a pass; None if no lane has a network."""
        nets, rows = self._family.nets, ((row, row.prepared) for row in lane_set.rows)
        return None if nets is None else nets.residuals(rows, latents, timesteps, conditioning)

    def advance(self, lane_set: LaneSet, outputs: torch.Tensor, numbers: torch.Tensor) -> None:
        """Apply one step to every row of the set."""
        depth = max(row.coefficients.depth for row in lane_set.rows)
        rescaled = any(row.width > 1 and self._family.rescale(row.request) for row in lane_set.rows)
        renormalise = self._family.renormalise if rescaled else None
        slots = self._slots[lane_set.place]
        keeps = any(row.keeps for row in lane_set.rows)
        noise = self._draw_noise(lane_set)
        slots.advance(
            outputs,
            numbers,
            noise,
            depth=depth,
            renormalise=renormalise,
            keeps=keeps,
            guided_twice=any(row.width > 2 for row in lane_set.rows),
        )

    def narrow(self, row: SamplingRow) -> None:
        """Continue a row without its unconditional lane, which is reassigned."""
        self._slots[row.place].narrow(row)

    def latents(self, row: SamplingRow) -> torch.Tensor:
        """A copy of a row's current latents: float32 (C, h, w)."""
        return self._slots[row.place].latents[row.lane].clone()

    @property
    def holds_memory(self) -> bool:
        """Whether `clear` would release memory."""
        return bool(self._slots)

    def release(self, lane_set: LaneSet) -> None:
        """Release the memory of a set without rows."""
        self._slots.pop(lane_set.place, None)
        self._lora_slots.pop(lane_set.place, None)
        if self._graphs is not None:
            self._graphs.forget(lane_set.place)

    def clear(self) -> None:
        """Release all memory; the rows can be admitted again."""
        self._slots.clear()
        self._lora_slots.clear()
        if self._graphs is not None:
            self._graphs.forget()
        self._embeddings.clear()
        self._pictures.clear()
        self._passes.clear()

    def _draw_noise(self, lane_set: LaneSet) -> torch.Tensor | None:
        """Each row's noise for this call: float32, drawn on the CPU like in diffusers."""
        slots = self._slots[lane_set.place]
        noise = None
        for row in lane_set.rows:
            if not row.coefficients.draws[row.call]:
                continue
            # Some samplers draw noise although its coefficient is 0; the generator must advance anyway.
            drawn = _draw(slots.shape, row.generator)
            if row.coefficients.noise[row.call]:
                noise = torch.zeros(slots.lanes, *slots.shape) if noise is None else noise
                noise[row.lane] = drawn
        return None if noise is None else send(noise, self._family.device)

    def _keep_in_step(self) -> None:
        """On CUDA, wait until at most `RUN_AHEAD` passes are queued."""
        if self._family.device.type != "cuda":
            return
        event = torch.cuda.Event(blocking=True)  # waits without occupying a core
        event.record(torch.cuda.current_stream(self._family.device))
        self._passes.append(event)
        if len(self._passes) > RUN_AHEAD:
            self._passes.popleft().synchronize()


def _hidden_states(encoded: list[Named], lanes: int) -> list[torch.Tensor]:
    """The hidden states of the text of each lane of a row; zeros for an unconditional lane without text."""
    texts = [named["encoder_hidden_states"] for named in encoded]
    return [texts[i] if i < len(texts) else torch.zeros_like(texts[0]) for i in range(lanes)]


def _draw(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """The generator's next N(0, I) as in a diffusers pipeline: float32, for one picture."""
    return torch.randn(1, *shape, generator=generator)[0]
