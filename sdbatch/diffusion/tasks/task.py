"""The base class of tasks: the interface between a kind of row and the engine. Imports no torch: plans use it, too."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdbatch.diffusion.request import TEXT_TO_IMAGE, Request
from sdbatch.fields import Field, FrozenMapping

if TYPE_CHECKING:
    import numpy as np
    import torch

    from sdbatch.diffusion.checkpoints.model_info import ModelInfo
    from sdbatch.diffusion.pictures.picture import Picture
    from sdbatch.diffusion.samplers.coefficients import Coefficients

    Draw = Callable[..., torch.Tensor]

__all__ = ["Need", "Run", "Start", "Task", "Unusable"]


@dataclass(frozen=True)
class Need:
    """A picture to encode, and how.

    Attributes:
        kind: the encoder; a key of a family's `encoders`.
        picture: the picture to encode.
        size: height and width in pixels that it is resized to first.
        covers: whether it is scaled to cover that size and cropped; otherwise it is stretched.
        mask: a mask, for encoders that use one.
        padding: picture and mask are first cropped to the masked area plus this many pixels; None for no crop.
    """

    kind: str
    picture: Picture
    size: tuple[int, int] | None = None
    covers: bool = False
    mask: Picture | None = None
    padding: int | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """Its identity: needs with equal keys share one encoding."""
        mask = self.mask and self.mask.key
        return self.kind, self.picture.key, self.size, self.covers, mask, self.padding


@dataclass(frozen=True)
class Unusable:
    """A doubt whether a row's pictures can be used, which only the device can settle.

    If they can't, the row's latents are NaN. The host reads the answer only then, because it has to wait for it.

    Attributes:
        answer: bool (), on the device: true if they can't be used.
        reason: why, in words.
    """

    answer: torch.Tensor
    reason: str


@dataclass(frozen=True)
class Start:
    """How a row starts, and what it keeps. All tensors are float32 unless stated otherwise.

    Attributes:
        latents: the initial latents (C, h, w).
        tensors: named tensors that the task adds to the row's lanes, one mapping per lane, the conditional lane first.
            The last mapping applies to all further lanes.
        keep: a bool mask (1, h, w), true where the row is repainted; and the latents of the picture and the noise
            (C, h, w), which are kept elsewhere, mixed by the factors of the coefficients' `keep`.
        unusable: whether the row's pictures turn out to be unusable.
    """

    latents: torch.Tensor
    tensors: Sequence[Mapping[str, torch.Tensor]] = ()
    keep: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
    unusable: Unusable | None = None

    def of_lane(self, lane: int) -> Mapping[str, torch.Tensor]:
        """The tensors that the task adds to a lane of the row, by the lane's number."""
        return self.tensors[min(lane, len(self.tensors) - 1)] if self.tensors else {}


@dataclass(frozen=True)
class Run:
    """The inputs of a row's coefficients besides its sampler.

    Attributes:
        steps: steps of the whole schedule.
        left_out: number of first steps that are skipped.
        noised: whether the coefficients must contain how the scheduler adds noise to a picture.
        schedule: the pipeline's further arguments of `set_timesteps`.
    """

    steps: int
    left_out: int = 0
    noised: bool = False
    schedule: tuple[tuple[str, Any], ...] = ()


class Task:
    """A kind of row; the defaults of its methods are those of text to image.

    Attributes:
        name: its name in `Request.task`.
        fields: the settings that only its rows have; they are in `Request.extra`.
        uses: the other settings that it supports; see `sdbatch.fields.Declares`.
        defaults: the defaults of the task's pipeline, where they differ from those of the fields.
        family_defaults: defaults that take precedence, by the name of the family.
        needs_picture: whether a row without `image` is an error; otherwise such a row is text to image.
        needs_prompt: whether the prompt must not be empty.
        branches: lanes of a row with guidance. The second has no text; a third has no picture either.
        is_noised: whether the sampler's scheduler adds noise to a picture.
    """

    name = TEXT_TO_IMAGE
    fields: Sequence[Field] = ()
    uses: Collection[str] | None = None
    defaults: Mapping[str, Any] = FrozenMapping()
    family_defaults: Mapping[str, Mapping[str, Any]] = FrozenMapping()
    needs_picture = False
    needs_prompt = True
    branches = 2
    is_noised = False

    def defaults_of(self, family: str) -> Mapping[str, Any]:
        """The defaults of its rows with models of that family."""
        return {**self.defaults, **self.family_defaults.get(family, {})}

    def value(self, request: Request, info: ModelInfo, name: str) -> Any:
        """The row's value of one of the task's own settings, or its default with this model; None if it has none."""
        value = request.extra.get(name)
        return self.defaults_of(info.family).get(name) if value is None else value

    def check(self, request: Request, info: ModelInfo) -> str | None:
        """The reason why the row can't be run although each of its fields is valid, or None."""
        return None

    def size(self, request: Request, info: ModelInfo) -> tuple[int, int]:
        """Height and width in pixels of the decoded picture.

        Raises:
            PictureError: its picture can't be read.
        """
        return request.height or info.height, request.width or info.width

    def run(self, request: Request, info: ModelInfo) -> Run:
        """The inputs of the row's coefficients."""
        return Run(int(request.steps))

    def is_guided(self, request: Request, info: ModelInfo) -> bool:
        """Whether guidance is on, as far as the task decides."""
        return True

    def image_guidance(self, request: Request, info: ModelInfo) -> float:
        """The guidance scale from a row's third branch to its second."""
        return 1.0

    def needs(self, request: Request, info: ModelInfo) -> list[Need]:
        """The pictures to encode for the row."""
        return []

    def start(
        self, request: Request, info: ModelInfo, coefficients: Coefficients, encoded: list[Any], draw: Draw
    ) -> Start:
        """The row's start.

        Args:
            encoded: the encodings of `needs`.
            draw: returns the next N(0, I) of the row's generator, in the latents' shape or the given one, on the
                device. The order of draws is that of diffusers.

        Raises:
            PictureError: its pictures can't be used.
        """
        return Start(draw() * coefficients.init_noise_sigma)

    def finish(self, request: Request, info: ModelInfo, pixels: np.ndarray) -> np.ndarray:
        """The result, uint8 (H, W, 3), from the decoded picture.

        Raises:
            PictureError: its pictures can no longer be read.
        """
        return pixels
