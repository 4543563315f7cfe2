"""The base class of a family's engine half: the interface between a kind of model and the engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Self

import torch

from sdbatch.diffusion.adapters.residuals import Residuals
from sdbatch.diffusion.adapters.row_loras import RowLoras
from sdbatch.diffusion.adapters.row_nets import RowNets
from sdbatch.diffusion.checkpoints.configs import Config
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.device.residency import Residency
from sdbatch.diffusion.embeddings import Text
from sdbatch.diffusion.guidance import guidance_scales
from sdbatch.diffusion.model_coefficients import ModelCoefficients
from sdbatch.diffusion.pictures.picture_encoders import PictureEncoder
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.samplers.coefficients import Coefficients
from sdbatch.diffusion.tasks.task import Run
from sdbatch.errors import ModelError

__all__ = ["Checkpoint", "Family", "Named"]

Named = Mapping[str, torch.Tensor]


@dataclass
class Checkpoint:
    """The loaded contents of a model's folder.

    Attributes:
        parts: all components but the scheduler, by folder name.
        device, dtype: those of its networks.
        scheduler_config, index: the contents of scheduler_config.json and model_index.json.
    """

    info: ModelInfo
    parts: Mapping[str, Any]
    device: torch.device
    dtype: torch.dtype
    scheduler_config: Mapping[str, object]
    index: Config


class Family(ABC):
    """One kind of model: how it encodes, conditions, denoises, guides and decodes.

    Differences between rows are data: a lane's tensors, a call's numbers. Differences between families are code that
    runs over all lanes at once.

    Attributes:
        info: the facts about the model known from its folder.
        denoiser: the network that every pass runs.
        device, dtype: those of the denoiser.
        tf32_decoder: whether TF32 is precise enough for a decoder that runs in float32.
        encoders: the picture encoders, by `Need.kind`.
        loras: applies the LoRAs of rows; None if the family supports none.
        nets: applies the networks that rows name, such as ControlNets; None if the family supports none.
        residency: moves text encoders and denoiser if they take turns on the device; None if both stay there.
    """

    info: ModelInfo
    denoiser: torch.nn.Module
    device: torch.device
    dtype: torch.dtype
    tf32_decoder: bool = False
    loras: RowLoras | None = None
    nets: RowNets | None = None
    residency: Residency | None = None

    def __init__(self, info: ModelInfo, scheduler_config: Mapping[str, object], index: Config):
        self.info = info
        self._coefficients = ModelCoefficients(info, scheduler_config, index)
        self.encoders: dict[str, PictureEncoder] = {}

    @classmethod
    @abstractmethod
    def of(cls, checkpoint: Checkpoint) -> Self:
        """Create the family's engine half from a loaded checkpoint."""

    @abstractmethod
    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents for a picture of this height and width in pixels."""

    def lane_key(self, request: Request) -> Hashable:
        """A key that rows must share to run in one pass, besides the latents' height and width."""
        return ()

    def lora_rank(self, request: Request) -> int:
        """The rank of the row's LoRAs in a pass; 0 if its passes apply none.

        Raises:
            AdapterError: a file does not fit the model.
        """
        return 0 if request.extra.get("lora") is None or self.loras is None else self.loras.rank(request)

    def load_loras(self, request: Request) -> None:
        """Load the row's LoRAs.

        Raises:
            AdapterError: a file can't be read, or contains values that are not finite.
        """
        if request.extra.get("lora") is not None and self.loras is not None:
            self.loras.load(request)

    def coefficients(self, request: Request) -> Coefficients:
        """The row's coefficients.

        Raises:
            SamplerError: the model does not support its sampler with this number of steps.
        """
        return self._coefficients.of_row(request)

    def scales(self, request: Request, calls: int) -> Sequence[float]:
        """The guidance scale of each call; 1 for calls that need no unconditional output."""
        return guidance_scales(request, self.info, calls)

    def adapter_calls(self, request: Request, run: Run, calls: int) -> int:
        """The number of first calls with the row's T2I-Adapters, of all its `calls`."""
        return calls

    def renormalise(self, guided: torch.Tensor, conditional: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """Rescale guided outputs (L, C, h, w) towards the conditional ones.

        Args:
            factors: float32 (L, 1, 1, 1), from `rescale`; a factor of 0 must leave its lane unchanged, to the bit.
        """
        return guided

    def rescale(self, request: Request) -> float:
        """The row's factor for `renormalise`; 0 if its outputs stay unchanged."""
        return request.guidance_rescale

    @abstractmethod
    def count_tokens(self, text: str) -> int:
        """Tokens of a text, special ones included, before truncation."""

    def prompt_tokens(self, request: Request) -> tuple[int, bool]:
        """Tokens of the row's prompt, special ones included, before truncation; and whether it is truncated."""
        tokens = self.count_tokens(request.prompt)
        return tokens, tokens > self.info.max_tokens

    @abstractmethod
    def texts(self, request: Request) -> list[Text]:
        """The texts to encode for a row: those of its conditional lane, then those of its unconditional lane."""

    @abstractmethod
    def encode(self, texts: list[Text]) -> Named:
        """Encode texts to named tensors with one entry per text; the caller keeps the batch shape fixed."""

    def encoding(self) -> AbstractContextManager[None]:
        """Have the text encoders on the device, as `encode` needs them; the denoiser may be away meanwhile."""
        return nullcontext() if self.residency is None else self.residency.encoding()

    def release_text_encoders(self) -> None:
        """Have text encoders and denoiser take turns on the device. The text encoders have been loaded to the host.

        Raises:
            ModelError: the family does not support it.
        """
        raise ModelError(f"the text encoders of {self.info.title} stay on the device")

    def joined(self, request: Request, encoded: list[Named]) -> list[Named]:
        """Join the encoded texts of a row into one entry per lane."""
        return encoded

    @abstractmethod
    def conditioning(
        self, request: Request, encoded: list[Named], shape: tuple[int, int, int]
    ) -> list[dict[str, torch.Tensor]]:
        """Named tensors of the row's conditional lane, then those of its unconditional lane if it has one."""

    def task_inputs(self, shape: tuple[int, int, int]) -> Named:
        """Zero tensors for the inputs that the model's tasks add to lanes; `shape` is that of the latents (C, h, w)."""
        return {}

    @abstractmethod
    def denoise(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Named,
        features: torch.Tensor | None = None,
        residuals: Residuals | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run the denoiser on stacked lanes; the result has its dtype.

        Args:
            latents: float32 (L, C, h, w).
            timesteps: float32 (L,).
            conditioning: the lanes' named tensors, those of their tasks included, stacked.
            features: with deep-cache, the same rows' deep features from an earlier call; None to compute them.
            residuals: what networks of rows add, if rows of the pass may have such networks.

        Returns:
            The prediction (L, C, h, w), and with deep-cache the deep features.
        """

    @abstractmethod
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode float32 latents (B, C, h, w) to pictures (B, 3, H, W), nominally within ±1."""

    def cache_deep_features(self) -> None:
        """Make `denoise` return deep features and accept them.

        Raises:
            ModelError: the family knows no layers that can be skipped.
        """
        raise ModelError(f"deep-cache does not work with {self.info.title}: it knows no layers that can be skipped")

    def compile(  # noqa: B027  # optional
        self, shapes: Collection[tuple[int, int, int]], decode_batch: int, *, blocks: bool = False
    ) -> None:
        """Run torch.compile on the denoiser for latents (C, h, w) of these shapes, and on CUDA on the decoder.

        Other shapes are not compiled: each takes a minute, and torch stops compiling after a number of them, so the
        choice would depend on the order of the rows.

        Args:
            decode_batch: rows per call of the compiled decoder.
            blocks: whether to compile repeated blocks instead of whole networks.
        """

    def decompile(self) -> None:  # noqa: B027
        """Undo `compile`."""

    def keep_whole(self) -> set[torch.nn.Module]:
        """The layers of the denoiser that must not be quantised."""
        return set()
