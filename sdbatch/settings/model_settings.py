"""The model of a run, the parts that replace its own, and the kind of rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from sdbatch.diffusion.checkpoints.single_file_shapes import PREDICTION_TYPES
from sdbatch.diffusion.request import TEXT_TO_IMAGE
from sdbatch.diffusion.tasks import TASKS
from sdbatch.kinds import Choice, Text
from sdbatch.option_kinds import Names
from sdbatch.settings.setting_groups import MODEL, did_you_mean, of_the_run

__all__ = ["ModelSettings"]


*_OTHERS, _LAST = (task.name for task in TASKS)


def _unknown_task(name: str) -> str | None:
    known = [task.name for task in TASKS]
    return None if name in known else f"no such task{did_you_mean(name, known)}"


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The model of a run, the parts that replace its own, and the kind of rows."""

    model: Annotated[
        str,
        of_the_run(
            Text(),
            "`tiny` (built in, the default), a folder in diffusers' format or a single .safetensors checkpoint, "
            "local or s3://…, or a hub id",
            MODEL,
            metavar="NAME|DIR|FILE",
            kept_in="model",
        ),
    ] = "tiny"
    revision: Annotated[
        str | None,
        of_the_run(Text(), "branch, tag or commit of a model on the hub", MODEL, metavar="REV", kept_in="model"),
    ] = None
    variant: Annotated[
        str | None,
        of_the_run(Text(), "variant of the weight files, such as fp16", MODEL, metavar="NAME", kept_in="model"),
    ] = None
    tokenizer: Annotated[
        str | None,
        of_the_run(
            Text(),
            "folder with CLIP's vocabulary, for a single-file checkpoint; default: the hub's cache, or open_clip",
            MODEL,
            metavar="DIR",
            kept_in="model",
        ),
    ] = None
    prediction_type: Annotated[
        str | None,
        of_the_run(
            Choice(PREDICTION_TYPES),
            "what a single-file checkpoint predicts, if its file doesn't say; default: v for 2.x, else epsilon",
            MODEL,
            kept_in="model",
        ),
    ] = None
    vae: Annotated[
        str | None,
        of_the_run(
            Text(),
            "another VAE than the model's: a folder or a single .safetensors file, local, s3://…, or on the hub "
            "(org/name, org/name@revision/folder)",
            MODEL,
            metavar="NAME|DIR|FILE",
            kept_in="model",
        ),
    ] = None
    text_encoder: Annotated[
        Mapping[str, str],
        of_the_run(
            Names(alone="text_encoder"),
            "another CLIP text encoder than the model's: a folder, local, s3://…, or on the hub (org/name, "
            "org/name@revision/folder); with NAME= for another component, such as text_encoder_2; repeatable",
            MODEL,
            metavar="[NAME=]DIR",
            kept_in="model",
        ),
    ] = field(default_factory=dict)
    scheduler_config: Annotated[
        Mapping[str, str],
        of_the_run(
            Names(plain=True),
            "change an entry of the scheduler's configuration, such as timestep_spacing=trailing; repeatable",
            MODEL,
            metavar="KEY=VALUE",
            kept_in="model",
        ),
    ] = field(default_factory=dict)
    task: Annotated[
        str | None,
        of_the_run(
            Text(),
            f"kind of row: {', '.join(_OTHERS)} or {_LAST}; default: the model's own",
            MODEL,
            metavar="NAME",
            check=_unknown_task,
            before=TEXT_TO_IMAGE,
        ),
    ] = None
