"""Everything that a run may add to a model, on the hub: made, resumed at its commits, and noticed when it changes."""

from __future__ import annotations

import json

import pytest

from tests.everything import OPTIONS, build_everything, change_lora, change_vae, write_table
from tests.hub.server import TOKEN, Hub
from tests.outputs import content, metadata


@pytest.mark.long
def test_a_model_and_what_belongs_to_it_on_the_hub(hub: Hub, tmp_path, sdbatch_command):
    folder = build_everything(tmp_path / "all")
    for name in ("model", "parts", "toy", "loras", "net", "ip"):
        hub.put(f"org/{name}", folder / name)
    first = hub.repositories["org/parts"].head
    table = write_table(tmp_path, "hf://org/loras/one.safetensors:0.8", "org/net", "org/ip/models/plain.safetensors")
    out = tmp_path / "out"
    command = ("generate", table, out, *OPTIONS, "--model", "org/model/small.safetensors")
    command += ("--text-encoder", "org/parts/text_encoder", "--tokenizer", folder / "parts" / "tokenizer")
    command += ("--embedding", "<toy>=hf://org/toy/toy.safetensors")
    # A Ray of its own, whose workers know the stand-in.
    home = {"HF_HOME": str(tmp_path / "hf"), "HOME": str(tmp_path)}
    here = {"RAY_ADDRESS": "local", "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, **home}
    sdbatch_command(*command, "--vae", "org/parts", **here)
    rows = metadata(out)
    assert [row["status"] for row in rows] == ["ok"] * 4
    recorded = json.loads((out / "run.json").read_text())
    assert recorded["model"]["part_commits"] == {"vae": first, "text_encoder": first}
    assert recorded["model"]["commit"] == hub.repositories["org/model"].head

    # A branch that has moved: the next run says how to go on, and does.
    before = content(out)
    (out / "00001_stats.json").unlink()
    (out / rows[3]["file_name"]).unlink()
    change_vae(folder / "parts", 0.5)
    hub.put("org/parts", folder / "parts")
    refused = sdbatch_command(*command, "--vae", "org/parts", status=2, **here).stderr
    assert "vae/diffusion_pytorch_model.safetensors differ" in refused
    assert f"continue with --vae org/parts@{first} --text-encoder text_encoder=org/parts@{first}/text" in refused
    sdbatch_command(*command, "--vae", f"org/parts@{first}", **here)
    assert content(out) == before

    change_lora(folder)
    hub.put("org/loras", folder / "loras")
    refused = sdbatch_command(*command, "--vae", f"org/parts@{first}", status=2, **here).stderr
    assert "'hf://org/loras/one.safetensors' has changed since OUT was started" in refused
