"""A killed and resumed training ends with the same weights as an uninterrupted one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.tiny.training import Run, fast_arithmetic, learning_rate


class Killed(Exception):
    pass


def train(work, seed=0, killed_at=None, steps=12):
    torch.manual_seed(seed)
    model = nn.Linear(4, 1)
    run = Run("line", model, work, steps, batch=8, seed=seed, rate=1e-2)
    for step, rng, generator in run:
        if step == killed_at:
            run.save(run.saved)
            raise Killed
        points = torch.randn(8, 4, generator=generator)
        loss = (model(points) - points.sum(1, keepdim=True) * rng.random()).square().mean()
        run.update(loss, {"loss": loss.item()})
    return model.weight.detach(), run


def test_resumed_is_uninterrupted(tmp_path):
    whole, _ = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "killed", killed_at=7)
    resumed, run = train(tmp_path / "killed")
    assert torch.equal(whole, resumed)
    assert run.record()["steps"] == 12 and run.record()["examples"] == 96


def test_the_seed_decides(tmp_path):
    first, _ = train(tmp_path / "0", seed=0)
    other, _ = train(tmp_path / "1", seed=1)
    assert not torch.equal(first, other)


def test_a_finished_stage_is_not_trained_again(tmp_path):
    finished, _ = train(tmp_path)
    again, run = train(tmp_path)
    assert torch.equal(finished, again) and list(run) == []


def test_the_rate_rises_stays_and_falls():
    rates = [learning_rate(step, 1_000, 1.0) for step in (0, 199, 699, 850, 999)]
    assert rates == pytest.approx([0.005, 1.0, 1.0, 0.5, 0.01])


def test_fast_arithmetic_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4))
    with fast_arithmetic(model):
        assert model(torch.zeros(1, 1, 8, 8)).dtype == torch.float32
    assert type(model[1]) is nn.GroupNorm
