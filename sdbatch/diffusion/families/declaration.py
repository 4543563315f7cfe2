"""What a family says of itself before a model is loaded. Imports no torch.

A family is a kind of model. Its declaration says which pipelines of diffusers it stands for, of which parts they are
made, and what a row of it may be. Its engine half, a subclass of `families.base.Family`, is imported when an engine
is made, and runs the model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sdbatch.diffusion.checkpoints.architectures import TOKENIZER
from sdbatch.diffusion.checkpoints.configs import Config, Kind
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.request import Request
from sdbatch.errors import ModelError
from sdbatch.fields import Field

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
# The settings of rows without guidance by a second output of the denoiser, and of those with it.
UNGUIDED = frozenset({"prompt", "seed", "sampler", "steps", "height", "width"})
GUIDED = UNGUIDED | {"guidance_scale", "guidance_start", "guidance_stop"}


@dataclass(frozen=True)
class Part:
    """A component of a pipeline, in a folder of its own.

    Attributes:
        name: of its folder, and of its entry in model_index.json.
        sort: a network of diffusers; of transformers an encoder of texts or of pictures, a tokenizer or a picture
            processor; the scheduler; or one that only adds noise to what the model is given.
        classes: those that it may be of; empty for any that its library has.
        kinds: what its configuration may hold, key by key.
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
    """What makes a picture encoder's input of a picture."""
    return Part(name, "processor", classes, kinds)


def noising_scheduler(name: str, kinds: Mapping[str, Kind]) -> Part:
    return Part(name, "noising_scheduler", ("DDPMScheduler",), kinds)


def scheduler(kinds: Mapping[str, Kind]) -> Part:
    """The checkpoint's own scheduler. Its class decides nothing, since a sampler brings its own."""
    return Part("scheduler", "scheduler", (), kinds)


class Declaration(ABC):
    """One family. Everything here is known without weights and without torch.

    Attributes:
        name: what manifests and `ModelInfo.family` call it.
        title: what people call it.
        pipelines: the classes of diffusers whose pictures it makes, as `_class_name` of model_index.json has them.
        parts: the components that these pipelines need.
        takes_embeddings: whether its text encoders and tokenizers can be given tokens of textual inversion.
        index_kinds: keys of model_index.json that matter, besides its parts.
        engine: "module:Class" of the engine half.
        samplers: names from `sdbatch.diffusion.samplers.catalogue` that go with it.
        defaults: of a row's sampler, steps and guidance_scale, and the dtype on CUDA.
        uses: the names of the fields of all rows that it understands.
        fields: settings that only its rows have; they come in `Request.extra`.
        texts: those of them that are prompts, which differ from row to row.
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

    @property
    def weighted(self) -> list[str]:
        """The names of the parts that have weights."""
        return [part.name for part in self.parts if part.has_weights]

    @abstractmethod
    def inspect(self, index: Config, configs: Mapping[str, Config]) -> ModelInfo:
        """What the configurations say of a model; name, folder and weights are left to the caller.

        Args:
            index: model_index.json.
            configs: by the name of the part; their keys have been checked against the part's `kinds`.

        Raises:
            ModelError: the family does not run such a model; names the file and says why.
        """

    def forced_scheduler_config(self, index: Config) -> Mapping[str, object]:
        """What the pipeline sets over the checkpoint's own scheduler configuration."""
        return {}

    def schedule(self, request: Request, info: ModelInfo, config: Mapping[str, object]) -> Mapping[str, object]:
        """What the pipeline gives `set_timesteps` besides the count of steps: sigmas (a tuple), mu.

        Args:
            config: the checkpoint's own scheduler configuration.
        """
        return {}

    def guidance(self, request: Request, info: ModelInfo) -> float:
        """g of u + g·(c − u), c and u the outputs with the prompt and without it; 1 for a row that has no u."""
        return float(request.guidance_scale) if request.guidance_scale > 1 and not info.guidance_embedded else 1.0

    def refusal(self, request: Request, info: ModelInfo) -> str | None:
        """Why this family can't make such a row, beyond what holds for all; None if it can. Reads no prompt."""
        return None

    def refused_texts(self, request: Request) -> str | None:
        """Why this family can't read the row's prompts, as far as that is known without a tokenizer; None if it can."""
        return None

    def check_deep_cache(self, info: ModelInfo) -> None:
        """Raises `ModelError` if DeepCache can't be used with this model."""
        raise ModelError(f"deep-cache does not go with {self.title}: it needs a UNet")
