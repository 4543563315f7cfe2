"""Small ControlNets with random weights, and the pictures of diffusers' pipelines for rows with ControlNets."""

from __future__ import annotations

import inspect
from pathlib import Path

import diffusers
import numpy as np
import PIL.Image
import torch
from diffusers import ControlNetModel, ControlNetUnionModel, UNet2DConditionModel
from diffusers.utils import logging

from sdbatch.diffusion.adapters.control_rows import controls_of
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.samplers.catalogue import resolve
from sdbatch.diffusion.samplers.schedulers import build_scheduler

SD = {
    "text-to-image": diffusers.StableDiffusionControlNetPipeline,
    "image-to-image": diffusers.StableDiffusionControlNetImg2ImgPipeline,
    "inpainting": diffusers.StableDiffusionControlNetInpaintPipeline,
}
SDXL = {
    "text-to-image": diffusers.StableDiffusionXLControlNetPipeline,
    "image-to-image": diffusers.StableDiffusionXLControlNetImg2ImgPipeline,
    "inpainting": diffusers.StableDiffusionXLControlNetInpaintPipeline,
}
UNION = {
    "text-to-image": diffusers.StableDiffusionXLControlNetUnionPipeline,
    "image-to-image": diffusers.StableDiffusionXLControlNetUnionImg2ImgPipeline,
    "inpainting": diffusers.StableDiffusionXLControlNetUnionInpaintPipeline,
}


def build_controlnet(folder: Path, model: Path, seed: int, **config) -> Path:
    """A net of the model's UNet that moves its pictures clearly."""
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    torch.manual_seed(seed)
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16, 16, 32))
    net.register_to_config(**config)
    return _saved(net, folder, seed)


def build_union(folder: Path, model: Path, seed: int, modes: int = 4) -> Path:
    """A ControlNet Union of the model's UNet, whose modes differ clearly."""
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    width = unet.config.block_out_channels[0]
    names = inspect.signature(ControlNetUnionModel).parameters
    config = {name: value for name, value in unet.config.items() if name in names and not name.startswith("_")}
    config |= {"conditioning_embedding_out_channels": (8, 16, 16, 32), "num_control_type": modes}
    config |= {"num_trans_channel": width, "num_proj_channel": width, "num_trans_head": 2, "num_trans_layer": 2}
    torch.manual_seed(seed)
    net = ControlNetUnionModel(**config)
    copied = {name: value for name, value in unet.state_dict().items() if name in net.state_dict()}
    net.load_state_dict(copied, strict=False)
    net.spatial_ch_projs.weight.data = torch.randn(width, width) / width**0.5
    return _saved(net, folder, seed)


def _saved(net: torch.nn.Module, folder: Path, seed: int) -> Path:
    generator = torch.Generator().manual_seed(seed)
    # What an untrained net adds is zero, and what it sees of its picture next to nothing.
    hint = net.controlnet_cond_embedding
    seeing = (hint.conv_in, *hint.blocks, hint.conv_out)
    for layer in (*net.controlnet_down_blocks, net.controlnet_mid_block, *seeing):
        gain = (2.0 if layer in seeing else 0.5) / layer.weight[0].numel() ** 0.5
        layer.weight.data = torch.randn(layer.weight.shape, generator=generator) * gain
        layer.bias.data = torch.randn(layer.bias.shape, generator=generator) * 0.05
    net.save_pretrained(folder)
    return folder


class ControlPipelines:
    """diffusers' ControlNet pipelines over one checkpoint."""

    def __init__(self, folder: Path, classes: dict[str, type], plain: type, net_class: type = ControlNetModel):
        self._net_class = net_class
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self._is_xl = "XL" in plain.__name__
        options = {"add_watermarker": False} if self._is_xl else {"safety_checker": None}
        self._plain = plain.from_pretrained(folder, **options)
        self._config = dict(self._plain.scheduler.config)
        self._classes = classes
        self._nets: dict[str, ControlNetModel] = {}
        self._pipelines: dict[tuple, diffusers.DiffusionPipeline] = {}

    def pixels(self, request: Request) -> np.ndarray:
        """uint8 (H, W, 3)."""
        controls = controls_of(request)
        is_union = controls[0].mode is not None
        names = [control.net for control in controls]  # a Union takes all its images at once
        pipeline = self._pipeline(request.task, tuple(dict.fromkeys(names) if is_union else names))
        offset = None if self._is_xl else {"steps_offset": 1}
        pipeline.scheduler = build_scheduler(resolve(request.sampler), self._config, offset)
        extra, is_one = request.extra, len(controls) == 1

        def each(values):
            values = list(values)
            return values[0] if is_one else values

        images = each(control.image.load() for control in controls)
        options = {"control_image" if is_union else "image": images}
        if request.task != "text-to-image":
            options = {"image": extra["image"].load(), "control_image": images, "strength": extra["strength"]}
        if request.task == "inpainting":
            options["mask_image"] = extra["mask_image"].load()
            if extra.get("padding_mask_crop") is not None:
                options["padding_mask_crop"] = extra["padding_mask_crop"]
        made = pipeline(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt or None,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            height=request.height,
            width=request.width,
            generator=torch.Generator("cpu").manual_seed(request.seed),
            controlnet_conditioning_scale=each(control.scale for control in controls),
            control_guidance_start=each(control.start for control in controls),
            control_guidance_end=each(control.end for control in controls),
            guess_mode=controls[0].guess_mode,
            **({"control_mode": [control.mode for control in controls]} if is_union else {}),
            output_type="pil",
            **options,
        ).images
        return np.asarray(made[0])

    def _pipeline(self, task: str, names: tuple[str, ...]) -> diffusers.DiffusionPipeline:
        if (task, names) not in self._pipelines:
            for name in names:
                self._nets.setdefault(name, self._net_class.from_pretrained(name).eval())
            nets = [self._nets[name] for name in names]
            cls = self._classes[task]
            parts = {name: part for name, part in self._plain.components.items() if name in cls._get_signature_types()}
            options = {"add_watermarker": False} if self._is_xl else {"requires_safety_checker": False}
            pipeline = cls(**parts, controlnet=nets[0] if len(nets) == 1 else nets, **options)
            pipeline.set_progress_bar_config(disable=True)
            self._pipelines[task, names] = pipeline
        return self._pipelines[task, names]


def edges(height: int, width: int, seed: int) -> PIL.Image.Image:
    """White lines on black."""
    source = np.random.default_rng(seed)
    pixels = np.zeros((height, width, 3), np.uint8)
    for _ in range(4):
        pixels[source.integers(height)] = pixels[:, source.integers(width)] = 255
    return PIL.Image.fromarray(pixels)
