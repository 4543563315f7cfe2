"""The findings of the stages of `benchmarks/gpu.py`: stored as JSON, reported as a section of RESULTS.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Findings", "markdown"]

NO_CARD = "No part of sdbatch has run on a GPU so far: no machine with one was there."


class Findings:
    """The findings of one stage, written to `OUT/STAGE.json` after each."""

    def __init__(self, stage: str, out: Path, smoke: bool):
        self._path = out / f"{stage}.json"
        self._content: dict[str, Any] = {"stage": stage, "smoke": smoke, "findings": []}

    def add(self, name: str, value: Any, detail: Any = None) -> None:
        """Store and print a finding; `detail` is only in the JSON."""
        self._content["findings"].append({"name": name, "value": value, "detail": detail})
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self._content, indent=1, default=str), encoding="utf-8")
        print(f"{self._content['stage']}: {name}: {_text(value)}", flush=True)


def markdown(out: Path) -> str:
    """The section of RESULTS.md, from the JSON files of a folder; it says so if there was no GPU."""
    stages = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*.json"))]
    if not stages or any(stage["smoke"] for stage in stages):
        lines = ["## Never run on a GPU", "", NO_CARD]
        if stages:
            lines[-1] += " What follows is the smoke mode of `benchmarks/gpu.py` on a CPU: its figures say nothing."
    else:
        lines = [f"## On a GPU: {_card(stages)}"]
    for stage in stages:
        lines += ["", f"`python benchmarks/gpu.py {stage['stage']}`:", "", "| what | found |", "|---|---|"]
        lines += [f"| {f['name']} | {_text(f['value'])} |" for f in stage["findings"] if f["value"] is not None]
    return "\n".join(lines)


def _card(stages: Sequence[Mapping[str, Any]]) -> str:
    engines = [f["value"] for stage in stages for f in stage["findings"] if f["name"] == "engine"]
    return ", ".join(dict.fromkeys(str(engine["device_name"]) for engine in engines)) or "unknown"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items() if inner not in (None, [], {}))
    return str(value)
