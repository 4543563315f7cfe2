"""DeepCache (Ma et al. 2024, https://arxiv.org/abs/2312.00858): deep features of a UNet, made at some calls only.

From one call to the next it is the outermost layers whose features change; those below are alike. So a call may
take what the layers below gave at an earlier one, and run only the last layer of the last block. That changes the
picture.
"""

from __future__ import annotations

import copy

import torch

from sdbatch.errors import ModelError

__all__ = ["DeepCache"]

UP_BLOCKS = ("UpBlock2D", "CrossAttnUpBlock2D")


class DeepCache(torch.nn.Module):
    """A UNet that can be called for its last layer alone: DeepCache's branch 0.

    Args:
        unet: a `UNet2DConditionModel`; stays as it is, and shares its weights.

    Raises:
        ModelError: a UNet whose last block is of a kind that this can't take apart.
    """

    def __init__(self, unet: torch.nn.Module):
        super().__init__()
        kind = unet.config.up_block_types[-1]
        if kind not in UP_BLOCKS:
            raise ModelError(f"deep-cache does not go with a UNet that ends in a {kind}")
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
            features: of an earlier call; None to make them.

        Returns:
            What the UNet predicts, and the features.
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
    """The last layer of a UNet's last block, in the place of all its blocks."""

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
        """What the block gives: of the features, and of the first convolution's output, which skips all others."""
        features = cross_attention_kwargs["features"]
        made = self.resnets[0](torch.cat([features, *res_hidden_states_tuple], dim=1), temb)
        if self._attention is None:
            return made
        return self._attention(made, encoder_hidden_states=encoder_hidden_states, return_dict=False)[0]
