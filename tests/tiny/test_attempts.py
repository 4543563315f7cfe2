"""Further attempts pay as independent ones do, on captions of combinations that `tiny` was never trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.attempts import captions
from sdbatch.diffusion import Engine, Request
from sdbatch.scoring.attempts import KeepPolicy
from sdbatch.scoring.judged_engine import JudgedEngine
from sdbatch.scoring.obedience import Obedience
from sdbatch.scoring.registry import Declaration

ROWS, ATTEMPTS, STEPS = 72, 4, 5
OBEDIENCE = Declaration("obedience", {"obedience": "number"}, lambda models: Obedience())


def accepted(engine: Engine, prompts: Sequence[str], first_seed: int, attempts: int) -> np.ndarray:
    """Which rows have a picture that obeys, bool (rows,)."""
    policy = KeepPolicy.parse("obedience == 1", attempts, None, "best", dict(OBEDIENCE.columns), {})
    judged = JudgedEngine(engine, [(OBEDIENCE, Obedience())], policy)
    rows = [Request(prompt, seed=first_seed + i, steps=STEPS, sampler="dpmpp_2m") for i, prompt in enumerate(prompts)]
    found, waiting = {}, list(rows)
    while waiting or not judged.idle:
        while waiting and judged.room:
            judged.submit(waiting.pop(0))
        found |= {image.index: bool(image.accepted) for image in judged.step()}
    return np.array([found[index] for index in sorted(found)])


def test_four_attempts_keep_what_four_independent_pictures_would():
    engine, prompts = Engine("tiny", lanes=16, compile="off"), captions(ROWS)
    kept = accepted(engine, prompts, 0, ATTEMPTS)
    alone = np.array([accepted(engine, prompts, 10_000 * (n + 1), 1) for n in range(ATTEMPTS)])
    any_of_them = alone.any(axis=0)
    # Both counts are sums over rows of events of equal probability q, independent if attempts are. Their difference has
    # a mean of 0 and a variance of 2 Σ q (1 − q), at most 2 n q̄ (1 − q̄); four standard deviations are allowed.
    share = (kept.mean() + any_of_them.mean()) / 2
    tolerance = 4 * np.sqrt(2 * ROWS * share * (1 - share))
    assert abs(int(kept.sum()) - int(any_of_them.sum())) <= tolerance
    # And it pays: one attempt alone would be outside.
    assert any_of_them.sum() - alone.sum(axis=1).mean() > tolerance
