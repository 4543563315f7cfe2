"""Measures how many pictures of `tiny` follow their prompts after 1, 2 and 4 attempts, and the cost of scoring.

    python -m benchmarks.attempts [--seeds N]

The rows are those of examples/demo.parquet, with several seeds. Prints a table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import pyarrow.parquet as pq

from sdbatch.diffusion import Engine, Request
from sdbatch.scoring.attempts import Wishes
from sdbatch.scoring.judged import JudgedEngine
from sdbatch.scoring.obedience import Obedience
from sdbatch.scoring.registry import Declaration

LANES = 16


class Timed(Obedience):
    """A scorer that measures its own seconds."""

    seconds = 0.0

    def score(self, pictures, requests):
        started = time.perf_counter()
        found = super().score(pictures, requests)
        self.seconds += time.perf_counter() - started
        return found


def run(requests: Sequence[Request], attempts: int) -> tuple[float, float, float]:
    """The share of pictures that follow their prompts, the seconds of the run, and those of the scorer."""
    scorer = Timed()
    declared = Declaration("obedience", {"obedience": "number"}, lambda models: scorer)
    wishes = Wishes.parse("obedience == 1", attempts, None, "best", {"obedience": "number"}, {})
    engine = JudgedEngine(Engine("tiny", lanes=LANES, compile="off"), [(declared, scorer)], wishes)
    waiting, found = list(requests), []
    started = time.perf_counter()
    while waiting or not engine.idle:
        while waiting and engine.room:
            engine.submit(waiting.pop())
        found += engine.step()
    seconds = time.perf_counter() - started
    engine.close()
    return sum(bool(image.accepted) for image in found) / len(found), seconds, scorer.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=4)
    seeds = parser.parse_args().seeds
    prompts = pq.read_table("examples/demo.parquet").column("prompt").to_pylist()
    print("| steps | attempts | pictures that obey | pictures that obey a second | time of the scorer |")
    print("|---|---|---|---|---|")
    for steps in (8, 20):
        requests = [
            Request(prompt, seed=seed, steps=steps, sampler="dpmpp_2m") for prompt in prompts for seed in range(seeds)
        ]
        for attempts in (1, 2, 4):
            share, seconds, scorer = run(requests, attempts)
            good = share * len(requests) / seconds
            print(f"| {steps} | {attempts} | {share:.1%} | {good:.2f} | {scorer / seconds:.2%} |", flush=True)


if __name__ == "__main__":
    main()
