"""Configurations of transformers with values of any kind: accepted, or refused in one line that names the file."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import flow_checkpoints
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_configs import VALUES

from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.errors import ModelError

BUILD = {
    "sd3": flow_checkpoints.build_sd3,
    "flux": flow_checkpoints.build_flux,
    "chroma": flow_checkpoints.build_chroma,
    "flux2-dev": flow_checkpoints.build_flux2_dev,
    "flux2-klein": partial(flow_checkpoints.build_klein, distilled=True),
    "z-image": flow_checkpoints.build_z_image,
    "lumina2": flow_checkpoints.build_lumina_2,
    "qwen-image": flow_checkpoints.build_qwen_image,
    "pixart-sigma": flow_checkpoints.build_pixart,
    "sana": flow_checkpoints.build_sana,
    "sana-sprint": partial(flow_checkpoints.build_sana, sprint=True),
}
NAMES = (
    "model_index.json",
    "transformer/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
)


@pytest.fixture(scope="module", params=BUILD)
def model(request, tmp_path_factory) -> Path:
    folder = BUILD[request.param](tmp_path_factory.mktemp("models") / request.param)
    assert inspect_model(folder).family == request.param
    return folder


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_of_any_key_is_taken_or_refused_in_one_line(model, data):
    path = model / data.draw(st.sampled_from(NAMES))
    before = path.read_text()
    config = json.loads(before)
    config[data.draw(st.sampled_from(sorted(config)))] = data.draw(VALUES)
    try:
        path.write_text(json.dumps(config))
        inspect_model(model)
    except ModelError as error:
        assert "\n" not in str(error) and path.name in str(error)
    finally:
        path.write_text(before)


@pytest.mark.parametrize(
    ("family", "name", "changes", "reason"),
    [
        ("flux", "transformer/config.json", {"in_channels": 384}, "384 input channels is not text-to-image"),
        ("flux", "model_index.json", {"text_encoder_2": [None, None]}, "names no text_encoder_2"),
        ("flux", "model_index.json", {"_class_name": "FluxFillPipeline"}, "FluxFillPipeline is not a pipeline"),
        (
            "flux",
            "model_index.json",
            {"_class_name": "AuraFlowPipeline"},
            "AuraFlowPipeline is not .*no family has been",
        ),
        ("chroma", "transformer/config.json", {"in_channels": 128}, "128 input channels is not text-to-image"),
        ("chroma", "text_encoder/config.json", {"d_model": 64}, "joint_attention_dim is 32, but the output width"),
        ("flux", "transformer/config.json", {"num_layers": 10**9}, "expected a whole number"),
        ("sd3", "scheduler/scheduler_config.json", {"invert_sigmas": True}, "inverted sigmas"),
        ("flux2-klein", "transformer/config.json", {"guidance_embeds": True}, "is not FLUX.2 klein"),
        ("flux2-dev", "transformer/config.json", {"guidance_embeds": False}, "is not FLUX.2 dev"),
        ("flux2-dev", "text_encoder/config.json", {"text_config": {"num_hidden_layers": 12}}, "fewer than 30 layers"),
        ("flux2-klein", "text_encoder/config.json", {"num_hidden_layers": 12}, "fewer than 27 layers"),
        ("z-image", "transformer/config.json", {"siglip_feat_dim": 8}, "takes pictures"),
        (
            "z-image",
            "transformer/config.json",
            {"cap_feat_dim": 64},
            "cap_feat_dim is 64, but the output width of the text encoder is 32",
        ),
        ("lumina2", "transformer/config.json", {"axes_lens": [256, 64, 64]}, "256 places for texts of 256 tokens"),
        ("lumina2", "scheduler/scheduler_config.json", {"use_dynamic_shifting": True}, "has no shift by the picture"),
        ("qwen-image", "transformer/config.json", {"zero_cond_t": True}, "zero_cond_t is not supported"),
        ("pixart-sigma", "transformer/config.json", {"use_additional_conditions": True}, "PixArt-α"),
        ("sana", "transformer/config.json", {"guidance_embeds": True}, "Sana-Sprint"),
        ("sana-sprint", "transformer/config.json", {"guidance_embeds": False}, "is not Sana-Sprint"),
        ("sana-sprint", "scheduler/scheduler_config.json", {"prediction_type": "epsilon"}, "trigflow"),
    ],
)
def test_what_a_family_does_not_run_is_named(family, name, changes, reason, tmp_path):
    folder = BUILD[family](tmp_path / "model")
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ModelError, match=reason):
        inspect_model(folder)
    shutil.rmtree(folder)
