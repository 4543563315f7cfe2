"""ControlNets in the lanes: each net runs in groups of a fixed size over the lanes that need it at a call.

Whatever is the same at every call is computed when a row is admitted: the embedding of its control image, and the
keys and values of its texts in the net's layers. A group is padded, never cut: with another batch shape a net would
round differently. A net's residuals are added only to the lanes that it ran for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from sdbatch.diffusion.adapters.control_images import ControlImages, control_need
from sdbatch.diffusion.adapters.control_net import ControlNet, ControlNetUnion, is_union
from sdbatch.diffusion.adapters.control_rows import Control, controls_of, is_on, mode_refusal, runs_of
from sdbatch.diffusion.adapters.loaded_nets import LoadedNets
from sdbatch.diffusion.adapters.residuals import zeros_like_lanes
from sdbatch.diffusion.device.transfer import send
from sdbatch.diffusion.pictures.picture_encoders import PictureEncoder
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.tasks.task import Need
from sdbatch.errors import AdapterError

__all__ = ["ControlNets", "Controlled", "Job", "jobs_of"]

# Further inputs of a net whose UNet has size conditioning.
ADDED = ("text_embeds", "time_ids")


@dataclass(frozen=True)
class Controlled:
    """One ControlNet of a row in the lanes.

    Attributes:
        controls: its settings in the row, one for each control image; several only of a ControlNet Union.
        hints: what each control image adds to the first features (C, h, w).
        texts: the net's keys and values for the text of each of the row's lanes, (tokens, features).
        conditional_only: whether it runs only for the conditional lane.
        modes: 1 for each mode that a control image has, else 0, (modes,); None for a plain net.
    """

    controls: Sequence[Control]
    hints: Sequence[torch.Tensor]
    texts: Sequence[torch.Tensor]
    conditional_only: bool
    modes: torch.Tensor | None = None

    @property
    def net(self) -> str:
        return self.controls[0].net

    @property
    def scale(self) -> float:
        """The factor of its residuals; that of several control images is in their hints."""
        return self.controls[0].scale if len(self.controls) == 1 else 1.0

    def hint(self, call: int, calls: int) -> torch.Tensor:
        """What its control images add at a call, (C, h, w)."""
        if len(self.hints) == 1:
            return self.hints[0]
        total = torch.zeros_like(self.hints[0])
        for control, hint in zip(self.controls, self.hints, strict=True):
            total = total + hint if control.is_on(call, calls) else total
        return total


@dataclass(frozen=True)
class Job:
    """One run of a net for one lane at one call; `order` is the net's position among those of the row."""

    order: int
    lane: int
    text: torch.Tensor
    hint: torch.Tensor
    controlled: Controlled

    @property
    def run(self) -> tuple[int, str]:
        """The key of jobs that run together: a row's residuals are added in the order of its nets."""
        return self.order, self.controlled.net


def jobs_of(
    controlled: Sequence[Controlled], lanes: Sequence[int], call: int, calls: int, *, is_paired: bool
) -> list[Job]:
    """The jobs of a row's nets at a call.

    Args:
        lanes: its conditional and its unconditional lane.
        is_paired: whether the unconditional lane is still in use.
    """
    jobs = []
    for order, one in enumerate(controlled):
        if is_on(one.controls, call, calls):
            own, hint = lanes[: 2 if is_paired and not one.conditional_only else 1], one.hint(call, calls)
            jobs += [Job(order, lane, text, hint, one) for lane, text in zip(own, one.texts, strict=False)]
    return jobs


class ControlNets:
    """The ControlNets of one denoiser's rows; those that fit are in memory (`LoadedNets`).

    Args:
        load: loads the network of a name, on the denoiser's device and in its dtype.
        spare: returns the bytes that nets may still take.
        cell: pixels of a picture per side of a latent pixel.
    """

    def __init__(self, load: Callable[[str], torch.nn.Module], spare: Callable[[], int], cell: int):
        self._cell = cell
        self.nets: LoadedNets[ControlNet] = LoadedNets(lambda name: _control_net(load(name)), spare)
        self.calls = 0

    def needs(self, request: Request, size: tuple[int, int], mask: Need | None = None) -> list[Need]:
        """The control images of a row to encode, as `control_need` has them."""
        return [control_need(_kind(control.net), control.image, size, mask) for control in controls_of(request)]

    def encoders(self, request: Request) -> dict[str, PictureEncoder]:
        """Their encoders, by kind.

        Raises:
            AdapterError: a net can't be used, or does not have the row's `control_mode`.
        """
        controls = controls_of(request)
        if reason := mode_refusal(request, {control.net: self.net(control.net).modes for control in controls}):
            raise AdapterError(reason)
        return {_kind(c.net): ControlImages(partial(self._hint, c.net), self._cell) for c in controls}

    def controlled(
        self, request: Request, hints: Sequence[Mapping[str, torch.Tensor]], texts: Sequence[torch.Tensor]
    ) -> list[Controlled]:
        """A row's nets, each with its embedded control image and its keys and values of the texts.

        Args:
            hints: the encoded control images.
            texts: the hidden states (tokens, dim) of the text of each of its lanes.
        """
        controls = controls_of(request)
        # diffusers uses the setting of the first net.
        conditional_only = controls[0].guess_mode or self.net(controls[0].net).is_pooled
        return [
            self._controlled([controls[i] for i in run], [hints[i]["hint"] for i in run], texts, conditional_only)
            for run in runs_of(controls)
        ]

    def _controlled(self, controls: Sequence[Control], hints: Sequence[torch.Tensor], texts, conditional_only: bool):
        net = self.net(controls[0].net)
        return Controlled(
            controls,
            net.added(controls, hints),
            [net.text(text) for text in texts],
            conditional_only,
            net.modes_of(controls),
        )

    def residuals(
        self, jobs: Iterable[Job], latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Mapping[str, Any]
    ) -> list[torch.Tensor]:
        """What the nets add to skip connections and, last, to the middle block, each (L, C, h, w); none if none runs.

        Args:
            latents, timesteps, conditioning: the denoiser's inputs, for all lanes.
        """
        # Of the nets of one place, those in memory run first, so that loading another does not drop them before.
        jobs = sorted(jobs, key=lambda job: (job.order, job.controlled.net not in self.nets, job.run, job.lane))
        sums: list[torch.Tensor] = []
        for run in dict.fromkeys(job.run for job in jobs):
            together = [job for job in jobs if job.run == run]
            size = group_size(len(latents))
            for first in range(0, len(together), size):
                group = together[first : first + size]
                made = self._run(group, size, latents, timesteps, conditioning)
                if not sums:
                    sums = [zeros_like_lanes(len(latents), residual[0]) for residual in made]
                lanes = _index([job.lane for job in group], latents.device)
                for total, residual in zip(sums, made, strict=True):
                    total.index_add_(0, lanes, residual[: len(group)])
        return sums

    def net(self, name: str) -> ControlNet:
        """A net, loaded if it is not in memory."""
        return self.nets[name]

    def _hint(self, name: str, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"hint": self.net(name).hints(pixels)}

    def _run(self, group: Sequence[Job], size: int, latents, timesteps, conditioning) -> list[torch.Tensor]:
        """The group's scaled residuals, one entry per job, then those of the padding."""
        self.calls += 1
        net = self.net(group[0].controlled.net)
        padded = [*group, *group[:1] * (size - len(group))]
        lanes = _index([job.lane for job in padded], latents.device)
        made = net.residuals(
            latents.index_select(0, lanes),
            timesteps.index_select(0, lanes),
            torch.stack([job.text for job in padded]),
            torch.stack([job.hint for job in padded]),
            None if group[0].controlled.modes is None else torch.stack([job.controlled.modes for job in padded]),
            {name: conditioning[name].index_select(0, lanes) for name in ADDED if name in conditioning},
        )
        scales = [_scales(job, len(made), net.is_pooled) for job in padded]
        scales = send(torch.tensor(scales), latents.device).unbind(1)
        scaled = [(r * scale.view(-1, 1, 1, 1)).to(r.dtype) for r, scale in zip(made, scales, strict=True)]
        return [r.mean(dim=(2, 3), keepdim=True).expand_as(r) for r in scaled] if net.is_pooled else scaled


def _control_net(net: torch.nn.Module) -> ControlNet:
    return ControlNetUnion(net) if is_union(net) else ControlNet(net)


def group_size(lanes: int) -> int:
    """Lanes per run of a net: even, and a function only of the lanes of a pass."""
    return max(2, lanes // 4 // 2 * 2)


def _scales(job: Job, count: int, is_pooled: bool) -> list[float]:
    """The factor of each residual; in guess mode the outer ones are smaller than the inner ones."""
    scale = job.controlled.scale
    if job.controlled.conditional_only and not is_pooled:
        return (torch.logspace(-1, 0, count) * scale).tolist()
    return [scale] * count


def _kind(net: str) -> str:
    return f"control image of {net}"


def _index(lanes: list[int], device: torch.device) -> torch.Tensor:
    return send(torch.tensor(lanes), device)
