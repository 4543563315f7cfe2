"""How the host keeps step with a GPU: events that it waits for without a busy core, on simulated streams."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from sdbatch.diffusion import decoding
from sdbatch.diffusion.decoding import Decoder
from sdbatch.diffusion.device.side_streams import side_stream
from sdbatch.diffusion.sampling import RUN_AHEAD, Sampling

CUDA = torch.device("cuda")


@pytest.fixture
def events(monkeypatch) -> Iterator[list]:
    """All events in the order of their making. The device reaches one when it is `reached` or waited for."""
    made = []

    class Event:
        def __init__(self, blocking=False):
            self.blocking, self.recorded, self.reached, self.waits = blocking, False, False, 0
            made.append(self)

        def record(self, stream):
            self.recorded = True

        def query(self):
            return self.reached

        def synchronize(self):
            assert self.recorded
            self.waits += 1
            self.reached = True

    stream = SimpleNamespace(wait_stream=lambda other: None)
    fakes = {
        "Event": Event,
        "Stream": lambda device: stream,
        "current_stream": lambda device: stream,
        "stream": lambda stream: contextlib.nullcontext(),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    side_stream.cache_clear()
    yield made
    side_stream.cache_clear()


def test_at_most_two_passes_are_queued_and_no_core_waits_for_them(events):
    family = SimpleNamespace(device=CUDA, residency=None, encode=None, encoders={})
    sampling = Sampling(family)
    for count in range(1, 6):
        sampling._keep_in_step()
        assert len(events) == count and all(event.blocking for event in events)
        assert [event.waits for event in events] == [1] * max(0, count - RUN_AHEAD) + [0] * min(count, RUN_AHEAD)


def test_decoders_of_one_device_share_a_stream(events, monkeypatch):
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: SimpleNamespace(device=device))
    family = SimpleNamespace(device=CUDA, decode=None)
    assert Decoder(family, batch=2)._stream is Decoder(family, batch=4)._stream


def test_pictures_are_collected_when_the_device_is_done_and_no_core_waits(events, monkeypatch):
    kept = []
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: kept.append(tensor))
    monkeypatch.setattr(decoding, "receive", lambda tensor: tensor)
    decoder = Decoder(SimpleNamespace(device=CUDA, decode=lambda latents: latents[:, :3]), batch=2)
    for row in range(3):
        decoder.add(row, torch.full((4, 2, 2), float(row)))
    assert decoder.poll(flush=False) == []
    (event,) = events
    assert event.blocking and not event.waits
    assert len(kept) == 1 and len(kept[0]) == 2  # the side stream reads it: the allocator must not reuse it before
    event.reached = True
    first = decoder.poll(flush=False)
    last = decoder.poll(flush=True)
    assert [decoded.row for decoded in first + last] == [0, 1, 2] and decoder.idle
    assert [int(decoded.pixels.min()) for decoded in first + last] == [128, 255, 255]
