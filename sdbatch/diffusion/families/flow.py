"""Common parts of the families trained by flow matching. Imports no torch.

Lipman et al. 2023, Esser et al. 2024: x = (1 − σ)·picture + σ·noise, and the denoiser predicts noise − picture.
"""

from __future__ import annotations

from collections.abc import Mapping

from sdbatch.diffusion.checkpoints.configs import Config
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.tasks import task_of
from sdbatch.errors import ModelError

__all__ = [
    "EULER",
    "NOISY",
    "SOLVERS",
    "TASKS",
    "bucket",
    "check_flow",
    "evenly_spaced",
    "not_text_to_image",
    "require_latents",
    "require_packed_latents",
    "require_width",
    "shift_by_tokens",
    "shifted",
    "tokens",
]

# Deterministic samplers that work with any shift of the noise levels.
EULER = ("flow_euler", "flow_euler_karras", "flow_euler_exponential", "flow_euler_beta")
# These draw noise at each step, in the shape of the latents, so they do not work with pipelines that pack latents.
NOISY = ("flow_euler_stochastic", "flow_lcm")
SOLVERS = ("flow_dpmpp_2m", "flow_dpmpp_2s", "flow_deis", "flow_unipc")
# The tasks of families with an image-to-image pipeline in diffusers.
TASKS = ("text-to-image", "image-to-image")
MIN_TEXT_LENGTH = 64


def evenly_spaced(steps: int) -> tuple[float, ...]:
    """The noise levels 1 … 1/n that most pipelines pass to their scheduler, which then shifts them."""
    last = 1 / steps
    if steps == 1:
        return (1.0,)
    # The same arithmetic as numpy.linspace.
    width = (last - 1.0) / (steps - 1)
    return (*(i * width + 1.0 for i in range(steps - 1)), last)


def shift_by_tokens(count: int, config: Mapping[str, object]) -> dict[str, float]:
    """mu, linear in a picture's tokens, if the scheduler uses it (`calculate_shift` of diffusers)."""
    if not config.get("use_dynamic_shifting"):
        return {}
    base, maximum = config.get("base_image_seq_len") or 256, config.get("max_image_seq_len") or 4096
    low, high = config.get("base_shift"), config.get("max_shift")
    low, high = 0.5 if low is None else low, 1.15 if high is None else high
    slope = (high - low) / (maximum - base)
    return {"mu": count * slope + (low - slope * base)}


def tokens(request: Request, info: ModelInfo) -> int:
    """Tokens of a row's picture; each covers `size_multiple` × `size_multiple` pixels.

    Raises:
        PictureError: the size is that of a picture, which can't be read.
    """
    height, width = task_of(request).size(request, info)
    return (height // info.size_multiple) * (width // info.size_multiple)


def require_width(config: Config, key: str, default: int, width: int, of: str) -> None:
    """Raises `ModelError` if the transformer's text width differs from the encoder's output width."""
    if config.get(key, default) != width:
        found = f"{key} is {config.get(key, default)}, but the output width of {of} is {width}"
        raise ModelError(f"{config.source}: {found}")


def not_text_to_image(transformer: Config, channels: int, needed: int) -> ModelError:
    """The error for a transformer with other input channels than its latents need."""
    what = f"a transformer with {channels} input channels is not text-to-image"
    return ModelError(f"{transformer.source}: {what}, which needs {needed}")


def require_latents(transformer: Config, channels: int, latent_channels: int, out_channels: int) -> None:
    """Raises `ModelError` for a transformer that predicts neither the latents nor, beside them, their variance.

    Args:
        channels, out_channels: of the transformer.
    """
    if channels != latent_channels or out_channels not in (channels, 2 * channels):
        what = f"a transformer with {channels} input and {out_channels} output channels can't be run"
        raise ModelError(f"{transformer.source}: {what} with latents of {latent_channels}")


def require_packed_latents(transformer: Config, vae: Config) -> None:
    """Raises `ModelError` if the transformer's tokens are not 2×2 latents of the autoencoder."""
    channels, needed = transformer.get("in_channels", 64), 4 * vae.get("latent_channels", 4)
    if channels != needed or transformer.get("out_channels") not in (None, channels):
        raise not_text_to_image(transformer, channels, needed)


def shifted(request: Request, info: ModelInfo, config: Mapping[str, object]) -> dict[str, object]:
    """The schedule of pipelines that pass evenly spaced noise levels and shift them by the picture's tokens."""
    return {"sigmas": evenly_spaced(int(request.steps)), **shift_by_tokens(tokens(request, info), config)}


def bucket(tokens: int, max_tokens: int) -> int:
    """The length to which a text of that many tokens is padded if a mask hides the padding.

    There are few such lengths, so that many rows share one.
    """
    length = MIN_TEXT_LENGTH
    while length < min(tokens, max_tokens):
        length *= 2
    return min(length, max_tokens)


def check_flow(scheduler: Config) -> None:
    """Raises `ModelError` for a schedule that no family here supports."""
    if scheduler.get("invert_sigmas"):
        raise ModelError(f"{scheduler.source}: inverted sigmas are not supported")
    if (scheduler.get("base_image_seq_len") or 256) == (scheduler.get("max_image_seq_len") or 4096):
        raise ModelError(f"{scheduler.source}: base_image_seq_len and max_image_seq_len are the same")
