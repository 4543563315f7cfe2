"""Configurations of the wrong types: one line that names file and key, at once, before any weights are read."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.models.model_identity import model_files
from sdbatch.errors import ModelError

UNET, VAE, TEXT = "unet/config.json", "vae/config.json", "text_encoder/config.json"
SCHEDULER, TOKENIZER, INDEX = "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json", "model_index.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def model(sd, tmp_path):
    return shutil.copytree(sd, tmp_path / "model")


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        (SCHEDULER, "num_train_timesteps", None),
        (SCHEDULER, "num_train_timesteps", 1000.5),
        (SCHEDULER, "num_train_timesteps", True),
        (SCHEDULER, "num_train_timesteps", 10**400),
        (SCHEDULER, "prediction_type", "x"),
        (SCHEDULER, "prediction_type", ["epsilon"]),
        (SCHEDULER, "beta_start", "0.1"),
        (SCHEDULER, "beta_end", float("nan")),
        (SCHEDULER, "beta_schedule", 3),
        (TOKENIZER, "model_max_length", "77"),
        (TOKENIZER, "model_max_length", 0),
        (TOKENIZER, "model_max_length", float("inf")),
        (TEXT, "max_position_embeddings", []),
        (TEXT, "num_hidden_layers", 10**9),
        (TEXT, "hidden_size", {}),
        (UNET, "sample_size", "64"),
        (UNET, "sample_size", 10**9),
        (UNET, "sample_size", [64]),
        (UNET, "sample_size", 0),
        (UNET, "in_channels", None),
        (UNET, "block_out_channels", 320),
        (UNET, "block_out_channels", []),
        (UNET, "layers_per_block", 10**9),
        (UNET, "down_block_types", "CrossAttnDownBlock2D"),
        (UNET, "down_block_types", [None]),
        (UNET, "time_cond_proj_dim", "256"),
        (VAE, "block_out_channels", [[]]),
        (VAE, "block_out_channels", {"0": 1}),
        (VAE, "latent_channels", "4"),
        (VAE, "scaling_factor", 0),
        (VAE, "latents_mean", "0"),
        (VAE, "force_upcast", "no"),
        (INDEX, "_class_name", ["my_pipeline", "MyPipeline"]),
        (INDEX, "_class_name", {}),
        (INDEX, "unet", "UNet2DConditionModel"),
        (INDEX, "unet", ["diffusers"]),
        (INDEX, "vae", [[], {}]),
    ],
)
def test_a_wrong_type_is_named_with_its_file_and_key(model, name, key, value):
    path = model / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ModelError) as refused:
        inspect_model(model)
    message = str(refused.value)
    assert name in message and f'"{key}"' in message and "expected" in message and "\n" not in message
    assert len(message) < 600


@pytest.mark.parametrize("name", [INDEX, UNET, VAE, TEXT, SCHEDULER, TOKENIZER])
@pytest.mark.parametrize(
    "content",
    [b"[]", b"null", b"", b"{", b"\xff\xfe{}", b'{"a":' * 30 + b"1" + b"}" * 30, b"[" * 100_000, b" " * (2 << 20)],
    ids=["list", "null", "empty", "cut", "not UTF-8", "deep", "deeper", "large"],
)
def test_what_is_no_configuration_is_one_line(model, name, content):
    (model / name).write_bytes(content)
    with pytest.raises(ModelError) as refused:
        inspect_model(model)
    assert name in str(refused.value).replace(str(model), "") and "\n" not in str(refused.value)


VOCABULARY = "tokenizer/tokenizer.json"


@pytest.mark.parametrize("name", [INDEX, UNET, SCHEDULER, TOKENIZER, VOCABULARY, WEIGHTS])
@pytest.mark.parametrize("kind", ["empty", "of /proc"])
def test_a_file_without_a_size_is_named_and_never_read(model, name, kind):
    """What half a download leaves; and some files of /proc have no size and block whoever reads them."""
    (model / name).unlink()
    if kind == "empty":
        (model / name).touch()
    else:
        (model / name).symlink_to("/proc/self/environ")
    with pytest.raises(ModelError, match=f"{name}: is empty"):
        model_files(inspect_model(model))


def test_a_vocabulary_larger_than_any_is_refused_before_it_is_hashed(model):
    os.truncate(model / VOCABULARY, 200 << 30)
    with pytest.raises(ModelError, match=f"{VOCABULARY}: larger than"):
        model_files(inspect_model(model))


@pytest.mark.parametrize(
    ("name", "key", "field", "expected"),
    [
        (TOKENIZER, "model_max_length", "max_tokens", 24),
        (UNET, "sample_size", "height", 64 * 8),
        (UNET, "time_cond_proj_dim", "guidance_embedded", False),
    ],
)
def test_null_is_absent_where_the_libraries_read_it_so(model, name, key, field, expected):
    path = model / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: None}))
    assert getattr(inspect_model(model), field) == expected


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_of_any_key_is_taken_or_refused_in_one_line(model, data):
    name = data.draw(st.sampled_from([INDEX, UNET, VAE, TEXT, SCHEDULER, TOKENIZER]))
    path = model / name
    before = path.read_text()
    config = json.loads(before)
    config[data.draw(st.sampled_from(sorted(config)))] = data.draw(VALUES)
    try:
        path.write_text(json.dumps(config))
        inspect_model(model)
    except ModelError as error:
        assert "\n" not in str(error)
    finally:
        path.write_text(before)
