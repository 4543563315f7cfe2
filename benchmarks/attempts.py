"""Measures how many pictures of `tiny` follow their prompts after 1, 2 and 4 attempts, and the cost of scoring.

    python -m benchmarks.attempts [--rows N]

The prompts name combinations that `tiny` was not trained on. Prints a table; times are CPU times of one thread, so that
other work on the machine matters little.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence

from sdbatch.diffusion import Engine, Request
from sdbatch.scoring.attempts import KeepPolicy
from sdbatch.scoring.judged_engine import JudgedEngine
from sdbatch.scoring.obedience import Obedience
from sdbatch.scoring.registry import Declaration
from sdbatch.tiny.captions import caption
from sdbatch.tiny.scenes import held_out, scenes

LANES = 16


class Timed(Obedience):
    """A scorer that measures its own CPU seconds."""

    seconds = 0.0

    def score(self, pictures, requests):
        started = time.process_time()
        found = super().score(pictures, requests)
        self.seconds += time.process_time() - started
        return found


def run(requests: Sequence[Request], attempts: int) -> tuple[float, float, float]:
    """The share of pictures that follow their prompts, the CPU seconds of the run, and those of the scorer."""
    scorer = Timed()
    declared = Declaration("obedience", {"obedience": "number"}, lambda models: scorer)
    policy = KeepPolicy.parse("obedience >= 1", attempts, None, "best", {"obedience": "number"}, {})
    engine = JudgedEngine(Engine("tiny", lanes=LANES, device="cpu", threads=1), [(declared, scorer)], policy)
    waiting, found = list(requests), []
    started = time.process_time()
    while waiting or not engine.idle:
        while waiting and engine.room:
            engine.submit(waiting.pop())
        found += engine.step()
    seconds = time.process_time() - started
    engine.close()
    return sum(bool(image.accepted) for image in found) / len(found), seconds, scorer.seconds


def captions(count: int) -> list[str]:
    """Captions of combinations that `tiny` was not trained on, half of one thing, half of two."""
    source = random.Random(0)
    one, two = ([scene for scene in scenes(things) if held_out(scene)] for things in (1, 2))
    chosen = [source.choice((one, two)[i % 2]) for i in range(count)]
    return [caption(scene, source, thorough=True) for scene in chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200)
    prompts = captions(parser.parse_args().rows)
    print("| steps | attempts | rows whose picture obeys | such rows per second of compute | share of it for scoring |")
    print("|---|---|---|---|---|")
    for steps in (8, 20):
        requests = [Request(prompt, seed=seed, steps=steps, sampler="dpmpp_2m") for seed, prompt in enumerate(prompts)]
        for attempts in (1, 2, 4):
            share, seconds, scorer = run(requests, attempts)
            good = share * len(requests) / seconds
            print(f"| {steps} | {attempts} | {share:.1%} | {good:.2f} | {scorer / seconds:.2%} |", flush=True)


if __name__ == "__main__":
    main()
