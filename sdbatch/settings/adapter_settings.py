"""LoRAs and textual inversion, for all rows of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from sdbatch.kinds import Flag, Text
from sdbatch.option_kinds import Names
from sdbatch.settings.setting_groups import ADAPTERS, of_the_run

__all__ = ["AdapterSettings"]


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """LoRAs and textual inversion, for all rows of a run."""

    embedding: Annotated[
        Mapping[str, str],
        of_the_run(
            Names(),
            "file of textual inversion (.safetensors) that prompts name by TOKEN; repeatable",
            ADAPTERS,
            metavar="TOKEN=PATH",
            kept_in="model",
        ),
    ] = field(default_factory=dict)
    lora_dir: Annotated[
        str | None,
        of_the_run(
            Text(),
            "folder of LoRA files, local or s3://…: base of relative paths, and of <lora:name:0.8> in prompts",
            ADAPTERS,
            metavar="DIR",
            before=None,
        ),
    ] = None
    merge_lora: Annotated[
        bool,
        of_the_run(
            Flag(),
            "merge the LoRAs of --lora into the model's weights: faster; slightly different in half precision",
            ADAPTERS,
            before=False,
        ),
    ] = False
