"""What a kind of row is to the engine. Imports no torch: who plans needs a row's size and calls, too."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdbatch.diffusion.request import TEXT_TO_IMAGE, Request
from sdbatch.diffusion.tasks.extras import FIELDS, Extra
from sdbatch.fields import Field, FrozenMapping

if TYPE_CHECKING:
    import numpy as np
    import torch

    from sdbatch.diffusion.checkpoints.model_info import ModelInfo
    from sdbatch.diffusion.pictures.picture import Picture
    from sdbatch.diffusion.samplers.coefficients import Table

    Draw = Callable[..., torch.Tensor]

__all__ = ["Need", "Run", "Start", "Task"]


@dataclass(frozen=True)
class Need:
    """One picture to be encoded, in one way.

    Attributes:
        kind: which encoder; a key of a family's `encoders`.
        picture: what is encoded.
        size: height and width in pixels that it is given first.
        covers: it is scaled until it covers that size, and cut to it; otherwise it is stretched.
        mask: for encoders that look at one.
        padding: pixels around what a mask paints, to which picture and mask are cut first.
    """

    kind: str
    picture: Picture
    size: tuple[int, int] | None = None
    covers: bool = False
    mask: Picture | None = None
    padding: int | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes it equal to another one."""
        mask = self.mask and self.mask.key
        return self.kind, self.picture.key, self.size, self.covers, mask, self.padding


@dataclass(frozen=True)
class Start:
    """How a row starts, and what it keeps. All tensors are float32 unless said otherwise.

    Attributes:
        latents: (C, h, w).
        tensors: named tensors that the task adds to the row's lanes, a mapping a lane: the conditional one first.
            The last mapping stands for all lanes after it.
        keep: a mask (1, h, w), bool, true where the row is painted; and the latents of the picture and the noise
            (C, h, w) that stay elsewhere, in the measure of the table's `keep`.
    """

    latents: torch.Tensor
    tensors: Sequence[Mapping[str, torch.Tensor]] = ()
    keep: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def of_lane(self, lane: int) -> Mapping[str, torch.Tensor]:
        """What the task adds to the row's first, second, … lane."""
        return self.tensors[min(lane, len(self.tensors) - 1)] if self.tensors else {}


@dataclass(frozen=True)
class Run:
    """What a row's coefficient table depends on, besides its sampler.

    Attributes:
        steps: of the whole run.
        left_out: steps at its start that it leaves out.
        noised: whether it needs to know how its scheduler adds noise to a picture.
        schedule: what the pipeline gives `set_timesteps` besides the steps.
    """

    steps: int
    left_out: int = 0
    noised: bool = False
    schedule: tuple[tuple[str, Any], ...] = ()


class Task:
    """A kind of row: text to image, and what the others share.

    Attributes:
        name: what `Request.task` says.
        extras: what `Request.extra` may hold.
        uses: what of other settings it understands; see `sdbatch.fields.Declares`.
        defaults: what the task's pipeline has where `Request` has other defaults.
        needs_picture: whether a row without `image` is none of this task; otherwise it is text to image.
        needs_prompt: whether its prompt must say something.
        branches: lanes that a row takes while it is guided. The second has no text; a third has no picture either.
        is_noised: whether a picture is noised by the sampler's scheduler.
    """

    name = TEXT_TO_IMAGE
    extras: tuple[Extra, ...] = ()
    uses: Collection[str] | None = None
    defaults: Mapping[str, Any] = FrozenMapping()
    needs_picture = False
    needs_prompt = True
    branches = 2
    is_noised = False

    @property
    def fields(self) -> Sequence[Field]:
        """The settings that only its rows have."""
        return tuple(FIELDS[extra.name] for extra in self.extras)

    def own_defaults(self, model: ModelInfo) -> Mapping[str, Any]:
        """What its rows have with this model where nobody says otherwise."""
        return {extra.name: extra.default_of(model) for extra in self.extras}

    def value(self, request: Request, info: ModelInfo, name: str) -> Any:
        """The value of an extra, or its default with this model."""
        value = request.extra.get(name)
        return next(f for f in self.extras if f.name == name).default_of(info) if value is None else value

    def check(self, request: Request, info: ModelInfo) -> str | None:
        """Why the row can't be run although each of its fields is right, or None."""
        return None

    def size(self, request: Request, info: ModelInfo) -> tuple[int, int]:
        """Height and width in pixels of what is decoded.

        Raises:
            PictureError: its picture can't be read.
        """
        return request.height or info.height, request.width or info.width

    def run(self, request: Request, info: ModelInfo) -> Run:
        """What the row's coefficient table depends on."""
        return Run(int(request.steps))

    def is_guided(self, request: Request, info: ModelInfo) -> bool:
        """Whether guidance is on, as far as the task decides."""
        return True

    def image_guidance(self, request: Request, info: ModelInfo) -> float:
        """The guidance scale between a row's third branch and its second."""
        return 1.0

    def needs(self, request: Request, info: ModelInfo) -> list[Need]:
        """The pictures to be encoded for the row."""
        return []

    def start(self, request: Request, info: ModelInfo, table: Table, encoded: list[Any], draw: Draw) -> Start:
        """How the row starts.

        Args:
            encoded: what the encoders made of `needs`.
            draw: the next N(0, I) of the row's generator, in the latents' shape or the one given, on the device. The
                order of draws is diffusers'.

        Raises:
            PictureError: its pictures can't be used for this.
        """
        return Start(draw() * table.init_noise_sigma)

    def finish(self, request: Request, info: ModelInfo, pixels: np.ndarray) -> np.ndarray:
        """What comes out, uint8 (H, W, 3), of what was decoded.

        Raises:
            PictureError: its pictures can't be read any more.
        """
        return pixels
