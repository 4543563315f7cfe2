"""The text by which image viewers show how a picture was made, in the form that stable-diffusion-webui set.

prompt
Negative prompt: …
Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, Model hash: …, Model: …
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sdbatch.diffusion.samplers import SAMPLERS

__all__ = ["fitted", "parameters"]


def parameters(row: Mapping[str, Any]) -> str:
    """The text for a row of the metadata; needs its settings, `model` and `model_hash`."""
    return _text(row["prompt"], row["negative_prompt"], row)


def fitted(row: Mapping[str, Any], units: int) -> str:
    """The same in at most `units` UTF-16 units: the prompt is cut short, then the negative prompt."""
    prompt, negative = row["prompt"], row["negative_prompt"]
    excess = _units(_text(prompt, negative, row)) - units
    if excess > 0:
        prompt = _cut(prompt, excess)
        excess = _units(_text(prompt, negative, row)) - units
    if excess > 0:
        negative = _cut(negative, excess)
    return _text(prompt, negative, row)


def _text(prompt: str, negative: str, row: Mapping[str, Any]) -> str:
    settings = {
        "Steps": row["steps"],
        "Sampler": SAMPLERS[row["sampler"]].label if row["sampler"] in SAMPLERS else row["sampler"],
        "CFG scale": _plain(row["guidance_scale"]),
        "Seed": row["seed"],
        "Size": f"{row['width']}x{row['height']}",
        "Model hash": row["model_hash"],
        "Model": row["model"],
    }
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
