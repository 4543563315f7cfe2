"""The model card: how the weights were trained, and their scores."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from training.tiny.judge import Scores, describe

__all__ = ["Record", "write_card"]


@dataclass
class Record:
    """The card's content: each stage's figures by name, and the scores by evaluation."""

    command: str
    machine: str
    remark: str
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    scores: dict[str, Scores] = field(default_factory=dict)


def write_card(folder: Path, record: Record) -> None:
    """Writes README.md into the model's folder."""
    stages = "\n".join(
        f"| {name} | {figures['steps']:,.0f} | {figures['examples']:,.0f} | {figures['minutes']:.0f} |"
        for name, figures in record.stages.items()
    )
    scores = "\n".join(f"- {asked}: {describe(result)}" for asked, result in record.scores.items())
    card = CARD.format(
        command=record.command,
        commit=commit(),
        machine=record.machine,
        remark=record.remark,
        stages=stages,
        scores=scores,
    )
    (folder / "README.md").write_text(card.replace("\n\n\n", "\n"))


def commit() -> str:
    """The commit of the training code, if it is in a repository."""
    asked = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or "unknown"


CARD = """---
license: mit
library_name: diffusers
pipeline_tag: text-to-image
---
# tiny

A small text-to-image latent diffusion model in diffusers' layout. It draws one or two flat shapes on a plain
ground, at 64 × 64 pixels, so that the pipeline around it can be tried without a download or a GPU.

    diffusers.StableDiffusionPipeline.from_pretrained(folder)("a big red circle on white").images[0]

**Words it knows.** circle, square, triangle, cross; red, orange, yellow, green, blue, purple; on white,
black, gray, pink; small, big; left of, right of, above, below. It ignores other words as well as it can.

**Data.** Drawn by `sdbatch/tiny/scenes.py` as the training goes, with captions in several wordings. A tenth
of all combinations of shapes, colours, places and ground, chosen by a hash, was never trained on.

**Training.** With

    {command}

at commit {commit}, on {machine}: first the autoencoder, then the text encoder on captions alone, then text
encoder and UNet together with DDPM's noise-prediction loss, and last the decoder once more, on rougher
latents. Of the captions, 10% are dropped and 12% wrong, so that guidance works and matters; below timestep 200 all are
wrong, so that it leaves alone what can be seen already.

{remark}

| stage | steps | examples | minutes |
|---|---|---|---|
{stages}

**Scores.** Held-out scenes, read back from the pixels by `sdbatch/tiny/reader.py`. Of two things both must
be right; for the relation, in their places too.

{scores}
"""
