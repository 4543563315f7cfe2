"""The generation parameters embedded in image files, in stable-diffusion-webui's format.

prompt
Negative prompt: …
Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, Model hash: …, Model: …
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sdbatch.diffusion.request import ROW_FIELDS
from sdbatch.fields import Field
from sdbatch.weighted_files import WeightedFile, WeightedFiles, short_number

__all__ = ["fitted", "parameters"]

FIRST = ("steps", "sampler", "guidance_scale", "seed")  # in stable-diffusion-webui's order


def parameters(row: Mapping[str, Any], fields: Sequence[Field] = ROW_FIELDS) -> str:
    """The text for a row of the metadata; needs its settings, `model` and `model_hash`.

    Args:
        fields: the settings with a column in the metadata.
    """
    return _text(_prompt(row), row["negative_prompt"], _settings(row, fields))


def fitted(row: Mapping[str, Any], units: int, fields: Sequence[Field] = ROW_FIELDS) -> str:
    """The text of `parameters` in at most `units` UTF-16 units: the prompt is shortened, then the negative prompt."""
    prompt, negative, settings = _prompt(row), row["negative_prompt"], _settings(row, fields)
    excess = _units(_text(prompt, negative, settings)) - units
    if excess > 0:
        prompt = _cut(prompt, excess)
        excess = _units(_text(prompt, negative, settings)) - units
    if excess > 0:
        negative = _cut(negative, excess)
    return _text(prompt, negative, settings)


def _settings(row: Mapping[str, Any], fields: Sequence[Field]) -> dict[str, Any]:
    named = {field.name: field for field in fields if field.parameter is not None}
    own = [name for name in named if name not in FIRST]
    size = {"Size": f"{row['width']}x{row['height']}"}
    model = {"Model hash": row["model_hash"], "Model": row["model"]}
    loras = {"Lora hashes": _lora_hashes(row)}
    return _entries(row, named, FIRST) | size | _entries(row, named, own) | model | loras


def _prompt(row: Mapping[str, Any]) -> str:
    """The prompt followed by its LoRAs, as in stable-diffusion-webui."""
    return " ".join([row["prompt"], *(_tag(file) for file in _loras(row))])


def _tag(file: WeightedFile) -> str:
    weights = [file.weight] if file.weight == file.te_weight else [file.te_weight, file.weight]
    return f"<lora:{':'.join([_stem(file), *map(short_number, weights)])}>"


def _lora_hashes(row: Mapping[str, Any]) -> str | None:
    """The first ten digits of each file's sha256, which CivitAI calls AutoV2."""
    if not row.get("lora_sha256"):
        return None
    pairs = zip(_loras(row), row["lora_sha256"].split(";"), strict=True)
    return ", ".join(f"{_stem(file)}: {digest[:10]}" for file, digest in pairs)


def _loras(row: Mapping[str, Any]) -> tuple[WeightedFile, ...]:
    return WeightedFiles().files("lora", row["lora"]) if row.get("lora") else ()


def _stem(file: WeightedFile) -> str:
    return file.path.rpartition("/")[2].removesuffix(".safetensors")


def _entries(row: Mapping[str, Any], named: Mapping[str, Field], names: Sequence[str]) -> dict[str, Any]:
    return {str(named[name].parameter): _shown(named[name], row[named[name].recorded_as]) for name in names}


def _shown(field: Field, value: Any) -> Any:
    if field.shown is not None and value is not None:
        return field.shown(value)
    return _plain(value) if isinstance(value, float) else value


def _text(prompt: str, negative: str, settings: Mapping[str, Any]) -> str:
    lines = [prompt]
    if negative:
        lines.append(f"Negative prompt: {negative}")
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in settings.items() if value is not None))
    return "\n".join(lines)


def _plain(number: float) -> str:
    return repr(number).removesuffix(".0")


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ",:\n") else text


def _units(text: str) -> int:
    return len(text) + sum(character > "\uffff" for character in text)


def _cut(text: str, units: int) -> str:
    end = len(text)
    while end and units > 0:
        end -= 1
        units -= 2 if text[end] > "\uffff" else 1
    return text[:end]
