"""All settings of a run in one frozen dataclass, validated once."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from sdbatch.bounds import Number, Whole
from sdbatch.diffusion.checkpoints.single_file_shapes import PREDICTION_TYPES
from sdbatch.diffusion.declarations import own_fields
from sdbatch.diffusion.request import ROW_FIELDS, TEXT_TO_IMAGE
from sdbatch.diffusion.tasks import TASKS
from sdbatch.errors import UnknownOptionError, UsageError
from sdbatch.fields import Field, FrozenMapping, declared_in, with_plain_signature
from sdbatch.kinds import Choice, Flag, Names, Options, Pair, Text, Words
from sdbatch.scoring.attempts import ON_EXHAUSTED, ON_NSFW

__all__ = [
    "DEVICES",
    "DTYPES",
    "IMAGE_FORMATS",
    "LAYOUTS",
    "NUMBERS",
    "QUANTIZATIONS",
    "ROW_OPTIONS",
    "RUN_FIELDS",
    "SWITCHES",
    "RunSettings",
    "all_fields",
    "did_you_mean",
]

LAYOUTS = ("files", "parquet", "webdataset")
IMAGE_FORMATS = ("png", "jpeg", "webp")
DTYPES = ("auto", "fp16", "bf16", "fp32")
DEVICES = ("auto", "cpu", "cuda")
SWITCHES = ("auto", "on", "off")
QUANTIZATIONS = ("none", "int8")
MAX_IMAGES_PER_SHARD = 10_000
SECONDS = Number(1, 1_000_000_000)

MODEL, APPROXIMATIONS, TABLE = "model", "approximations, for all rows", "table"
ADAPTERS = "adapters"
OUTPUT, SCORES, WORKERS, MONITORING = "output", "scores and retries", "workers", "monitoring"


def _of_the_run(kind: Any, help: str, group: str, **rest: Any) -> Field:
    return Field(kind=kind, help=help, group=group, per_row=False, **rest)


def _unimportant(kind: Any, help: str, group: str, **rest: Any) -> Field:
    """A setting that cannot change a picture."""
    return _of_the_run(kind, help, group, changes_picture=False, **rest)


def _unknown_task(name: str) -> str | None:
    known = [task.name for task in TASKS]
    return None if name in known else f"no such task{did_you_mean(name, known)}"


@with_plain_signature
@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The settings of one run. Attribute names are the command line's options, with underscores.

    The second block holds defaults for rows; None means not given, and is resolved by the defaults of the model's
    family when the run is planned. `extra` holds defaults for settings that only one task or one family has.

    Raises:
        UsageError: an invalid value; the message names the option.
    """

    model: Annotated[
        str,
        _of_the_run(
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
        _of_the_run(Text(), "branch, tag or commit of a model on the hub", MODEL, metavar="REV", kept_in="model"),
    ] = None
    variant: Annotated[
        str | None,
        _of_the_run(Text(), "variant of the weight files, such as fp16", MODEL, metavar="NAME", kept_in="model"),
    ] = None
    tokenizer: Annotated[
        str | None,
        _of_the_run(
            Text(),
            "folder with CLIP's vocabulary, for a single-file checkpoint; default: the hub's cache, or open_clip",
            MODEL,
            metavar="DIR",
            kept_in="model",
        ),
    ] = None
    prediction_type: Annotated[
        str | None,
        _of_the_run(
            Choice(PREDICTION_TYPES),
            "what a single-file checkpoint predicts, if its file doesn't say; default: v for 2.x, else epsilon",
            MODEL,
            kept_in="model",
        ),
    ] = None
    vae: Annotated[
        str | None,
        _of_the_run(
            Text(),
            "another VAE than the model's: a folder or a single .safetensors file, local or s3://…, or a hub id",
            MODEL,
            metavar="NAME|DIR|FILE",
            kept_in="model",
        ),
    ] = None
    task: Annotated[
        str | None,
        _of_the_run(
            Text(),
            "kind of row: text-to-image, image-to-image, inpainting, depth-to-image, upscaling, "
            "image-variation or instruct-edit; default: the model's own",
            MODEL,
            metavar="NAME",
            check=_unknown_task,
            before=TEXT_TO_IMAGE,
        ),
    ] = None

    sampler: str | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    guidance_rescale: float | None = None
    guidance_start: float | None = None
    guidance_stop: float | None = None
    negative_prompt: str | None = None
    height: int | None = None
    width: int | None = None
    seed: int | None = None
    extra: Mapping[str, Any] = FrozenMapping()

    images_per_prompt: Annotated[
        int, _of_the_run(Whole(1, MAX_IMAGES_PER_SHARD), "image i uses seed + i", OUTPUT, metavar="N")
    ] = 1
    layout: Annotated[str, _of_the_run(Choice(LAYOUTS), "", OUTPUT)] = "files"
    image_format: Annotated[str, _of_the_run(Choice(IMAGE_FORMATS), "", OUTPUT)] = "png"
    image_quality: Annotated[
        int | None,
        _of_the_run(Whole(1, 100), "1 to 100; default: 95 for JPEG, lossless for WebP", OUTPUT, metavar="Q"),
    ] = None
    watermark: Annotated[
        str | None,
        _of_the_run(
            Text(),
            "put TEXT into the pictures as an invisible watermark (dwtDct), as Stable Diffusion's repositories do with "
            "StableDiffusionV1; sdxl is the one of diffusers' SDXL pipelines",
            OUTPUT,
            metavar="TEXT",
            before=None,
        ),
    ] = None
    column: Annotated[
        Mapping[str, str],
        _of_the_run(
            Names(),
            "read the setting NAME (such as prompt) from COLUMN; "
            "NAME= carries a column of that name instead of using it; repeatable",
            TABLE,
            metavar="NAME=COLUMN",
        ),
    ] = field(default_factory=dict)
    rename_input: Annotated[
        bool,
        _of_the_run(Flag(), "carry columns that have names of the output's columns as input_NAME", TABLE, before=False),
    ] = False
    prompt_per_file: Annotated[
        bool,
        _of_the_run(
            Flag(), "each .txt file of PROMPTS is one prompt, and its name is carried as id", TABLE, before=False
        ),
    ] = False
    part: Annotated[
        tuple[int, int],
        _unimportant(
            Pair("/", "I/N with 1 ≤ I ≤ N", "1/4"),
            "make only the I-th of N parts of the shards, for N jobs on one OUT",
            TABLE,
            metavar="I/N",
        ),
    ] = (1, 1)
    shard_size: Annotated[
        int | None,
        _unimportant(
            Whole(1, MAX_IMAGES_PER_SHARD), "images per shard; default: chosen by the table's size", OUTPUT, metavar="N"
        ),
    ] = None

    embedding: Annotated[
        Mapping[str, str],
        _of_the_run(
            Names(),
            "file of textual inversion (.safetensors) that prompts name by TOKEN; repeatable",
            ADAPTERS,
            metavar="TOKEN=PATH",
            kept_in="model",
        ),
    ] = field(default_factory=dict)
    lora_dir: Annotated[
        str | None,
        _of_the_run(
            Text(),
            "folder of LoRA files, local or s3://…: base of relative paths, and of <lora:name:0.8> in prompts",
            ADAPTERS,
            metavar="DIR",
            before=None,
        ),
    ] = None

    merge_lora: Annotated[
        bool,
        _of_the_run(
            Flag(),
            "merge the LoRAs of --lora into the model's weights: faster; slightly different in half precision",
            ADAPTERS,
            before=False,
        ),
    ] = False

    scorer: Annotated[
        tuple[str, ...],
        _of_the_run(
            Words(),
            "score each finished picture with: clip, aesthetic, nsfw, phash, sharpness, entropy, obedience, "
            "or your own module:function; repeatable",
            SCORES,
            metavar="NAME",
            before=(),
        ),
    ] = ()
    scorer_model: Annotated[
        Mapping[str, str],
        _unimportant(Names(), "folder or file of a scorer's weights; repeatable", SCORES, metavar="NAME=PATH"),
    ] = field(default_factory=dict)
    keep: Annotated[
        str | None,
        _of_the_run(
            Text(),
            "keep a picture only if this condition holds, such as 'clip >= 0.27 and not nsfw'",
            SCORES,
            metavar="CONDITION",
            before=None,
        ),
    ] = None
    attempts: Annotated[
        int,
        _of_the_run(Whole(1, 1_000), "most pictures to make per row until one is kept", SCORES, metavar="K", before=1),
    ] = 1
    best: Annotated[
        str | None,
        _of_the_run(
            Text(),
            "score that selects the best attempt of a row if none is kept; default: the first in --keep",
            SCORES,
            metavar="SCORE",
            before=None,
        ),
    ] = None
    on_exhausted: Annotated[
        str,
        _of_the_run(
            Choice(ON_EXHAUSTED),
            "if no picture of a row is kept: use the best, or fail",
            SCORES,
            before=ON_EXHAUSTED[0],
        ),
    ] = ON_EXHAUSTED[0]
    on_nsfw: Annotated[
        str,
        _of_the_run(Choice(ON_NSFW), "what to do with a flagged picture", SCORES, before=ON_NSFW[0]),
    ] = ON_NSFW[0]

    actors: Annotated[
        tuple[int, int] | None,
        _unimportant(
            Pair(":", "N or MIN:MAX", "4 or 1:16", single=True),
            "default: as many as the cluster has room for",
            WORKERS,
            metavar="N|MIN:MAX",
        ),
    ] = None
    gpus_per_actor: Annotated[
        float | None, _unimportant(Number(0, 1_000), "default: 1 on cuda, else 0", WORKERS, metavar="F")
    ] = None
    cpus_per_actor: Annotated[
        float | None,
        _of_the_run(
            Number(0.001, 100_000),
            "default: 1; on a CPU also the number of threads of its model",
            WORKERS,
            metavar="N",
            kept_in="engine",
        ),
    ] = None
    lanes: Annotated[
        int | None,
        _of_the_run(
            Whole(2, 65_536),
            "UNet batch size; must be equal for pictures to be reproducible",
            WORKERS,
            metavar="L",
            kept_in="engine",
        ),
    ] = None
    dtype: Annotated[
        str, _of_the_run(Choice(DTYPES), "default auto: fp16 on a GPU, fp32 on a CPU", WORKERS, kept_in="engine")
    ] = "auto"
    device: Annotated[
        str, _of_the_run(Choice(DEVICES), "default auto: a GPU if Ray has one", WORKERS, kept_in="engine")
    ] = "auto"
    compile: Annotated[
        str, _of_the_run(Choice(SWITCHES), "torch.compile; default auto: on a GPU", WORKERS, kept_in="engine")
    ] = "auto"
    same_device: Annotated[bool, _unimportant(Flag(), "refuse workers on two kinds of GPU", WORKERS)] = False
    quantization: Annotated[
        str | None,
        _of_the_run(
            Choice(QUANTIZATIONS),
            "int8: weights of the UNet in eight bits, for less memory; default none",
            APPROXIMATIONS,
            kept_in="engine",
            before="none",
        ),
    ] = None
    deep_cache: Annotated[
        int | None,
        _of_the_run(
            Whole(1, 1_000_000),
            "inner layers of the UNet on every N-th call only (DeepCache): faster; default 1",
            APPROXIMATIONS,
            metavar="N",
            kept_in="engine",
            before=1,
        ),
    ] = None

    address: Annotated[
        str | None,
        _unimportant(
            Text(), "an existing Ray cluster; default: RAY_ADDRESS, else a local one", WORKERS, metavar="ADDR"
        ),
    ] = None
    start_timeout: Annotated[
        float, _unimportant(SECONDS, "seconds without a worker after which the run gives up", MONITORING, metavar="X")
    ] = 1800.0
    stall_timeout: Annotated[
        float,
        _unimportant(SECONDS, "seconds without progress after which a worker is restarted", MONITORING, metavar="X"),
    ] = 1200.0
    price_per_hour: Annotated[
        float | None,
        _unimportant(Number(0, 1_000_000_000), "price of one worker, to report costs", MONITORING, metavar="X"),
    ] = None
    overwrite: Annotated[
        bool,
        _unimportant(Flag(), "replace the output of earlier runs in OUT; without it a second run resumes", OUTPUT),
    ] = False
    allow_image_urls: Annotated[
        bool,
        _unimportant(Flag(), "let cells name pictures by web URLs and absolute paths", TABLE),
    ] = False
    storage_options: Annotated[
        Mapping[str, Any],
        _unimportant(Options(), "fsspec options for PROMPTS and OUT, a JSON object", OUTPUT, metavar="JSON"),
    ] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for setting in RUN_FIELDS:
            value = getattr(self, setting.name)
            if value is not None or setting.default is not None:
                object.__setattr__(self, setting.name, setting.checked(value))
        for setting in ROW_OPTIONS:
            value = getattr(self, setting.name)
            if value is not None:
                object.__setattr__(self, setting.name, setting.checked(value))
        object.__setattr__(self, "extra", _checked_extra(self.extra))
        start, stop = (self.value(name) for name in ("guidance_start", "guidance_stop"))
        if not start < stop:
            interval = f"--guidance-start {start} --guidance-stop {stop}"
            raise UsageError(f"{interval}: expected two shares, 0 ≤ start < stop ≤ 1")
        if self.lanes is not None and self.lanes % 2:
            raise UsageError(f"--lanes {self.lanes}: must be even, since a row with guidance takes two")
        gpus = self.gpus_per_actor
        if gpus is not None and gpus > 1 and not gpus.is_integer():
            raise UsageError(f"--gpus-per-actor {gpus}: more than one GPU must be a whole number of them")

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> RunSettings:
        """Make settings from a mapping (keyword arguments, a config file).

        Raises:
            UnknownOptionError: an unknown name.
            UsageError: an invalid value.
        """
        attributes = {attribute.name for attribute in dataclasses.fields(cls)}
        extra = dict(options.get("extra") or {})
        extra |= {setting.name: options[setting.name] for setting in own_fields() if setting.name in options}
        if unknown := sorted(set(options) - attributes - set(extra)):
            known = sorted(attributes | {setting.name for setting in own_fields()})
            raise UnknownOptionError(f"unknown option {unknown[0]!r}{did_you_mean(unknown[0], known)}")
        given = {name: value for name, value in options.items() if name in attributes}
        return cls(**given | {"extra": extra})

    def given(self, name: str) -> Any:
        """The user's value of a row setting; None if not given."""
        return getattr(self, name) if name in _ROW_NAMES else self.extra.get(name)

    def value(self, name: str) -> Any:
        """The value of a setting that all rows have; its default if not given."""
        given = getattr(self, name)
        return _DEFAULTS[name] if given is None else given


RUN_FIELDS = declared_in(RunSettings)
"""The settings that are the same for all rows of a run."""
ROW_OPTIONS = tuple(setting for setting in ROW_FIELDS if setting.name != "prompt")
"""The settings of all rows for which a run can set a default."""
_ROW_NAMES = frozenset(setting.name for setting in ROW_OPTIONS)
_DEFAULTS = {setting.name: setting.default for setting in ROW_OPTIONS}

NUMBERS: Mapping[str, Whole | Number] = {
    setting.name: setting.kind for setting in (*ROW_OPTIONS, *RUN_FIELDS) if isinstance(setting.kind, Whole | Number)
}
"""The bounds of each numeric setting."""


def all_fields() -> tuple[Field, ...]:
    """All settings with an option: of rows, of the run, of single tasks and families.

    Raises:
        ValueError: a task or a family declares a name that is already used.
    """
    own = own_fields()
    taken = {attribute.name for attribute in dataclasses.fields(RunSettings)} | {"prompt", "prompts", "out"}
    if clash := next((setting.name for setting in own if setting.name in taken), None):
        raise ValueError(f"a task or a family declares {clash!r}, which is a setting of all runs")
    return (*ROW_OPTIONS, *own, *RUN_FIELDS)


def did_you_mean(name: str, known: list[str]) -> str:
    """The end of a message about an unknown name: the closest known name, or all of them."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are: {', '.join(known)}"


def _checked_extra(extra: Any) -> FrozenMapping:
    known = {setting.name: setting for setting in own_fields()}
    for name in Options().check("extra", extra):
        if name not in known:
            raise UnknownOptionError(f"unknown option {name!r}{did_you_mean(name, sorted(known))}")
    given = {name: value for name, value in extra.items() if value is not None}
    return FrozenMapping({name: known[name].checked(value) for name, value in given.items()})
