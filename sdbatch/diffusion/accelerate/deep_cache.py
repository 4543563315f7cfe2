"""DeepCache (Ma et al. 2024, https://arxiv.org/abs/2312.00858): a UNet's deep features, computed on some calls only.

Between calls, the features of the outermost layers change most; those of the inner layers change little. So a call can
reuse the inner features of an earlier call, and run only the last layer of the last block. This changes the
picture.
"""

from __future__ import annotations

import copy

import torch

from sdbatch.diffusion.families.stable_diffusion_family import refuse_deep_cache

__all__ = ["DeepCache"]


class DeepCache(torch.nn.Module):
    """A UNet that can run its last layer alone: DeepCache's branch 0.

    Args:
        unet: a `UNet2DConditionModel`; not changed; its weights are shared.

    Raises:
        ModelError: the UNet's last block is of an unsupported kind.
    """

    def __init__(self, unet: torch.nn.Module):
        super().__init__()
        kind = unet.config.up_block_types[-1]
        refuse_deep_cache(kind)
        self.unet = unet
        block = unet.up_blocks[-1]
        attention = block.attentions[-1] if kind == "CrossAttnUpBlock2D" else None
        self._last = _LastLayer(block.resnets[-1], attention)
        self._skip_channels = unet.conv_in.out_channels
        self._input: torch.Tensor | None = None
        block.resnets[-1].register_forward_pre_hook(self._keep_input)
        # The same UNet with nothing between its first convolution and its last layer.
        self._shallow = copy.copy(unet)
        self._shallow._modules = unet._modules | {
            "down_blocks": torch.nn.ModuleList(),
            "mid_block": None,
            "up_blocks": torch.nn.ModuleList([self._last]),
        }

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, *, features: torch.Tensor | None = None, **conditioning
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One call.

        Args:
            features: of an earlier call; None to compute them.

        Returns:
            The UNet's prediction, and the features.
        """
        if features is not None:
            conditioning["cross_attention_kwargs"] = {"features": features}
            return self._shallow(sample, timestep, return_dict=False, **conditioning)[0], features
        (output,) = self.unet(sample, timestep, return_dict=False, **conditioning)
        features, self._input = self._input[:, : -self._skip_channels], None
        return output, features.contiguous(memory_format=torch.channels_last)

    def _keep_input(self, resnet: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._input = inputs[0]


class _LastLayer(torch.nn.Module):
    """The last layer of a UNet's last block; replaces all its blocks."""

    has_cross_attention = True

    def __init__(self, resnet: torch.nn.Module, attention: torch.nn.Module | None):
        super().__init__()
        self.resnets = torch.nn.ModuleList([resnet])
        self._attention = attention

    def forward(
        self,
        hidden_states: torch.Tensor,
        temb: torch.Tensor,
        res_hidden_states_tuple: tuple[torch.Tensor],
        encoder_hidden_states: torch.Tensor,
        cross_attention_kwargs: dict[str, torch.Tensor],
        **_,
    ) -> torch.Tensor:
        """The block's output for the features and the first convolution's output, which skips all other layers."""
        features = cross_attention_kwargs["features"]
        made = self.resnets[0](torch.cat([features, *res_hidden_states_tuple], dim=1), temb)
        if self._attention is None:
            return made
        return self._attention(made, encoder_hidden_states=encoder_hidden_states, return_dict=False)[0]
