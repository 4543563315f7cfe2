"""What a family of models is to the engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch

from sdbatch.diffusion.adapters.control_nets import ControlNets, Residuals
from sdbatch.diffusion.adapters.ip_adapter_nets import IpAdapters
from sdbatch.diffusion.adapters.row_loras import RowLoras
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.embeddings import Text
from sdbatch.diffusion.guidance import guidance_scales
from sdbatch.diffusion.model_tables import ModelTables
from sdbatch.diffusion.pictures.picture_encoders import PictureEncoder
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.samplers.coefficients import Table
from sdbatch.errors import ModelError

__all__ = ["Checkpoint", "Family", "Named"]

Named = Mapping[str, torch.Tensor]


@dataclass
class Checkpoint:
    """A model's folder in memory.

    Attributes:
        parts: all but the scheduler by the names of their folders.
        device, dtype: of its networks.
        scheduler_config, index: the contents of scheduler_config.json and model_index.json.
    """

    info: ModelInfo
    parts: Mapping[str, Any]
    device: torch.device
    dtype: torch.dtype
    scheduler_config: Mapping[str, object]
    index: Mapping[str, object]


class Family(ABC):
    """One kind of model: how it encodes, conditions, denoises, guides and decodes.

    What differs between rows is data: tensors of a lane, numbers of a call. What differs between families is code
    that runs over all lanes at once.

    Attributes:
        info: what the model's folder says of itself.
        denoiser: the network that every pass runs.
        device, dtype: of the denoiser.
        tf32_decoder: whether TF32 is precise enough for the decoder although it runs in float32.
        encoders: what can be made of pictures, by the kind that a task says it needs.
        controls, ip_adapters: the ControlNets and the IP-Adapters that its rows name; None where they can't have any.
        loras: what applies LoRAs to rows; None for a family that takes none.
    """

    info: ModelInfo
    denoiser: torch.nn.Module
    device: torch.device
    dtype: torch.dtype
    tf32_decoder: bool = False
    loras: RowLoras | None = None

    def __init__(self, info: ModelInfo, scheduler_config: Mapping[str, object], index: Mapping[str, object]):
        self.info = info
        self._tables = ModelTables(info, scheduler_config, index)
        self.encoders: dict[str, PictureEncoder] = {}
        self.controls: ControlNets | None = None
        self.ip_adapters: IpAdapters | None = None

    @classmethod
    @abstractmethod
    def of(cls, checkpoint: Checkpoint) -> Self:
        """The family's model, made of what was loaded."""

    @abstractmethod
    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a picture of that many pixels."""

    def lane_key(self, request: Request) -> Hashable:
        """What rows must share to run in one pass, besides the latents' height and width."""
        return ()

    def lora_rank(self, request: Request) -> int:
        """The rank that the row's LoRAs have in a pass; 0 for a row whose passes have none.

        Raises:
            AdapterError: a file does not fit the model.
        """
        return 0 if request.extra.get("lora") is None or self.loras is None else self.loras.rank(request)

    def load_loras(self, request: Request) -> None:
        """Have the row's LoRAs ready.

        Raises:
            AdapterError: a file can't be read, or holds numbers that are not finite.
        """
        if request.extra.get("lora") is not None and self.loras is not None:
            self.loras.load(request)

    def table(self, request: Request) -> Table:
        """The row's coefficient table.

        Raises:
            SamplerError: its sampler and steps do not go with this model.
        """
        return self._tables.table(request)

    def scales(self, request: Request, calls: int) -> Sequence[float]:
        """The guidance scale of each call; 1 where it needs no unconditional output."""
        return guidance_scales(request, self.info, calls)

    def renormalise(self, guided: torch.Tensor, conditional: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """Guided outputs (L, C, h, w), drawn towards the conditional ones.

        Args:
            factors: float32 (L, 1, 1, 1), of `rescale`; a factor of 0 must leave its lane as it is, to the bit.
        """
        return guided

    def rescale(self, request: Request) -> float:
        """The factor with which `renormalise` is called for the row; 0 where its outputs stay as they are."""
        return request.guidance_rescale

    @abstractmethod
    def count_tokens(self, text: str) -> int:
        """Tokens of a text, special ones included, before truncation."""

    def prompt_tokens(self, request: Request) -> tuple[int, bool]:
        """Tokens of the row's prompt, special ones included, before truncation; and whether it is cut off."""
        tokens = self.count_tokens(request.prompt)
        return tokens, tokens > self.info.max_tokens

    @abstractmethod
    def texts(self, request: Request) -> list[Text]:
        """What must be encoded for a row: what its conditional lane needs, then its unconditional one's."""

    @abstractmethod
    def encode(self, texts: list[Text]) -> Named:
        """Named tensors, one entry a text; the caller keeps the batch shape fixed."""

    def joined(self, request: Request, encoded: list[Named]) -> list[Named]:
        """The encoded texts of a row, one for each lane."""
        return encoded

    @abstractmethod
    def conditioning(
        self, request: Request, encoded: list[Named], shape: tuple[int, int, int]
    ) -> list[dict[str, torch.Tensor]]:
        """Named tensors of the row's conditional lane, then of its unconditional one if it has one."""

    def task_inputs(self, shape: tuple[int, int, int]) -> Named:
        """Zeros for what the tasks of this model add to every lane; shape (C, h, w) is that of the latents."""
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
        """What the denoiser predicts for stacked lanes, in its own dtype.

        Args:
            latents: float32 (L, C, h, w).
            timesteps: float32 (L,).
            conditioning: a lane's named tensors, those of its task among them, stacked.
            features: with DeepCache, the deep features that the same rows had at an earlier call; None to make them.
            residuals: where rows of the pass may have adapters, what ControlNets add; empty if none of these runs.

        Returns:
            The prediction (L, C, h, w), and with DeepCache the deep features.
        """

    @abstractmethod
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, H, W), nominally within ±1, of float32 latents (B, C, h, w)."""

    def cache_deep_features(self) -> None:
        """Have `denoise` make deep features, and take them.

        Raises:
            ModelError: it can't be done with this denoiser.
        """
        raise ModelError(f"deep-cache does not go with {self.info.title}: it needs a UNet")

    def compile(self, decode_shape: tuple[int, int, int, int]) -> None:  # noqa: B027  # nothing need be compiled
        """Have torch.compile run the denoiser at the model's own size, and on CUDA the decoder at `decode_shape`."""

    def decompile(self) -> None:  # noqa: B027
        """Take that back."""

    def keep_whole(self) -> set[torch.nn.Module]:
        """Layers of the denoiser whose weights quantisation leaves alone."""
        return set()
