"""From admission to pixels, no tensor crosses between host and device but through `send`, and the host never waits.

The device is `meta`, which has shapes and no values: whatever needs a value fails there.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import checkpoints
import flow_checkpoints
import picture_checkpoints
import pytest
import torch
from control_checkpoints import build_controlnet, build_union
from diffusers import AutoencoderKL, UNet2DConditionModel
from ip_adapter_checkpoints import build_ip_adapters
from lora_checkpoints import build_loras, build_transformer_loras
from picture_rows import mask, photo
from t2i_adapter_checkpoints import WIDTHS, build_t2i_adapter
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from sdbatch.diffusion.accelerate.compilation import CompiledShapes
from sdbatch.diffusion.accelerate.quantization import QUANTIZERS
from sdbatch.diffusion.adapters.net_loading import row_nets
from sdbatch.diffusion.decoding import to_pixels
from sdbatch.diffusion.device import transfer
from sdbatch.diffusion.device.trial import trial_inputs
from sdbatch.diffusion.embeddings import Text
from sdbatch.diffusion.families import Components, StableDiffusion, StableDiffusionXL
from sdbatch.diffusion.families.family import Family
from sdbatch.diffusion.lanes import Lanes
from sdbatch.diffusion.models.inspection import inspect_model, read_config
from sdbatch.diffusion.models.loading import DTYPES, load_family
from sdbatch.diffusion.pictures.picture import Picture
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.sampling import Sampling
from sdbatch.diffusion.sampling_row import sampling_row

META = torch.device("meta")
WAITS = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "unique", "equal", "allclose")
MAKERS = (torch.tensor, torch.as_tensor, torch.asarray, torch.scalar_tensor)


class Crossing(AssertionError):
    pass


class NoCrossings(TorchDispatchMode):
    """Refuses operations on tensors of two devices, copies between devices, and what makes the host wait."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        devices = {x.device.type for x in tree_iter((args, kwargs)) if isinstance(x, torch.Tensor)}
        name = function._schema.name.removeprefix("aten::")
        # In inference mode a copy is not yet told from a cast.
        if name == "to" or "copy" in name:
            devices |= {x.type for x in (*args, kwargs.get("device")) if isinstance(x, torch.device)}
        if len(devices) > 1 or (name in WAITS and devices == {"meta"}):
            raise Crossing(f"{function} on {sorted(devices)}")
        return function(*args, **kwargs)


class NoHostScalars(TorchFunctionMode):
    """Refuses tensors on the device that are made of numbers on the host: each is a copy that waits."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in MAKERS and torch.device((kwargs or {}).get("device") or "cpu").type != "cpu":
            raise Crossing(f"{function.__name__} on the device")
        return function(*args, **(kwargs or {}))


def on_meta(folder, dtype=torch.float16, **vae_config) -> StableDiffusion:
    """A family whose networks are on the device that has no values; its texts are encoded already."""
    info = inspect_model(folder)
    real = load_family(info, "fp32", torch.device("cpu"))
    with META:
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(info.folder / "unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(info.folder / "vae") | vae_config)
    upcast = info.family == "sdxl" and vae.config.force_upcast
    parts = Components(
        info=info,
        tokenizers=real._clip._tokenizers,
        text_encoders=[],
        unet=unet.to(dtype).eval().requires_grad_(False),
        vae=vae.to(torch.float32 if upcast else dtype).eval().requires_grad_(False),
        scheduler_config=read_config(info.folder / "scheduler" / "scheduler_config.json"),
        index=read_config(info.folder / "model_index.json"),
    )
    family = (StableDiffusionXL if info.family == "sdxl" else StableDiffusion)(parts)
    encoded = {
        name: torch.empty_like(x, dtype=dtype, device=META)
        for name, x in real.encode([Text("prompt", "x")] * 8).items()
    }
    family.encode = lambda texts: {name: tensor[: len(texts)] for name, tensor in encoded.items()}
    return family


def whole_on_meta(folder, dtype: str = "bf16") -> Family:
    """A family of any kind, all of it on the device that has no values; its texts are encoded already."""
    info = inspect_model(folder)
    real = load_family(info, "fp32", torch.device("cpu"))
    family = load_family(info, dtype, META)
    (text, *_) = real.texts(Request("x"))
    encoded = {
        name: torch.empty_like(x, dtype=DTYPES[dtype] if x.is_floating_point() else None, device=META)
        for name, x in real.encode([text] * 8).items()
    }
    family.encode = lambda texts: {name: tensor[: len(texts)] for name, tensor in encoded.items()}
    return family


@torch.inference_mode()
def run(family: StableDiffusion, rows: list[Request], deep_interval: int = 1) -> int:
    """What an engine does with rows, between `submit` and pixels; returns how many pictures came out."""
    lanes = Lanes(4, family.latent_shape(family.info.height, family.info.width)[1:], deep_interval)
    work = Sampling(family)
    for index, request in enumerate(rows):
        lanes.submit(sampling_row(family, index, request))
    pictures = 0
    with NoHostScalars(), NoCrossings():
        while (lane_set := lanes.select()) is not None:
            work.admit(lane_set, lanes.admit(lane_set), lanes.waiting(lane_set))
            work.advance(lane_set, *work.denoise(lane_set))
            for row in lanes.advance(lane_set):
                work.narrow(row)
            for row in lanes.finished(lane_set):
                pixels, finite = to_pixels(family.decode(work.latents(row)[None]))
                assert pixels.dtype == torch.uint8 and finite.shape == (1,)
                pictures += 1
                lanes.retire(lane_set, row)
            if lanes.release(lane_set):
                work.release(lane_set)
    return pictures


FROM_PICTURES = {
    "sd-inpainting": (picture_checkpoints.build_inpainting, "inpainting"),
    "sdxl-inpainting": (picture_checkpoints.build_xl_inpainting, "inpainting"),
    "sd-depth": (picture_checkpoints.build_depth, "depth-to-image"),
    "sd-instruct": (picture_checkpoints.build_instruct, "instruct-edit"),
    "sdxl-instruct": (picture_checkpoints.build_xl_instruct, "instruct-edit"),
    "sdxl-refiner": (picture_checkpoints.build_refiner, "image-to-image"),
    "sd-upscaler": (picture_checkpoints.build_upscaler, "upscaling"),
    "sd-variation": (picture_checkpoints.build_variation, "image-variation"),
}
ROWS = [
    Request("a", seed=0, steps=3, sampler="ddpm"),
    Request("b", seed=1, steps=2, sampler="euler_a", guidance_scale=1.0),
    Request("c", seed=2, steps=4, sampler="dpmpp_2m", guidance_rescale=0.7, negative_prompt="d"),
    Request("e", seed=3, steps=3, sampler="unipc", guidance_stop=0.5),
    Request("f", seed=4, steps=3, sampler="pndm", height=128, width=64),
]


@pytest.fixture(autouse=True)
def sending(monkeypatch):
    def send(tensor, device):
        return tensor if device.type == "cpu" else torch.empty_like(tensor, device=device)

    real = transfer.send
    for name, module in list(sys.modules.items()):
        if name.startswith("sdbatch.diffusion") and getattr(module, "send", None) is real:
            monkeypatch.setattr(module, "send", send)


@pytest.mark.parametrize("deep_interval", [1, 2])
@pytest.mark.parametrize("model", ["sd", "sd_v", "sdxl"])
def test_rows_go_from_noise_to_pixels_without_crossing(model, deep_interval, request):
    family = on_meta(request.getfixturevalue(model))
    if deep_interval > 1:
        family.cache_deep_features()
    assert run(family, ROWS, deep_interval) == len(ROWS)


def test_so_do_those_of_the_packaged_model():
    assert run(on_meta("tiny"), ROWS) == len(ROWS)


@pytest.mark.parametrize("name", flow_checkpoints.FLOWS)
def test_so_do_those_of_every_transformer(name, tmp_path):
    family = whole_on_meta(flow_checkpoints.FLOWS[name](tmp_path / name))
    sampler, options = family.info.samplers[0], {"height": 64, "width": 64}
    options |= {"guidance_scale": 5.0} if "guidance_scale" in family.info.uses else {}
    negative = "y" if "negative_prompt" in family.info.uses else ""
    rows = [Request("x", negative, seed=i, steps=2, sampler=sampler, **options) for i in range(3)]
    if "image-to-image" in family.info.tasks:
        extra = {"image": Picture(photo(64, 64, 1))}
        rows.append(replace(rows[0], steps=4, task="image-to-image", extra=extra))
    assert run(family, rows) == len(rows)
    family.cache_deep_features()
    assert run(family, rows, deep_interval=2) == len(rows)


@pytest.mark.parametrize("name", FROM_PICTURES)
def test_so_do_those_of_every_model_of_pictures(name, tmp_path):
    build, task = FROM_PICTURES[name]
    dtype = "fp32" if name == "sd-depth" else "bf16"  # the depth estimator's autocast does not know the device
    family = whole_on_meta(build(tmp_path / name), dtype)
    side = 16 if task == "upscaling" else 64
    extra = {"image": Picture(photo(side, side, 1))}
    if task == "inpainting":
        extra["mask_image"] = Picture(mask(side, side, 1))
    rows = [Request("x", "y", seed=i, steps=4, sampler="ddim", task=task, extra=extra) for i in range(2)]
    assert run(family, rows) == 2


def test_so_do_those_of_a_model_that_is_told_its_guidance(tmp_path):
    assert run(on_meta(checkpoints.build_sd(tmp_path / "lcm", time_cond_proj_dim=16)), ROWS[:2]) == 2


@pytest.mark.parametrize("model", ["sd", "sdxl"])
def test_so_do_those_that_start_from_pictures(model, request):
    image, painted = Picture(photo(64, 64, 1)), Picture(mask(64, 64, 1))
    rows = [
        Request("a", seed=0, steps=4, task="image-to-image", extra={"image": image}),
        Request("b", seed=1, steps=4, task="inpainting", extra={"image": image, "mask_image": painted}),
        Request("c", seed=2, steps=4, sampler="euler_a", task="image-to-image"),
    ]
    assert run(on_meta(request.getfixturevalue(model)), rows) == 3


@pytest.mark.parametrize("name", flow_checkpoints.FLOWS)
def test_compiled_passes_of_transformers_take_no_tensor_of_the_host(name, tmp_path):
    family, taken = whole_on_meta(flow_checkpoints.FLOWS[name](tmp_path / name)), []

    def backend(graph, inputs):
        taken.extend(x.device.type for x in inputs if isinstance(x, torch.Tensor))
        return graph

    inputs = trial_inputs(family, 2)
    torch._dynamo.reset()
    compiled = torch.compile(family.network, dynamic=False, backend=backend)
    with torch.inference_mode():
        plain, _ = family.denoise(*inputs)  # what libraries keep of a first call is there: an engine makes one before
        family._compiled = CompiledShapes(compiled, [inputs[0].shape[1:]])
        made, _ = family.denoise(*inputs)
    assert made.shape == plain.shape and set(taken) == {"meta"}


def encode_texts(family: Family, rows: list[Request]) -> None:
    """Encode the texts of rows in batches of one shape, as `Embeddings` does, and prepare what lanes get of them."""
    work = Sampling(family)
    with torch.inference_mode(), NoHostScalars(), NoCrossings():
        for row in rows:
            shape = family.latent_shape(row.height or 64, row.width or 64)
            family.conditioning(row, work._embeddings.get(family.texts(row)), shape)


@pytest.mark.parametrize("model", ["sd", "sdxl"])
def test_texts_are_encoded_without_crossing(model, request, tmp_path):
    folder = request.getfixturevalue(model)
    files = list(map(str, build_loras(tmp_path / "loras", folder).values()))
    family = load_family(inspect_model(folder), "bf16", META)
    rows = [
        *ROWS,
        Request("a (red:1.3) cat", "a [blue] dog", extra={"prompt_syntax": "a1111"}),
        *(Request("a", extra={"lora": [file]}) for file in files),
    ]
    for row in rows:
        family.load_loras(row)
    encode_texts(family, rows)


@pytest.mark.parametrize("name", flow_checkpoints.FLOWS)
def test_so_are_those_of_every_transformer(name, tmp_path):
    family = load_family(inspect_model(flow_checkpoints.FLOWS[name](tmp_path / name)), "bf16", META)
    encode_texts(family, [Request("x", sampler=family.info.samplers[0]), Request("a long text " * 20)])


def with_nets(family: StableDiffusion, rows: list[Request]) -> StableDiffusion:
    """The family with the networks of the rows, loaded already."""
    family.nets = row_nets(family.info, family.denoiser, lambda: 1 << 40)
    for row in rows:
        family.nets.encoders(row)
    return family


@pytest.mark.parametrize("model", ["sd", "sdxl"])
def test_so_do_those_with_loras(model, request, tmp_path):
    folder = request.getfixturevalue(model)
    files = list(map(str, build_loras(tmp_path / "loras", folder).values()))
    family = on_meta(folder)
    loras = [files[:1], files[1:2], files[2:], [f"{files[0]}:0.5", f"{files[2]}:-1"], files[:1]]
    rows = [replace(row, extra={"lora": lora}) for row, lora in zip(ROWS, loras, strict=True)]
    for row in rows:
        family.load_loras(row)
    assert run(family, rows + ROWS) == 2 * len(ROWS)


@pytest.mark.parametrize("name", ["flux", "z-image"])
def test_so_do_those_with_loras_of_a_transformer(name, tmp_path):
    folder = flow_checkpoints.FLOWS[name](tmp_path / name)
    files = list(map(str, build_transformer_loras(tmp_path, folder, kohya=False).values()))
    family = whole_on_meta(folder)
    rows = [Request("x", seed=i, steps=2, height=64, width=64, extra={"lora": file}) for i, file in enumerate(files)]
    rows = [replace(row, sampler=family.info.samplers[0]) for row in rows]
    for row in rows:
        family.load_loras(row)
    assert run(family, rows) == len(rows)


@pytest.mark.parametrize("model", ["sd", "sdxl"])
def test_so_do_those_with_controlnets(model, request, tmp_path):
    folder = request.getfixturevalue(model)
    net = str(build_controlnet(tmp_path / "net", folder, 1))
    pooled = str(build_controlnet(tmp_path / "pooled", folder, 2, global_pool_conditions=True))
    image = Picture(photo(64, 64, 1))
    ways = [
        {"controlnet": net, "control_image": image},
        {"controlnet": (net, pooled), "control_image": (image, image), "control_guidance_end": (0.5, 1.0)},
        {"controlnet": net, "control_image": image, "guess_mode": True},
    ]
    rows = [replace(row, extra=way) for row, way in zip(ROWS, ways, strict=False)]
    assert run(with_nets(on_meta(folder), rows), rows + ROWS) == len(rows + ROWS)


def test_so_do_those_with_a_controlnet_union(sdxl, tmp_path):
    net, image = str(build_union(tmp_path / "net", sdxl, 1)), Picture(photo(64, 64, 1))
    ways = [
        {"controlnet": net, "control_image": image, "control_mode": 0},
        {"controlnet": (net, net), "control_image": (image, image), "control_mode": (1, 2)},
    ]
    rows = [replace(row, extra=way) for row, way in zip(ROWS, ways, strict=False)]
    assert run(with_nets(on_meta(sdxl), rows), rows + ROWS) == len(rows + ROWS)


def test_so_do_those_with_image_prompts(sd, tmp_path):
    image = Picture(photo(64, 64, 1))
    paths = map(str, build_ip_adapters(tmp_path / "models", sd).values())
    rows = [
        replace(row, extra={"ip_adapter": path, "ip_adapter_image": image, "ip_adapter_scale": 0.6})
        for row, path in zip(ROWS, paths, strict=False)
    ]
    assert run(with_nets(on_meta(sd), rows), rows + ROWS) == len(rows + ROWS)


def test_so_do_those_with_t2i_adapters(tmp_path):
    blocks = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
    up_blocks = ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")
    folder = checkpoints.build_sd(
        tmp_path / "sd", block_out_channels=WIDTHS, down_block_types=blocks, up_block_types=up_blocks
    )
    net, image = str(build_t2i_adapter(tmp_path / "net", "full_adapter", 1)), Picture(photo(64, 64, 1))
    rows = [replace(ROWS[0], extra={"t2i_adapter": net, "adapter_image": image})]
    assert run(with_nets(on_meta(folder), rows), rows + ROWS) == len(rows + ROWS)


@pytest.mark.parametrize("quantization", QUANTIZERS)
def test_so_do_those_of_eight_bit_weights(quantization, sd):
    family = on_meta(sd)
    QUANTIZERS[quantization](family.denoiser, family.keep_whole(), META)
    assert run(family, ROWS) == len(ROWS)


def test_so_do_latents_with_a_mean_and_a_deviation_of_their_own(sdxl):
    family = on_meta(sdxl, latents_mean=[0.1] * 4, latents_std=[0.9] * 4)
    assert run(family, ROWS) == len(ROWS)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum() > 0),
        lambda x: x.to("cpu"),
        lambda x: x + torch.ones(2),
        lambda x: x * torch.tensor(2.0),
        lambda x: x * torch.tensor([0.5, 2.0], device=META),
        lambda x: x[x > 0],
        lambda x: torch.ones(2).to(META),
    ],
)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_would_cross_is_seen(wrong, mode):
    with pytest.raises((Crossing, RuntimeError)), mode(), NoHostScalars(), NoCrossings():
        wrong(torch.ones(2, device=META))
