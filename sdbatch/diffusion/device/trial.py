"""A pass of artificial rows, for checks of a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import cycle, islice

import torch

from sdbatch.diffusion.device.transfer import send
from sdbatch.diffusion.embeddings import Text
from sdbatch.diffusion.families import family_named
from sdbatch.diffusion.families.family import Family
from sdbatch.diffusion.request import Request

__all__ = ["Inputs", "trial_inputs", "trial_outputs"]

Inputs = tuple[torch.Tensor, torch.Tensor, Mapping[str, torch.Tensor]]


def trial_inputs(family: Family, lanes: int, shape: tuple[int, int, int] | None = None) -> Inputs:
    """Latents of a shape (default: the model's own), timesteps and conditioning, different in every lane."""
    shape = shape or family.latent_shape(family.info.height, family.info.width)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(lanes, *shape, generator=generator).to(family.device)
    timesteps = torch.linspace(0, family.info.num_train_timesteps - 1, lanes, device=family.device).round()
    # Of different lengths, because the content of a lane could affect what is masked in its neighbours.
    texts = [Text("prompt", " ".join(["word"] * (1 + i * family.info.max_tokens // 8))) for i in range(8)]
    # With the longest one's length, so that its lane set fits all of them.
    own = {field.name: field.default for field in family_named(family.info.family).fields}
    request = Request(texts[-1].content, guidance_scale=1.0, extra=own)
    encoded = _encoded(family, texts)
    rows = [{name: tensor[i] for name, tensor in encoded.items()} for i in range(len(texts))]
    added = family.task_inputs(shape)
    named = [{**family.conditioning(request, [row], shape)[0], **added} for row in islice(cycle(rows), lanes)]
    return latents, timesteps, {name: torch.stack([row[name] for row in named]) for name in named[0]}


def _encoded(family: Family, texts: list[Text]) -> Mapping[str, torch.Tensor]:
    """The encoded texts. If the text encoders are usually away, they come once for all trials."""
    residency = family.residency
    if residency is None:
        return family.encode(texts)
    if residency.trial_texts is None:
        with residency.encoding():
            residency.trial_texts = {name: tensor.to("cpu") for name, tensor in family.encode(texts).items()}
    return {name: send(tensor, family.device) for name, tensor in residency.trial_texts.items()}


def trial_outputs(
    denoise: Callable, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """The UNet's predictions, (1, L, C, h, w); with DeepCache (2, …), the second with reused deep features."""
    outputs, features = denoise(latents, timesteps, conditioning)
    outputs = outputs.clone()  # a CUDA graph's output is overwritten by the next call
    if features is None:
        return outputs[None]
    return torch.stack([outputs, denoise(latents, timesteps, conditioning, features)[0]])
