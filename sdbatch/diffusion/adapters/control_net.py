"""ControlNets and ControlNet Unions in memory, with the same changes of layers as the denoiser."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sdbatch.diffusion.accelerate.attention import TextProjection, fuse_self_attention
from sdbatch.diffusion.accelerate.cpu import use_onednn
from sdbatch.diffusion.adapters.control_rows import Control
from sdbatch.diffusion.device.transfer import send

__all__ = ["ControlNet", "ControlNetUnion", "is_union"]


class ControlNet:
    """diffusers' `ControlNetModel`. Its input is the embedded image, and its output the unscaled residuals.

    Attributes:
        is_pooled: whether its residuals are averaged over each picture.
        modes: the number of modes of a ControlNet Union; 0 for a plain net.
        text: projects texts to the net's keys and values.
    """

    modes = 0

    def __init__(self, net: torch.nn.Module):
        self._net = net.to(memory_format=torch.channels_last)
        self.device, self.dtype = net.device, net.dtype
        self.is_pooled = bool(net.config.global_pool_conditions)
        self._is_bgr = net.config.controlnet_conditioning_channel_order == "bgr"
        # Both are done outside the net.
        net.register_to_config(global_pool_conditions=False, controlnet_conditioning_channel_order="rgb")
        fuse_self_attention(net)
        self.text = TextProjection(net)
        if self.device.type == "cpu" and self.dtype == torch.float32:
            use_onednn(net)
            use_onednn(self.text)
        self._hint, net.controlnet_cond_embedding = net.controlnet_cond_embedding, torch.nn.Identity()

    def hints(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed control images (B, 3, H, W), from 0 to 1: (B, C, h, w)."""
        pixels = pixels.flip(1) if self._is_bgr else pixels
        return self._hint(pixels.to(self.dtype, memory_format=torch.channels_last))

    def added(self, controls: Sequence[Control], hints: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """What a row's embedded control images, each (C, h, w), add to the first features."""
        return hints

    def modes_of(self, controls: Sequence[Control]) -> torch.Tensor | None:
        """The modes of a row's control images as `Controlled` has them."""
        return None

    def residuals(self, latents: torch.Tensor, timesteps: torch.Tensor, texts, hints, modes, added):
        """One for each skip connection, and that of the middle block.

        Args:
            modes: (B, modes), or None for a plain net.
            added: the further inputs of a net whose UNet has size conditioning.
        """
        down, mid = self._net(
            latents.to(self.dtype, memory_format=torch.channels_last),
            timesteps,
            encoder_hidden_states=texts,
            controlnet_cond=self._conditions(hints.contiguous(memory_format=torch.channels_last)),
            added_cond_kwargs=added or None,
            return_dict=False,
            **self._further(modes),
        )
        return [*down, mid]

    def _conditions(self, hints: torch.Tensor):
        return hints

    def _further(self, modes: torch.Tensor | None) -> dict:
        return {}


class ControlNetUnion(ControlNet):
    """diffusers' `ControlNetUnionModel`: one net for several kinds of control images (modes), also at once.

    Before its blocks the net passes one token for each control image, and one for the latents, through a transformer.
    Its attention is declared sequence first and given batch first, so a token attends only to its copies in the other
    lanes of a pass. For one picture these are equal and nothing is mixed: what a control image adds depends on that
    image, its mode and its scale alone, and is computed when a row is admitted.
    """

    def __init__(self, net: torch.nn.Module):
        self._transformer, net.transformer_layes = net.transformer_layes, torch.nn.ModuleList()
        self._projection, net.spatial_ch_projs = net.spatial_ch_projs, _Nothing()
        self.modes = net.config.num_control_type
        super().__init__(net)

    def added(self, controls: Sequence[Control], hints: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        is_one = len(controls) == 1  # whose scale is a factor of the residuals
        return [self._added(c.mode, hint, 1.0 if is_one else c.scale) for c, hint in zip(controls, hints, strict=True)]

    def _added(self, mode: int, hint: torch.Tensor, scale: float) -> torch.Tensor:
        token = (hint.mean(dim=(1, 2)) + self._net.task_embedding[mode]) * scale
        token = token.view(1, 1, -1)
        for layer in self._transformer:
            token = layer(token)
        return hint * scale + (self._projection(token).view(-1, 1, 1) * scale)

    def modes_of(self, controls: Sequence[Control]) -> torch.Tensor:
        modes = torch.zeros(self.modes, dtype=self.dtype)
        modes[[control.mode for control in controls]] = 1
        return send(modes, self.device)

    def _conditions(self, hints: torch.Tensor):
        return [hints]

    def _further(self, modes: torch.Tensor | None) -> dict:
        return {"control_type": modes, "control_type_idx": [0], "conditioning_scale": 1.0}


class _Nothing(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


def is_union(net: torch.nn.Module) -> bool:
    """Whether a network is diffusers' `ControlNetUnionModel`."""
    return "num_control_type" in net.config
