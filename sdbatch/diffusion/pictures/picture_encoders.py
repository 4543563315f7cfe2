"""Encoders of input pictures: each kind has its preprocessing, and a network or none.

A network runs at one fixed batch shape, to which the caller pads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import PIL.Image
import PIL.ImageOps
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.embeddings import get_timestep_embedding

from sdbatch.diffusion.device.numerics import tf32_convolutions
from sdbatch.diffusion.device.transfer import send
from sdbatch.diffusion.families.components import Components
from sdbatch.diffusion.pictures.picture_pixels import Pixels
from sdbatch.diffusion.tasks.task import Need

__all__ = ["Depth", "PictureEncoder", "Posterior", "VaeImages", "picture_encoders"]

Draw = Callable[..., torch.Tensor]


class PictureEncoder(ABC):
    """One way to encode a picture.

    Attributes:
        batch: pictures per call of `encode`.
    """

    batch = 2

    @abstractmethod
    def pixels(self, need: Need) -> torch.Tensor:
        """The input of `encode` for one picture, on the host.

        Raises:
            PictureError: the picture can't be read or used.
        """

    def encode(self, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Encode a batch of `pixels` results to named tensors on the device, with the same leading dimension."""
        return {"pixels": pixels}

    @abstractmethod
    def result(self, need: Need, encoded: Mapping[str, torch.Tensor]) -> Any:
        """Convert the named tensors of one picture to the form that tasks use.

        Raises:
            PictureError: it can't be used.
        """


@dataclass(frozen=True)
class Posterior:
    """A VAE's encoding of a picture: a normal distribution over latents, float32 (C, h, w).

    Attributes:
        std: None for a VAE that gives the latents themselves; nothing is drawn then.
    """

    mean: torch.Tensor
    scaling_factor: float
    std: torch.Tensor | None = None
    shift: tuple[torch.Tensor, torch.Tensor] | None = None

    def sample(self, draw: Draw, *, shifted: bool = True) -> torch.Tensor:
        """Sample scaled latents with one draw.

        Args:
            shifted: also normalise by the latents' mean and deviation, if the VAE's configuration has them.
        """
        latents = self.mean if self.std is None else self.mean + self.std * draw()
        if self.shift is None or not shifted:
            return latents * self.scaling_factor
        mean, std = self.shift
        return (latents - mean) * self.scaling_factor / std


class VaeImages(PictureEncoder):
    """Encodes a picture with the VAE.

    Args:
        hides: whether the area that a mask repaints is grey.
        tf32: whether the VAE is in float32 only for its range.
        shift_factor: subtracted from its latents, if its configuration has no mean of them.
    """

    def __init__(
        self,
        vae: torch.nn.Module,
        pixels: Pixels,
        *,
        hides: bool = False,
        tf32: bool = False,
        shift_factor: float | None = None,
    ):
        self._vae = vae
        self._pixels = pixels
        self._hides = hides
        self._tf32 = tf32
        self._scaling_factor = vae.config.get("scaling_factor", 1.0)
        mean, std = (vae.config.get(name) for name in ("latents_mean", "latents_std"))
        if mean is None or std is None:
            mean, std = shift_factor, 1.0
        self._shift = None
        if mean is not None:
            values = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (mean, std))
            self._shift = tuple(send(tensor, vae.device) for tensor in values)

    def pixels(self, need: Need) -> torch.Tensor:
        mask = need.mask and need.mask.load_mask()
        pixels = self._pixels.image(need, mask)
        return pixels * (self._pixels.mask(need, mask) < 0.5) if self._hides else pixels

    def encode(self, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        with tf32_convolutions(self._tf32):
            mean, std = self.distribution(pixels.to(self._vae.dtype))
        return {"mean": mean.float()} if std is None else {"mean": mean.float(), "std": std.float()}

    def distribution(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mean and deviation (B, C, h, w) of the latents of pictures (B, 3, H, W), all in the VAE's dtype.

        TAESD gives the latents themselves, without a deviation.
        """
        found = self._vae.encode(pixels.to(memory_format=torch.channels_last))
        if "latents" in found:
            return found.latents, None
        return found.latent_dist.mean, found.latent_dist.std

    def result(self, need: Need, encoded: Mapping[str, torch.Tensor]) -> Posterior:
        return Posterior(**encoded, scaling_factor=self._scaling_factor, shift=self._shift)


class _Masks(PictureEncoder):
    """Reduces a mask to the size of the latents: bool (1, h, w), true where the picture is repainted."""

    batch = 1

    def __init__(self, pixels: Pixels, cell: int):
        self._pixels = pixels
        self._cell = cell

    def pixels(self, need: Need) -> torch.Tensor:
        mask = self._pixels.mask(need, need.mask.load_mask())
        size = [pixels // self._cell for pixels in need.size]
        return torch.nn.functional.interpolate(mask[None], size=size)[0]

    def result(self, need: Need, encoded: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return encoded["pixels"] > 0.5


@dataclass(frozen=True)
class Depth:
    """A picture's estimated depth at the size of the latents.

    Attributes:
        map: float32 (1, h, w), from -1 to 1; NaN if the depth is constant.
        is_constant: bool (), on the device, because the host would wait for its value.
    """

    map: torch.Tensor
    is_constant: torch.Tensor


class _Depths(PictureEncoder):
    """Estimates a picture's depth."""

    def __init__(self, components: Components, pixels: Pixels, cell: int):
        self._estimator = components.parts["depth_estimator"]
        self._processor = components.parts["feature_extractor"]
        self._pixels = pixels
        self._cell = cell

    def pixels(self, need: Need) -> torch.Tensor:
        return self._processor(images=[self._pixels.picture(need)], return_tensors="pt").pixel_values[0]

    def encode(self, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        dtype = self._estimator.dtype
        # DPT's batch norms do not work in half precision; diffusers' pipeline does the same.
        is_half = dtype != torch.float32
        with torch.autocast(pixels.device.type, dtype=dtype) if is_half else nullcontext():
            return {"depth": self._estimator(pixels.to(dtype)).predicted_depth.float()}

    def result(self, need: Need, encoded: Mapping[str, torch.Tensor]) -> Depth:
        size = [pixels // self._cell for pixels in need.size]
        depth = torch.nn.functional.interpolate(
            encoded["depth"][None, None], size=size, mode="bicubic", align_corners=False
        )[0]
        lowest, highest = depth.amin(), depth.amax()
        return Depth(2.0 * (depth - lowest) / (highest - lowest) - 1.0, ~(highest > lowest))


@dataclass(frozen=True)
class _Noising:
    """Adds noise of a given level to a picture or its embedding, with a scheduler of its own."""

    scheduler: Any

    def add(self, what: torch.Tensor, noise: torch.Tensor, level: int) -> torch.Tensor:
        kept = float(self.scheduler.alphas_cumprod[level])
        return kept**0.5 * what + (1 - kept) ** 0.5 * noise


@dataclass(frozen=True)
class LowResolution:
    """A picture to upscale: float32 (3, h, w), within ±1."""

    pixels: torch.Tensor
    noising: _Noising

    def noised(self, draw: Draw, level: int) -> dict[str, torch.Tensor]:
        """The extra channels and the class label of a row's lanes, with one draw."""
        pixels = self.noising.add(self.pixels, draw(self.pixels.shape), level)
        return {"channels": pixels, "class_labels": send(torch.tensor(level), pixels.device)}


class _LowResolutions(PictureEncoder):
    batch = 1

    def __init__(self, components: Components, cell: int):
        self._noising = _Noising(components.parts["low_res_scheduler"])
        self._processor = VaeImageProcessor(vae_scale_factor=cell, resample="bicubic")

    def pixels(self, need: Need) -> torch.Tensor:
        height, width = need.size
        picture = need.picture.load()
        if need.covers:
            picture = PIL.ImageOps.fit(picture, (width, height), PIL.Image.Resampling.LANCZOS)
        return self._processor.preprocess(picture, height=height, width=width)[0]

    def result(self, need: Need, encoded: Mapping[str, torch.Tensor]) -> LowResolution:
        return LowResolution(encoded["pixels"], self._noising)


@dataclass(frozen=True)
class Shown:
    """A picture's CLIP embedding, float32 (D,), and the mean and deviation (D,) to normalise it for noising."""

    embedding: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor
    noising: _Noising

    def noised(self, draw: Draw, level: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """The class labels of a row's conditional and unconditional lane, with one draw."""
        dimensions = self.embedding.shape
        normed = (self.embedding - self.mean) / self.std
        embedding = self.noising.add(normed, draw(dimensions), level) * self.std + self.mean
        time = get_timestep_embedding(
            torch.tensor([level]), dimensions[0], flip_sin_to_cos=True, downscale_freq_shift=0
        )[0]
        labels = torch.cat([embedding, send(time, embedding.device)])
        return {"class_labels": labels}, {"class_labels": torch.zeros_like(labels)}


class _Visions(PictureEncoder):
    """Encodes a picture with CLIP's vision tower."""

    def __init__(self, components: Components):
        self._encoder = components.parts["image_encoder"]
        self._processor = components.parts["feature_extractor"]
        normalizer = components.parts["image_normalizer"]
        self._mean, self._std = (tensor.detach().float()[0] for tensor in (normalizer.mean, normalizer.std))
        self._noising = _Noising(components.parts["image_noising_scheduler"])

    def pixels(self, need: Need) -> torch.Tensor:
        return self._processor(images=need.picture.load(), return_tensors="pt").pixel_values[0]

    def encode(self, pixels: torch.Tensor) -> Mapping[str, torch.Tensor]:
        return {"embedding": self._encoder(pixels.to(self._encoder.dtype)).image_embeds.float()}

    def result(self, need: Need, encoded: Mapping[str, torch.Tensor]) -> Shown:
        return Shown(encoded["embedding"], self._mean, self._std, self._noising)


def picture_encoders(components: Components) -> dict[str, PictureEncoder]:
    """The encoders for which a checkpoint has the components, by `Need.kind`."""
    cell, vae = components.info.vae_scale, components.vae
    pixels, tf32 = Pixels(cell), vae.dtype == torch.float32 != components.unet.dtype
    encoders: dict[str, PictureEncoder] = {
        "image": VaeImages(vae, pixels, tf32=tf32),
        "masked": VaeImages(vae, pixels, hides=True, tf32=tf32),
        "mask": _Masks(pixels, cell),
    }
    if "depth_estimator" in components.parts:
        encoders["depth"] = _Depths(components, pixels, cell)
    if "low_res_scheduler" in components.parts:
        encoders["low resolution"] = _LowResolutions(components, cell)
    if "image_encoder" in components.parts:
        encoders["vision"] = _Visions(components)
    return encoders
