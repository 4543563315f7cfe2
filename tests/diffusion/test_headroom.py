"""How many lanes fit, on a GPU whose memory is made up."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from sdbatch.diffusion.device import headroom

GIB = 1 << 30
SHAPE = (4, 128, 128)


class Card:
    """A simulated GPU with a given memory: what torch.cuda reports while a model runs."""

    def __init__(self, total: int, weights: int, fraction: float = 1.0, taken_by_others: int = 0):
        self.total, self.allocated, self.fraction = total, weights, fraction
        self.free = total - weights - taken_by_others
        self.peak = weights

    def run(self, amount: int) -> None:
        if amount > min(self.free, self.total * self.fraction - self.allocated):
            raise torch.OutOfMemoryError("CUDA out of memory (pretended)")
        self.peak = max(self.peak, self.allocated + amount)

    def install(self, monkeypatch) -> None:
        fakes = {
            "mem_get_info": lambda device: (self.free, self.total),
            "memory_allocated": lambda device: self.allocated,
            "memory_reserved": lambda device: self.allocated,
            "max_memory_allocated": lambda device: self.peak,
            "reset_peak_memory_stats": lambda device: setattr(self, "peak", self.allocated),
            "synchronize": lambda device: None,
            "empty_cache": lambda: None,
            "get_per_process_memory_fraction": lambda device: self.fraction,
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake, raising=False)


def lanes_on(card: Card, monkeypatch, *, a_lane: float, a_picture: float, conditioning: int = 0) -> int:
    """Lanes chosen for a model whose passes and decodes take the given GiB per lane and per picture."""
    card.install(monkeypatch)
    named = {"encoder_hidden_states": conditioning}

    def inputs(family, lanes):
        state = {name: torch.empty(lanes, amount, dtype=torch.uint8, device="meta") for name, amount in named.items()}
        return torch.empty(lanes, *SHAPE, device="meta"), torch.empty(lanes, device="meta"), state

    monkeypatch.setattr(headroom, "trial_inputs", inputs)

    def denoise(latents, timesteps, conditioning):
        card.run(int(len(latents) * a_lane * GIB))
        return latents, None

    family = SimpleNamespace(
        device=torch.device("cuda"),
        denoise=denoise,
        decode=lambda latents: card.run(int(len(latents) * a_picture * GIB)),
    )
    return headroom.lanes_that_fit(family)


def test_a_decode_has_its_place_beside_the_lanes(monkeypatch):
    card = Card(24 * GIB, weights=7 * GIB)
    lanes = lanes_on(card, monkeypatch, a_lane=0.6, a_picture=3, conditioning=26_000_000)
    assert lanes % 2 == 0 and lanes > 2
    batch = headroom.decode_batch(lanes, torch.device("cuda"))
    assert lanes * (0.6 + 26_000_000 / GIB) + batch * 3 < 17
    without_a_decode = lanes_on(card, monkeypatch, a_lane=0.6, a_picture=0, conditioning=26_000_000)
    assert without_a_decode - lanes >= batch * 3 / 0.7


def test_what_lanes_keep_is_counted(monkeypatch):
    card = Card(24 * GIB, weights=7 * GIB)
    light, heavy = (lanes_on(card, monkeypatch, a_lane=0.4, a_picture=0, conditioning=n) for n in (0, GIB // 4))
    assert heavy <= light * 0.4 / 0.6


@pytest.mark.parametrize("others", [0, 38])
def test_half_a_gpu_holds_half_the_lanes(monkeypatch, others):
    """Whether or not the neighbour has taken its half already."""
    sizes = {"a_lane": 0.8, "a_picture": 0.1}
    whole = lanes_on(Card(80 * GIB, weights=2 * GIB), monkeypatch, **sizes)
    half = lanes_on(Card(80 * GIB, 2 * GIB, fraction=0.5, taken_by_others=others * GIB), monkeypatch, **sizes)
    assert whole == headroom.MAX_LANES
    assert half > 2 and half * 0.8 < 40 - 2


def test_a_small_card_gets_two_lanes_and_no_error(monkeypatch):
    assert lanes_on(Card(8 * GIB, weights=7 * GIB), monkeypatch, a_lane=0.6, a_picture=3) == 2


def test_a_large_card_does_not_get_more_lanes_than_pay(monkeypatch):
    assert lanes_on(Card(180 * GIB, weights=GIB), monkeypatch, a_lane=0.1, a_picture=0.1) == headroom.MAX_LANES
