"""LoRA files are judged by their headers alone: which are taken, and why the others are refused."""

from __future__ import annotations

import io
import json
import pickle
import re
import struct

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.lora_conversion_utils import (
    _convert_non_diffusers_lora_to_diffusers,
    _maybe_map_sgm_blocks_to_diffusers,
)
from diffusers.utils import convert_unet_state_dict_to_peft
from safetensors.torch import save

from benchmarks.engine_models import UNETS
from sdbatch.diffusion.adapters.lora_files import LoraModel, lora_model, read_lora_header
from sdbatch.diffusion.adapters.lora_names import layer_names, model_layers
from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.errors import AdapterError

QUERY = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
KOHYA = f"lora_unet_{QUERY.replace('.', '_')}"
DOWN, UP, ALPHA = (f"{KOHYA}.{end}" for end in ("lora_down.weight", "lora_up.weight", "alpha"))
KEY = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"


@pytest.fixture(scope="module")
def tiny() -> LoraModel:
    return lora_model(inspect_model("tiny"))


def tensors(**other: torch.Tensor) -> dict[str, torch.Tensor]:
    return {DOWN: torch.ones(4, 128), UP: torch.ones(128, 4), ALPHA: torch.tensor(2.0)} | other


def header_of(data: bytes, model: LoraModel):
    return read_lora_header(io.BytesIO(data), len(data), "a.safetensors", model).layers


def raw(header: object, body: bytes = b"") -> bytes:
    data = json.dumps(header).encode()
    return struct.pack("<Q", len(data)) + data + body


def entry(shape: list, offsets: list, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("down", "up"),
    [
        (f"unet.{QUERY}.lora_A.weight", f"unet.{QUERY}.lora_B.weight"),
        (f"unet.{QUERY}.lora.down.weight", f"unet.{QUERY}.lora.up.weight"),
        (f"base_model.model.{QUERY}.lora_A.default.weight", f"base_model.model.{QUERY}.lora_B.default.weight"),
        (
            f"unet.{QUERY.replace('to_q', 'processor.to_q_lora')}.down.weight",
            f"unet.{QUERY.replace('to_q', 'processor.to_q_lora')}.up.weight",
        ),
        (DOWN, UP),
        ("lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q.lora_down.weight",) * 2,
        (
            "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_linear_layer.down.weight",
            "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_linear_layer.up.weight",
        ),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",) * 2,
    ],
)
def test_names_of_all_formats(down, up, tiny):
    up = up.replace("lora_down", "lora_up")
    part = "text_encoder" if "te" in down.split("_")[1:2] or down.startswith("text") else "unet"
    out, features = tiny.layers[part, QUERY if part == "unet" else "encoder.layers.0.mlp.fc1"]
    ((layer, lora),) = header_of(save({down: torch.ones(3, features), up: torch.ones(out, 3)}), tiny).items()
    assert layer == (part, QUERY if part == "unet" else "encoder.layers.0.mlp.fc1")
    assert (lora.rank, lora.alpha) == (3, None)


def test_alphas_stand_in_the_file_or_in_its_metadata(tiny):
    assert header_of(save(tensors()), tiny)["unet", QUERY].alpha == ALPHA
    value = QUERY.replace("to_q", "to_v")
    plain = {f"unet.{name}.lora_{half}.weight": torch.ones(4, 128) for name in (QUERY, value) for half in "A"}
    plain |= {f"unet.{name}.lora_B.weight": torch.ones(128, 4) for name in (QUERY, value)}
    config = {"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_v": 2}, "unet.use_rslora": True}
    found = header_of(save(plain, {"lora_adapter_metadata": json.dumps(config)}), tiny)
    assert [(found["unet", name].alpha, found["unet", name].rank_stabilised) for name in (QUERY, value)] == [
        (8, True),
        (2, True),
    ]


REFUSED = {
    "a pickle": (pickle.dumps({"a": 1}), "is a pickle"),
    "a zip of pickles": (b"PK\x03\x04" + bytes(100), "is a pickle"),
    "an empty file": (b"", "is not a safetensors file, or is truncated"),
    "a header of 2^60 bytes": (struct.pack("<Q", 1 << 60) + b"{}", "is not a safetensors file, or is truncated"),
    "no JSON": (struct.pack("<Q", 4) + b"{{{{", "its header is not JSON"),
    "deep JSON": (struct.pack("<Q", 200_000) + b"[" * 200_000, "its header is not JSON"),
    "overlapping offsets": (
        raw({DOWN: entry([2], [0, 8]), UP: entry([2], [0, 8])}, bytes(8)),
        "is not where the header says",
    ),
    "2^62 numbers": (raw({DOWN: entry([1 << 31, 1 << 31], [0, 8])}, bytes(8)), "is not where the header says"),
    "a negative size": (raw({DOWN: entry([-1], [0, 4])}, bytes(4)), "describes no valid tensor"),
    "a shape of texts": (raw({DOWN: entry(["2"], [0, 8])}, bytes(8)), "describes no valid tensor"),
    "numbers of no type": (raw({DOWN: entry([8], [0, 8], "F8_E4M3")}, bytes(8)), "holds F8_E4M3"),
    "cut short": (save(tensors())[:-10], "is shorter or longer"),
    "bytes behind its end": (save(tensors()) + bytes(8), "is shorter or longer"),
    "no up": (save({DOWN: torch.ones(4, 128)}), f"layer {KOHYA}: {UP} is missing"),
    "no down": (save({UP: torch.ones(128, 4)}), f"layer {KOHYA}: {DOWN} is missing"),
    "ranks that disagree": (save(tensors(**{UP: torch.ones(128, 5)})), "has the ranks 4 and 5"),
    "a large rank": (save({DOWN: torch.ones(513, 128), UP: torch.ones(128, 513)}), "has the ranks 513 and 513"),
    "another width": (save(tensors(**{DOWN: torch.ones(4, 127)})), "4 × 127 and 128 × 4 do not fit the layer"),
    "a layer twice": (
        save(
            tensors()
            | {f"unet.{QUERY}.lora_A.weight": torch.ones(4, 128), f"unet.{QUERY}.lora_B.weight": torch.ones(128, 4)}
        ),
        "appears twice",
    ),
    "whole numbers": (save(tensors(**{DOWN: torch.ones(4, 128, dtype=torch.int8)})), "holds I8"),
    "an alpha of two numbers": (save(tensors(**{ALPHA: torch.ones(2)})), "its alpha is not a single number"),
    "an unknown layer": (
        save({n.replace("mid_block", "mid_block_9"): t for n, t in tensors().items()}),
        "has no such layer",
    ),
    "another base": (
        save({f"unet.{KEY}.lora_A.weight": torch.ones(4, 2048), f"unet.{KEY}.lora_B.weight": torch.ones(128, 4)}),
        "is for Stable Diffusion XL; this model is a model with text width 128",
    ),
    "LoHa": (save(tensors(**{f"{KOHYA}.hada_w1_a": torch.ones(2)})), "is LoHa"),
    "DoRA of kohya": (save(tensors(**{f"{KOHYA}.dora_scale": torch.ones(2)})), "is DoRA"),
    "DoRA of peft": (save(tensors(**{f"{QUERY}.lora_magnitude_vector": torch.ones(2)})), "is DoRA"),
    "DoRA in the metadata": (
        save(tensors(), {"lora_adapter_metadata": json.dumps({"unet.use_dora": True})}),
        "is DoRA",
    ),
    "Tucker": (save(tensors(**{f"{KOHYA}.lora_mid.weight": torch.ones(2)})), "Tucker"),
    "FLUX": (save({"transformer.x.lora_A.weight": torch.ones(2, 2)}), "a LoRA of a transformer model"),
    "a bias": (save(tensors(**{f"{KOHYA}.lora_B.bias": torch.ones(2)})), "is not part of any kind of LoRA"),
    "nothing": (save({}), "contains no LoRA"),
    "patterns": (
        save(
            tensors(), {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 1, "unet.alpha_pattern": {"(a+)+": 1}})}
        ),
        "regular expressions",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_lora_of_this_model_is_refused(what, tiny):
    data, reason = REFUSED[what]
    with pytest.raises(AdapterError) as refused:
        header_of(data, tiny)
    assert str(refused.value).startswith("a.safetensors: ")
    assert reason in str(refused.value)


def test_every_layer_of_stable_diffusion_xl_has_the_sgm_name_that_diffusers_reads():
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNETS["sdxl"])
    layers = model_layers({"unet": {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}})
    assert len(layers) == 794
    sgm = re.compile(r"lora_unet_(input_blocks|middle_block|output_blocks)_.*")
    names = {name: layer for name, layer in layer_names(layers).items() if sgm.fullmatch(name)}
    files = {}
    for number, (name, layer) in enumerate(names.items()):
        kernel = layers[layer][2:]
        files[f"{name}.lora_down.weight"] = torch.full((1, 1, *kernel), float(number))
        files[f"{name}.lora_up.weight"] = torch.ones(1, 1, *(1 for _ in kernel))
    mapped, _ = _convert_non_diffusers_lora_to_diffusers(_maybe_map_sgm_blocks_to_diffusers(files, unet.config))
    mapped = convert_unet_state_dict_to_peft({name.removeprefix("unet."): tensor for name, tensor in mapped.items()})
    theirs = {name.split(".lora_A")[0]: int(t.flatten()[0]) for name, t in mapped.items() if "lora_A" in name}
    assert len(theirs) > 700
    assert theirs == {layer: number for number, (_, layer) in enumerate(names.values())}
