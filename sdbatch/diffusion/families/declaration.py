"""The base class of family declarations: what is known of a family before a model is loaded. Imports no torch.

A family is a kind of model. Its declaration lists the diffusers pipelines that it runs, their components, and what
its rows may contain. Its engine half, a subclass of `families.family.Family`, runs the model; it is imported when an
engine is created.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sdbatch.diffusion.checkpoints.architectures import CLIP_TEXT, TOKENIZER
from sdbatch.diffusion.checkpoints.configs import Config, Kind, read_config
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.request import Request
from sdbatch.errors import ModelError
from sdbatch.fields import Field

if TYPE_CHECKING:
    from sdbatch.diffusion.samplers.coefficients import Coefficients

__all__ = [
    "GUIDED",
    "UNGUIDED",
    "Declaration",
    "Part",
    "network",
    "noising_scheduler",
    "picture_encoder",
    "processor",
    "scheduler",
    "text_encoder",
    "tokenizer",
]

CONFIG_FILES = {
    "scheduler": "scheduler_config.json",
    "noising_scheduler": "scheduler_config.json",
    "tokenizer": "tokenizer_config.json",
    "processor": "preprocessor_config.json",
}
# With fewer, deep-cache has nothing to skip.
MIN_BLOCKS = 2
# The common settings that rows of every family have, and those of rows with guidance by a second output of the
# denoiser.
UNGUIDED = frozenset({"prompt", "seed", "sampler", "steps", "height", "width"})
GUIDED = UNGUIDED | {"guidance_scale", "guidance_start", "guidance_stop"}


@dataclass(frozen=True)
class Part:
    """A component of a pipeline, in a folder of its own.

    Attributes:
        name: the name of its folder, and of its entry in model_index.json.
        sort: a diffusers network; a text or picture encoder, tokenizer or picture processor of transformers; the
            scheduler; or a scheduler that only adds noise to the model's input.
        classes: the class names that it may have; empty if any class of its library is allowed.
        kinds: the allowed values of its configuration, by key.
    """

    name: str
    sort: Literal[
        "network", "text_encoder", "picture_encoder", "tokenizer", "processor", "scheduler", "noising_scheduler"
    ]
    classes: tuple[str, ...]
    kinds: Mapping[str, Kind]

    @property
    def config(self) -> str:
        """The name of its configuration file."""
        return CONFIG_FILES.get(self.sort, "config.json")

    @property
    def has_weights(self) -> bool:
        return self.sort in ("network", "text_encoder", "picture_encoder")

    @property
    def of_transformers(self) -> bool:
        """Whether it is a network of transformers."""
        return self.sort in ("text_encoder", "picture_encoder")


def network(name: str, kinds: Mapping[str, Kind], *classes: str) -> Part:
    """A network of diffusers: a denoiser or an autoencoder."""
    return Part(name, "network", classes, kinds)


def text_encoder(name: str, kinds: Mapping[str, Kind], *classes: str) -> Part:
    return Part(name, "text_encoder", classes, kinds)


def tokenizer(name: str, *classes: str) -> Part:
    return Part(name, "tokenizer", classes, TOKENIZER)


def picture_encoder(name: str, kinds: Mapping[str, Kind], *classes: str) -> Part:
    return Part(name, "picture_encoder", classes, kinds)


def processor(name: str, kinds: Mapping[str, Kind], *classes: str) -> Part:
    """The processor that turns a picture into a picture encoder's input."""
    return Part(name, "processor", classes, kinds)


def noising_scheduler(name: str, kinds: Mapping[str, Kind]) -> Part:
    return Part(name, "noising_scheduler", ("DDPMScheduler",), kinds)


def scheduler(kinds: Mapping[str, Kind]) -> Part:
    """The checkpoint's own scheduler. Its class does not matter, because each sampler has its own scheduler class."""
    return Part("scheduler", "scheduler", (), kinds)


class Declaration(ABC):
    """One family. Everything here is known without weights and without torch.

    Attributes:
        name: its name in manifests and in `ModelInfo.family`.
        title: its usual name, for messages.
        pipelines: the diffusers classes that it runs, as in `_class_name` of model_index.json.
        parts: the components that these pipelines need.
        takes_embeddings: whether its text encoders and tokenizers can be given tokens of textual inversion.
        index_kinds: allowed values of the other keys of model_index.json that matter.
        engine: "module:Class" of the engine half.
        samplers: the names, from `sdbatch.diffusion.samplers.catalogue`, of the samplers that it supports.
        defaults: the default sampler, steps and guidance_scale of a row, and the dtype on CUDA.
        uses: the names of the common row settings that it supports.
        fields: the settings that only its rows have; they are passed in `Request.extra`.
        texts: the names of those fields that are prompts, which differ from row to row.
        block_counts: the keys of its transformer's configuration that count blocks; empty if deep-cache can't skip any.
        releases_text_encoders: whether its text encoders can leave the device while the denoiser runs.
    """

    name: str
    title: str
    pipelines: tuple[str, ...]
    parts: tuple[Part, ...]
    takes_embeddings: bool = False
    index_kinds: Mapping[str, Kind] = {}
    engine: str
    samplers: tuple[str, ...]
    defaults: Mapping[str, object]
    uses: frozenset[str] = GUIDED | {"negative_prompt"}
    fields: Sequence[Field] = ()
    texts: tuple[str, ...] = ()
    block_counts: tuple[str, ...] = ()
    releases_text_encoders: bool = False

    @property
    def weighted(self) -> list[str]:
        """The names of the parts that have weights."""
        return [part.name for part in self.parts if part.has_weights]

    @property
    def clip_encoders(self) -> list[Part]:
        """The parts that are CLIP text encoders."""
        return [part for part in self.parts if part.sort == "text_encoder" and part.kinds is CLIP_TEXT]

    @abstractmethod
    def inspect(self, index: Config, configs: Mapping[str, Config]) -> ModelInfo:
        """The facts about a model that its configurations give; the caller fills in name, folder and weights.

        Args:
            index: model_index.json.
            configs: by part name; their values have been checked against the part's `kinds`.

        Raises:
            ModelError: the family does not run this model; the message names the file and the reason.
        """

    def model_info(self, scheduler: Config, **facts: Any) -> ModelInfo:
        """The facts about a model: those that every model of the family has, and its own, which take precedence.

        Args:
            scheduler: the checkpoint's own scheduler configuration.
            facts: attributes of `ModelInfo`.
        """
        common = {
            "family": self.name,
            "title": self.title,
            "num_train_timesteps": scheduler.get("num_train_timesteps", 1000),
            "samplers": self.samplers,
            "uses": self.uses,
            "defaults": self.defaults,
        }
        return ModelInfo(**{**common, **facts})

    def forced_scheduler_config(self, index: Config) -> Mapping[str, object]:
        """The entries of the checkpoint's scheduler configuration that the pipeline overrides."""
        return {}

    def schedule(self, request: Request, info: ModelInfo, config: Mapping[str, object]) -> Mapping[str, object]:
        """The arguments that the pipeline passes to `set_timesteps` besides the steps: sigmas (a tuple), mu, ….

        Args:
            config: the checkpoint's own scheduler configuration.
        """
        return {}

    def fold(self, coefficients: Coefficients) -> Coefficients:
        """A sampler's coefficients with the pipeline's linear steps between scheduler and denoiser."""
        return coefficients

    def guidance(self, request: Request, info: ModelInfo) -> float:
        """g in u + g·(c − u), where c and u are the outputs with and without the prompt; 1 for a row without u."""
        return float(request.guidance_scale) if request.guidance_scale > 1 and not info.guidance_embedded else 1.0

    def refusal(self, request: Request, info: ModelInfo) -> str | None:
        """The reason why this family can't run the row, beyond the common checks; None if it can. Reads no prompt."""
        return None

    def refused_texts(self, request: Request) -> str | None:
        """The reason why this family can't read the row's prompts, found without a tokenizer; None if there is none."""
        return None

    def check_release(self) -> None:
        """Raises `ModelError` if its text encoders can't leave the device."""
        if not self.releases_text_encoders:
            raise ModelError(
                f"release-text-encoders does not work with {self.title}, whose text encoders are small; "
                "leave it out, or use auto or off"
            )

    def check_deep_cache(self, info: ModelInfo) -> None:
        """Raises `ModelError` if deep-cache can't be used with this model."""
        if not self.block_counts:
            raise ModelError(f"deep-cache does not work with {self.title}: it knows no layers that can be skipped")
        config = read_config(info.folder / "transformer" / "config.json")
        if sum(config.get(key, MIN_BLOCKS) for key in self.block_counts) < MIN_BLOCKS:
            raise ModelError(f"{config.source}: deep-cache needs a transformer of at least {MIN_BLOCKS} blocks")
