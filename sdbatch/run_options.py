"""The keywords of `sdbatch.generate`. Written by docs/generate.py; not to be edited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

__all__ = ["RunOptions"]


class RunOptions(TypedDict, total=False):
    """The options of a run by name; each is optional."""

    actors: tuple[int, int] | None
    adapter_conditioning_factor: float | None
    adapter_conditioning_scale: float | Sequence[float] | None
    adapter_image: str | Sequence[str] | None
    address: str | None
    aesthetic_score: float | None
    allow_image_urls: bool
    attempts: int
    best: str | None
    cfg_normalization: float | None
    cfg_truncation: float | None
    clip_skip: int | None
    column: Mapping[str, str]
    compile: str
    compile_sizes: str | None
    compression: str | None
    control_guidance_end: float | Sequence[float] | None
    control_guidance_start: float | Sequence[float] | None
    control_image: str | Sequence[str] | None
    control_mode: int | Sequence[int] | None
    controlnet: str | Sequence[str] | None
    controlnet_conditioning_scale: float | Sequence[float] | None
    cpus_per_actor: float | None
    crops_coords_top_left: str | None
    deep_cache: int | None
    device: str
    dtype: str
    embedding: Mapping[str, str]
    gpus_per_actor: float | None
    guess_mode: bool | None
    guidance_rescale: float | None
    guidance_scale: float | None
    guidance_start: float | None
    guidance_stop: float | None
    height: int | None
    image: str | None
    image_format: str
    image_guidance_scale: float | None
    image_quality: int | None
    images_per_prompt: int
    intermediate_timesteps: float | None
    ip_adapter: str | Sequence[str] | None
    ip_adapter_image: str | Sequence[str] | None
    ip_adapter_scale: float | Sequence[float] | None
    keep: str | None
    keep_input_images: bool
    lanes: int | None
    layout: str
    long_prompts: str | None
    lora: str | Sequence[str] | None
    lora_dir: str | None
    mask_image: str | None
    max_timesteps: float | None
    merge_lora: bool
    model: str
    negative_aesthetic_score: float | None
    negative_crops_coords_top_left: str | None
    negative_original_size: str | None
    negative_prompt: str | None
    negative_prompt_2: str | None
    negative_target_size: str | None
    noise_level: int | None
    on_exhausted: str
    on_nsfw: str
    original_size: str | None
    overwrite: bool
    padding_mask_crop: int | None
    part: tuple[int, int]
    prediction_type: str | None
    price_per_hour: float | None
    prompt_2: str | None
    prompt_per_file: bool
    prompt_syntax: str | None
    quantization: str | None
    release_text_encoders: str
    rename_input: bool
    resize: str | None
    revision: str | None
    same_device: bool
    sampler: str | None
    scheduler_config: Mapping[str, str | float | bool]
    scorer: Sequence[str]
    scorer_model: Mapping[str, str]
    seed: int | None
    shard_size: int | None
    stall_timeout: float
    start_timeout: float
    steps: int | None
    storage_options: Mapping[str, Any]
    strength: float | None
    t2i_adapter: str | Sequence[str] | None
    target_size: str | None
    task: str | None
    text_encoder: str | Mapping[str, str]
    tokenizer: str | None
    true_cfg_scale: float | None
    vae: str | None
    variant: str | None
    watermark: str | None
    width: int | None
