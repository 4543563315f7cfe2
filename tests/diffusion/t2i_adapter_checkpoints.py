"""Small T2I-Adapters with random weights, and the pictures of diffusers' pipelines for rows with T2I-Adapters."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import MultiAdapter, T2IAdapter
from diffusers.utils import logging

from sdbatch.diffusion.adapters.t2i_adapter_rows import adapter_images_of
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.samplers.catalogue import resolve
from sdbatch.diffusion.samplers.schedulers import build_scheduler

WIDTHS = (32, 64, 64)
"""Of the UNets in `test_t2i_adapter.py`."""


def build_t2i_adapter(folder: Path, kind: str, seed: int, channels=None, gain=1.0, **config) -> Path:
    """An adapter that moves pictures clearly, by default for a UNet of `WIDTHS`."""
    widths = {"full_adapter": WIDTHS, "full_adapter_xl": (*WIDTHS, WIDTHS[-1]), "light_adapter": WIDTHS[:2]}
    torch.manual_seed(seed)
    net = T2IAdapter(
        channels=list(channels or widths[kind]),
        num_res_blocks=1,
        downscale_factor=config.pop("downscale_factor", 16 if kind == "full_adapter_xl" else 8),
        adapter_type=kind,
        **config,
    )
    for layer in net.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.weight.data.normal_(0, gain * (1.4 / layer.weight[0].numel()) ** 0.5)
    net.save_pretrained(folder)
    return folder


class AdapterPipelines:
    """diffusers' T2I-Adapter pipelines over one checkpoint."""

    def __init__(self, folder: Path):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self._is_xl = (folder / "text_encoder_2").is_dir()
        self._plain = diffusers.DiffusionPipeline.from_pretrained(folder)
        self._config = dict(self._plain.scheduler.config)

    def pixels(self, request: Request) -> np.ndarray:
        """uint8 (H, W, 3)."""
        adapted = adapter_images_of(request)
        nets = [T2IAdapter.from_pretrained(one.adapter).eval() for one in adapted]
        images, scales = [], []
        for one, net in zip(adapted, nets, strict=True):
            images.append(one.image.load().convert("L" if net.config.in_channels == 1 else "RGB"))
            scales.append(one.scale)
        is_one = len(nets) == 1
        options = {"adapter_conditioning_scale": scales[0] if is_one else scales}
        if self._is_xl:
            options["adapter_conditioning_factor"] = request.extra.get("adapter_conditioning_factor", 1.0)
        pipeline = self._pipeline(nets[0] if is_one else MultiAdapter(nets))
        offset = None if self._is_xl else {"steps_offset": 1}
        pipeline.scheduler = build_scheduler(resolve(request.sampler), self._config, offset)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it calls a method of its own that will go
            made = pipeline(
                prompt=request.prompt,
                negative_prompt=request.negative_prompt or None,
                image=images[0] if is_one else images,
                num_inference_steps=request.steps,
                guidance_scale=request.guidance_scale,
                height=request.height,
                width=request.width,
                generator=torch.Generator("cpu").manual_seed(request.seed),
                output_type="pil",
                **options,
            ).images
        return np.asarray(made[0])

    def _pipeline(self, adapter: torch.nn.Module) -> diffusers.DiffusionPipeline:
        cls = diffusers.StableDiffusionXLAdapterPipeline if self._is_xl else diffusers.StableDiffusionAdapterPipeline
        parts = {name: part for name, part in self._plain.components.items() if name in cls._get_signature_types()}
        pipeline = cls(**parts, adapter=adapter, **({} if self._is_xl else {"requires_safety_checker": False}))
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


@contextmanager
def adding(unet: torch.nn.Module, request: Request) -> Iterator[None]:
    """Have a UNet add the features of a row's one adapter at every call, in any pipeline."""
    (one,) = adapter_images_of(request)
    image = torch.from_numpy(np.array(one.image.load())).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        features = [one.scale * feature for feature in T2IAdapter.from_pretrained(one.adapter).eval()(image)]
    forward = unet.forward

    def with_features(sample, *arguments, **named):
        repeated = [feature.repeat(len(sample), 1, 1, 1) for feature in features]
        return forward(sample, *arguments, down_intrablock_additional_residuals=repeated, **named)

    unet.forward = with_features
    try:
        yield
    finally:
        unet.forward = forward
