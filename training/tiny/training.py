"""Common parts of the training's stages: reproducible draws, checkpoints, schedules, fast arithmetic."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sdbatch.tiny.scenes import Scene, held_out, scenes

__all__ = ["Run", "fast_arithmetic", "learning_rate", "seeded", "training_scenes"]

SHOW_EVERY_S = 20
SAVE_EVERY_S = 120


def training_scenes(count: int) -> list[Scene]:
    """The scenes of `count` things that may be trained on: all but the held-out tenth."""
    return [scene for scene in scenes(count) if not held_out(scene)]


def seeded(seed: int, stage: str, step: int) -> tuple[random.Random, torch.Generator]:
    """The random numbers of one training step; a resumed run draws the same ones."""
    rng = random.Random(f"{seed}/{stage}/{step}")
    return rng, torch.Generator().manual_seed(rng.getrandbits(62))


def learning_rate(step: int, steps: int, peak: float, warm_up: int = 200, decay: float = 0.3) -> float:
    """Up over `warm_up` steps, level, then down to almost nothing over the last `decay` of the training."""
    rising = min(1.0, (step + 1) / warm_up)
    falling = min(1.0, (steps - step) / (decay * steps))
    return peak * rising * max(falling, 0.01)


class _GroupNorm(nn.GroupNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.group_norm(x.float(), self.num_groups, self.weight, self.bias, self.eps)


@contextlib.contextmanager
def fast_arithmetic(*models: nn.Module) -> Iterator[None]:
    """bfloat16 autocast, except for two operations whose bfloat16 backward is slow on CPUs (1.4x, 1.5x).

    Group norm runs in float32, attention as matrix products. Afterwards the models are restored.
    """
    norms = [module for model in models for module in model.modules() if type(module) is nn.GroupNorm]
    for norm in norms:
        norm.__class__ = _GroupNorm
    try:
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for norm in norms:
            norm.__class__ = nn.GroupNorm


class Run:
    """One stage of the training: its model, optimizer, averaged weights, checkpoint and progress line.

    Iteration yields (step, rng, generator) for every remaining step; each requires one call of `update`. Two
    runs with the same seed draw the same; a run killed at any time resumes from its last checkpoint.
    """

    def __init__(
        self, stage: str, model: nn.Module, work: Path, steps: int, batch: int, seed: int, rate: float
    ) -> None:
        self.stage, self.model, self.steps, self.batch, self.seed, self.rate = (
            stage,
            model,
            steps,
            batch,
            seed,
            rate,
        )
        self.path = work / f"{stage}.pt"
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.step, self.seconds = 0, 0.0
        self.resumed = self.saved = self.shown = time.monotonic()
        self.figures: list[dict[str, float]] = []
        if self.path.exists():
            self.load()

    def __iter__(self) -> Iterator[tuple[int, random.Random, torch.Generator]]:
        while self.step < self.steps:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.step, self.steps, self.rate)
            yield self.step, *seeded(self.seed, self.stage, self.step)

    def update(self, loss: torch.Tensor, figures: dict[str, float]) -> None:
        """One optimizer step on the loss; `figures` go into the progress line."""
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average_in()
        self.step += 1
        self.figures.append(figures)
        done, now = self.step == self.steps, time.monotonic()
        if done or now - self.shown > SHOW_EVERY_S:
            self.show(now)
        if done or now - self.saved > SAVE_EVERY_S:
            self.save(now)

    @torch.no_grad()
    def average_in(self) -> None:
        """Moves the averaged weights towards the current ones: fast at first, in the end over 2,000 steps."""
        values = [value for value in self.model.state_dict().values() if value.is_floating_point()]
        averages = [value for value in self.average.values() if value.is_floating_point()]
        torch._foreach_lerp_(averages, values, 1 - min(0.9995, (1 + self.step) / (10 + self.step)))

    def show(self, now: float) -> None:
        means = " ".join(f"{name} {fmean(f[name] for f in self.figures):.4f}" for name in self.figures[0])
        rate = len(self.figures) / (now - self.shown)
        left = (self.steps - self.step) / rate / 60
        speed = f"{rate * self.batch:.0f} examples/s, {left:.0f} min left"
        print(f"{self.stage} {self.step}/{self.steps} {means} | {speed}", flush=True)
        self.shown, self.figures = now, []

    def save(self, now: float) -> None:
        self.seconds, self.resumed, self.saved = self.seconds + now - self.resumed, now, now
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, self.path.with_suffix(".partial"))
        os.replace(self.path.with_suffix(".partial"), self.path)

    def load(self) -> None:
        state = torch.load(self.path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average, self.step, self.seconds = state["average"], state["step"], state["seconds"]

    def record(self) -> dict[str, float]:
        """The figures of this stage for the model card."""
        return {"steps": self.step, "examples": self.step * self.batch, "minutes": self.seconds / 60}
