"""`ModelInfo`: the facts about a model that are known before its weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sdbatch.diffusion.checkpoints.text_embeddings import TextEmbedding
from sdbatch.diffusion.checkpoints.weights import PartWeights
from sdbatch.fields import FrozenMapping

__all__ = ["FLOW", "ModelInfo"]

# `prediction_type` of models that are trained by flow matching.
FLOW = "flow_prediction"


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A model that the engine can run. Its family fills in some attributes, `inspect_model` the rest.

    Attributes:
        name: the name that the user gave; the folder's name for a folder; a single file's without its suffix.
        folder: where it is in diffusers' folder format.
        checkpoint: SHA-256 of the single file that the folder was converted from; None for others.
        family: name of its family, such as "sd" (Stable Diffusion 1.x and 2.x), "sdxl" or "flux".
        prediction_type: the denoiser's output: "epsilon", "v_prediction", "sample" or "flow_prediction" (`FLOW`).
        height, width: its own size in pixels.
        size_multiple: heights and widths must be multiples of this number of pixels.
        max_side: the largest height or width with positional embeddings; None for any.
        max_tokens: the text encoder's context, special tokens included.
        text_layers: number of last text encoder layers that a row may skip, for the encoder with the fewest layers.
        num_train_timesteps: steps of the diffusion that it was trained on.
        distilled_steps: maximum steps of lcm and tcd (`original_inference_steps`).
        guidance_embedded: the guidance scale is an input of the denoiser, without unconditional pass (LCM, FLUX.1 dev).
        samplers: names of the samplers that it supports.
        uses: names of the common row settings that it supports.
        defaults: defaults of sampler, steps, guidance_scale and, on CUDA, dtype.
        title: the usual name of this kind of model.
        variant: weight files are named `….<variant>.safetensors` if a component has them; None for plain names.
        weights: the weight files of each component.
        swapped: the components that the user replaced, each with the option that names the replacement.
        scheduler_config: the entries of the scheduler's configuration that the user replaced.
        approximate_vae: whether its VAE is an approximation (TAESD) of the one that it was trained with.
        commit: the commit of a model on the hub.
        part_commits: the commits of the replacements that are on the hub, by component.
        embeddings: tokens of textual inversion that are added to it.
        pipeline: the class named in its model_index.json.
        tasks: the kinds of rows that it can make; the first is its default.
        vae_scale: pixels of a picture per side of a latent pixel, or of a patch of these where the denoiser takes
            patches; sizes of pictures are rounded down to multiples of it.
        adapter_multiple: sizes of rows with T2I-Adapters must be multiples of it.
        extra_channels: input channels of its denoiser besides the latents'.
        max_noise_level: largest noise level of tasks that have one.
    """

    name: str = ""
    folder: Path = Path()
    checkpoint: str | None = None
    family: str
    prediction_type: str
    height: int
    width: int
    size_multiple: int
    max_side: int | None = None
    max_tokens: int
    text_layers: int = 0
    num_train_timesteps: int
    distilled_steps: int = 50
    guidance_embedded: bool = False
    samplers: tuple[str, ...]
    uses: frozenset[str]
    defaults: Mapping[str, object] = field(compare=False)
    title: str = ""
    variant: str | None = None
    weights: tuple[PartWeights, ...] = ()
    swapped: Mapping[str, str] = FrozenMapping()
    scheduler_config: Mapping[str, object] = FrozenMapping()
    approximate_vae: bool = False
    commit: str | None = None
    part_commits: Mapping[str, str] = FrozenMapping()
    embeddings: tuple[TextEmbedding, ...] = ()
    pipeline: str = ""
    tasks: tuple[str, ...] = ("text-to-image",)
    vae_scale: int = 8
    adapter_multiple: int = 8
    extra_channels: int = 0
    max_noise_level: int = 0
