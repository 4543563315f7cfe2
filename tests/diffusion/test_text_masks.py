"""Whether a text is padded must not decide which kernel computes the attention of the texts beside it."""

from __future__ import annotations

import flow_checkpoints
import pytest
import torch
from checkpoints import build_sd

from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.models.loading import load_family
from sdbatch.diffusion.request import Request
from tests.attention_calls import attention_calls

LONG = "a red fox on a hill " * 200
FOLDERS = {**flow_checkpoints.FLOWS, "sd": lambda folder: build_sd(folder, text={"use_attention_mask": True})}


@pytest.mark.parametrize("name", FOLDERS)
def test_texts_are_masked_alike_in_any_company(name, tmp_path, monkeypatch):
    family = load_family(inspect_model(FOLDERS[name](tmp_path / name)), "fp32", torch.device("cpu"))
    seen = attention_calls(monkeypatch)
    long, short = (family.texts(Request(prompt))[0] for prompt in (LONG, ""))
    kernels, encoded = [], []
    for batch in ([long] * 8, [long, *[short] * 7]):
        seen.clear()
        with torch.inference_mode():
            encoded.append({name: tensor[0] for name, tensor in family.encode(batch).items()})
        kernels.append(list(seen))
    assert kernels[0] == kernels[1]
    together, alone = encoded
    assert all(torch.equal(together[name], alone[name]) for name in alone)
