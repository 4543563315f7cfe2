"""The stages of `benchmarks/gpu.py` that compare single choices: attention kernels, 1×1 convolutions, lanes, VAEs."""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from engine_measure import run_engine, uniform_table
from engine_models import UNETS, model_folder
from gpu_bench import Bench
from torch.nn.attention import SDPBackend, sdpa_kernel

from sdbatch.diffusion.accelerate.compilation import compiled
from sdbatch.diffusion.device.headroom import peak_bytes
from sdbatch.diffusion.device.trial import trial_inputs
from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.models.loading import load_family

__all__ = ["CHOICE_STAGES", "attention_by_shape"]

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
# Heads, their width, queries and keys: what UNets compute at 512² (width 40 to 160) and at 1024² (64).
SHAPES = {
    "sd15": ((8, 40, 4096, 4096), (8, 40, 4096, 77), (8, 80, 1024, 1024), (8, 160, 256, 77)),
    "sdxl": ((10, 64, 4096, 4096), (10, 64, 4096, 77), (20, 64, 1024, 1024), (20, 64, 1024, 77)),
}
REPEATS = 20


def milliseconds(bench: Bench, run: Callable[[], object]) -> float:
    """The median time of a call, which has run before."""
    times = []
    for _ in range(3 if bench.smoke else REPEATS):
        bench.synchronize()
        started = time.perf_counter()
        run()
        bench.synchronize()
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)


def attention(bench: Bench) -> None:
    """Every attention kernel of torch at the shapes of Stable Diffusion: speed, error, and bits beside other rows."""
    attention_by_shape(bench, KERNELS)


def attention_by_shape(bench: Bench, kernels: dict[str, SDPBackend]) -> None:
    """Time and error against float32 of attention, by shape, with torch's own choice of kernel and with others.

    Keys and values are slices of a wider tensor, as the engine's are for texts.
    """
    lanes, dtype = (2, torch.float32) if bench.smoke else (32, torch.float16)
    for heads, width, queries, keys in (shape for model in SHAPES.values() for shape in model):
        if bench.smoke:
            queries, keys = queries // 64, keys // 64 if keys > 77 else keys
        wide = torch.randn(lanes, keys, 3 * heads * width, device=bench.device, dtype=dtype)
        query = torch.randn(lanes, queries, heads * width, device=bench.device, dtype=dtype)
        key, value = wide[..., : heads * width], wide[..., heads * width : 2 * heads * width]
        query, key, value = (x.unflatten(-1, (heads, width)).transpose(1, 2) for x in (query, key, value))
        if not bench.has_time(f"{heads} heads of {width}, {queries} × {keys}"):
            continue
        exact = F.scaled_dot_product_attention(*(x[:2].float() for x in (query, key, value)))
        own = SDPBackend(torch._fused_sdp_choice(query, key, value)).name.lower()
        for name, backends in {f"torch's own, {own}": list(KERNELS.values()), **kernels}.items():
            what = f"{heads} heads of {width}, {queries} × {keys}, {name}"
            try:
                with sdpa_kernel(backends):
                    made = F.scaled_dot_product_attention(query, key, value)
                    turned = F.scaled_dot_product_attention(*(x.flip(0) for x in (query, key, value))).flip(0)
                    spent = milliseconds(bench, lambda q=query, k=key, v=value: F.scaled_dot_product_attention(q, k, v))
            except RuntimeError as error:  # the kernel does not support the shape or the device
                bench.found.add(what, f"not available: {str(error).splitlines()[0]}")
                continue
            error = float((made[:2].float() - exact).norm() / exact.norm())
            same = torch.equal(made, turned)
            bench.found.add(what, {"ms": spent, "error": error, "same bits in any place": same})


def convolutions(bench: Bench) -> None:
    """1×1 convolutions of a pass as convolutions and as matrix products: time, difference, bits beside other rows."""
    for model, lanes in {"sd15": 64, "sdxl": 32}.items():
        dtype = torch.float32 if bench.smoke else torch.float16
        total: Counter[str] = Counter()
        differs, variant = 0.0, []
        for (inputs, outputs, side), count in pointwise_shapes(model).items():
            if not bench.has_time(f"{model}, 1×1 convolutions", 90):
                return  # the sums of a part of the shapes would say nothing
            if bench.smoke:
                lanes, side = 2, max(1, side // 16)
            x = torch.randn(lanes, inputs, side, side, device=bench.device, dtype=dtype)
            x = x.to(memory_format=torch.channels_last)
            layer = torch.nn.Conv2d(inputs, outputs, 1).to(bench.device, dtype).to(memory_format=torch.channels_last)
            layer.requires_grad_(False)
            ways = {"convolution": layer, "product": partial(as_product, layer)}
            if not bench.smoke:
                options = {"deterministic": True, "conv_1x1_as_mm": True}
                ways["compiled"] = compiled(layer, torch.device(bench.device))
                ways["compiled as a product"] = torch.compile(layer, dynamic=False, options=options)
            made = {name: way(x) for name, way in ways.items()}
            differs = max(differs, *(float((made["convolution"] - y).float().abs().max()) for y in made.values()))
            for name, way in ways.items():
                total[name] += count * milliseconds(bench, lambda way=way, x=x: way(x))
                if not torch.equal(way(x.flip(0)).flip(0), made[name]):
                    variant.append(f"{name} {inputs}→{outputs} at {side}²")
        found = dict(total) | {"largest difference": differs}
        bench.found.add(f"{model}, 1×1 convolutions of a pass of {lanes} lanes, ms", found)
        bench.found.add(f"{model}, same bits in any place", not variant, variant)


def pointwise_shapes(model: str) -> Counter[tuple[int, int, int]]:
    """The 1×1 convolutions of a UNet's pass: inputs, outputs and side, with how often each runs."""
    shapes: Counter[tuple[int, int, int]] = Counter()
    config = UNETS[model]
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config).requires_grad_(False)
        for layer in unet.modules():
            if isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (1, 1):
                layer.register_forward_pre_hook(
                    lambda layer, args: shapes.update([(layer.in_channels, layer.out_channels, args[0].shape[-1])])
                )
        side = config["sample_size"]
        added = {"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)} if model == "sdxl" else None
        text = torch.empty(1, 77, config["cross_attention_dim"])
        unet(torch.empty(1, 4, side, side), torch.empty(1), text, added_cond_kwargs=added)
    return shapes


def as_product(layer: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """A 1×1 convolution as a product; channels_last pixels are the rows of a matrix already, so nothing is copied."""
    made = F.linear(x.permute(0, 2, 3, 1), layer.weight[:, :, 0, 0], layer.bias)
    return made.permute(0, 3, 1, 2)


def lanes(bench: Bench) -> None:
    """62 lanes against 64: from 64 on, diffusers copies a UNet's channels_last activations to another layout."""
    dtype, counts = ("fp32", (2, 4)) if bench.smoke else ("fp16", (62, 64))
    family = load_family(inspect_model(model_folder(bench.scaled("sd15"))), dtype, torch.device(bench.device))
    own = family.latent_shape(family.info.height, family.info.width)
    for is_compiled in (False,) if bench.smoke else (True, False):
        family.compile([own], 2) if is_compiled else family.decompile()
        spent = {}
        for count in counts:
            inputs = trial_inputs(family, count)
            with torch.inference_mode():
                family.denoise(*inputs)
                spent[count] = milliseconds(bench, lambda inputs=inputs: family.denoise(*inputs)) / count
        how = "compiled" if is_compiled else "not compiled"
        bench.found.add(f"{how}, ms per lane and pass", {f"{count} lanes:": each for count, each in spent.items()})
        bench.found.add(f"{how}, speed: {counts[0]} lanes ÷ {counts[1]}", spent[counts[1]] / spent[counts[0]])


def vae(bench: Bench) -> None:
    """Decoding: Stable Diffusion XL's VAE in float32, which it needs under fp16, in fp16, and in bf16; FLUX.2's."""
    folder, fp16 = model_folder(bench.scaled("sdxl")), "fp32" if bench.smoke else "fp16"
    with one_that_fits_half_precision(folder) as half:
        exact = decodes(bench, "float32 (default with fp16)", folder, fp16)
        decodes(bench, "fp16 (--vae madebyollin/sdxl-vae-fp16-fix)", half, fp16, exact)
        decodes(bench, "bf16 (--dtype bf16)", folder, "bf16", exact)
    decodes(bench, "FLUX.2 klein, bf16", model_folder(bench.scaled("klein")), "bf16")


def decodes(bench: Bench, name: str, model: Path, dtype: str, exact: torch.Tensor | None = None) -> torch.Tensor:
    """Time and memory of a model's decoder, compiled or not, and how far it is from the first one; returns that."""
    family = load_family(inspect_model(model), dtype, torch.device(bench.device))
    batch, shape = 2 if bench.smoke else 4, family.latent_shape(family.info.height, family.info.width)
    latents = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0)).to(bench.device)
    for is_compiled in (False,) if bench.smoke else (False, True):
        what = f"{name}{', compiled' if is_compiled else ''}"
        if exact is not None and not bench.has_time(what):
            break
        if is_compiled:
            family.compile([shape], batch)
        with torch.inference_mode():
            pixels = family.decode(latents).float()
            exact = pixels if exact is None else exact
            decode = partial(family.decode, latents)
            found = {"ms per picture": milliseconds(bench, decode) / batch}
            if not bench.smoke:
                found["GiB beside the weights"] = peak_bytes(family.device, decode) / 2**30
        found["mean difference, of 255"] = float((pixels - exact).abs().mean() * 127.5)
        bench.found.add(what, found)
        del decode
    del family
    bench.release()
    return exact


@contextmanager
def one_that_fits_half_precision(folder: Path) -> Iterator[Path]:
    """The model with a VAE that says it does not overflow in half precision; its weights are the same."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary, "model")
        shutil.copytree(folder, copy, copy_function=lambda source, target: Path(target).symlink_to(source))
        config = copy / "vae" / "config.json"
        content = json.loads(config.read_text()) | {"force_upcast": False}
        config.unlink()
        config.write_text(json.dumps(content))
        yield copy


def start(bench: Bench) -> None:
    """Seconds until an engine has started, and from a table of 2,048 rows to its first pass and its first image."""
    rows = uniform_table(64 if bench.smoke else 2048, sampler="ddim", steps=1, guidance_scale=7.5)
    started = time.perf_counter()
    engine = bench.engine(model_folder(bench.scaled("sd15")), 4 if bench.smoke else 64)
    bench.found.add(
        "seconds until the engine has started, with kernels of earlier stages", time.perf_counter() - started
    )
    bench.found.add("engine", engine.describe())
    run_engine(engine, bench.few(rows)[:2])
    denoise, passes = engine._sampling.denoise, []

    def noted(lane_set):
        passes.append(time.perf_counter())
        return denoise(lane_set)

    engine._sampling.denoise = noted
    started = time.perf_counter()
    images = engine.generate(rows)
    next(images)
    bench.found.add("seconds from the rows to the first pass", passes[0] - started)
    bench.found.add("seconds from the rows to the first image", time.perf_counter() - started)
    bench.found.add("passes before the first image", len(passes))
    images.close()
    engine.close()


CHOICE_STAGES: dict[str, Callable[[Bench], None]] = {
    "lanes": lanes,
    "vae": vae,
    "attention": attention,
    "convolutions": convolutions,
    "start": start,
}
