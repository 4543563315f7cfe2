"""Passes replayed from CUDA graphs, on a simulated torch.cuda that records operations and replays them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from sdbatch.diffusion.accelerate.cuda_graph import CudaGraphs
from sdbatch.diffusion.device import device_checks
from sdbatch.diffusion.device.side_streams import side_stream
from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.request import Request
from sdbatch.diffusion.sampling import Sampling
from sdbatch.errors import RunError


class Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, out))
        return out


class Graph:
    """What `torch.cuda.CUDAGraph` is to this code: `replay` overwrites what the recorded operations gave."""

    def __init__(self):
        self.recorder = Recorder()

    def replay(self):
        for function, args, kwargs, out in self.recorder.operations:
            for again, kept in zip(tree_iter(function(*args, **kwargs)), tree_iter(out), strict=True):
                if again is not kept and again.data_ptr() != kept.data_ptr():
                    kept.copy_(again)


@pytest.fixture
def cuda(monkeypatch) -> Iterator[SimpleNamespace]:
    """Streams that do nothing; `pools` and `streams` of recordings; `end` is called as a recording ends."""
    state = SimpleNamespace(pools=[], streams=[], end=lambda: None, handles=0)
    current = SimpleNamespace(wait_stream=lambda other: None)

    @contextlib.contextmanager
    def graph(recorded, pool=None, stream=None, capture_error_mode="global"):
        state.pools.append(pool)
        state.streams.append(stream)
        try:
            with recorded.recorder:
                yield
        finally:
            state.end()

    def handle():
        state.handles += 1
        return state.handles

    fakes = {
        "CUDAGraph": Graph,
        "graph": graph,
        "graph_pool_handle": handle,
        "current_stream": lambda device: current,
        "Stream": lambda device: SimpleNamespace(device=device, wait_stream=lambda other: None),
        "stream": lambda stream: contextlib.nullcontext(),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    side_stream.cache_clear()
    yield state
    side_stream.cache_clear()


SCRATCH = torch.zeros(3, 1 << 12)


def denoise(latents, timesteps, conditioning, features=None):
    """Gives what lies in memory that all passes share, as passes from one pool do."""
    made, output = (SCRATCH[i, : latents.numel()].view(latents.shape) for i in range(2))
    if features is None:
        made.copy_(latents * 3)
        features = made
    output.copy_(latents + features + timesteps.view(-1, 1, 1, 1) + conditioning["c"])
    return output, features


def inputs(size: int, value: float):
    return torch.full((2, 1, size, size), value), torch.full((2,), value), {"c": torch.ones(2, 1, size, size)}


def test_all_sizes_share_one_pool_and_none_spoils_what_another_made(cuda):
    graphs = CudaGraphs(denoise)
    _, deep = graphs(*inputs(4, 1.0))
    output, deep = graphs(*inputs(4, 2.0))
    assert torch.equal(output, torch.full_like(output, 2 + 6 + 2 + 1))
    graphs(*inputs(8, 5.0))  # another size, in between, uses the same memory
    SCRATCH.fill_(torch.nan)
    assert torch.equal(deep, torch.full_like(deep, 6.0))
    for value in (1.0, 4.0):
        shallow, same = graphs(*inputs(4, value), deep)
        assert torch.equal(shallow, torch.full_like(shallow, 2 * value + 6 + 1))
        assert torch.equal(same, torch.full_like(same, 6.0))
    assert len(cuda.pools) == 3 and set(cuda.pools) == {1}
    assert graphs.error is None


def test_a_pool_that_was_given_back_is_not_used_again(cuda):
    graphs = CudaGraphs(denoise)
    graphs(*inputs(4, 1.0), place="four")
    graphs(*inputs(8, 1.0), place="eight")
    graphs.forget("four")
    graphs(*inputs(4, 1.0), place="four")
    assert cuda.pools == [1, 1, 1]
    graphs.forget()
    graphs(*inputs(4, 1.0))
    assert cuda.pools[-1] == 2


def test_all_sizes_of_all_engines_are_recorded_on_one_stream_of_their_device(cuda):
    for size in (4, 8, 16):
        CudaGraphs(denoise)(*inputs(size, 1.0))
    assert len(cuda.streams) == 3 and len(set(map(id, cuda.streams))) == 1
    assert cuda.streams[0].device == inputs(4, 1.0)[0].device


def test_lane_sets_of_one_shape_have_graphs_of_their_own(cuda):
    graphs = CudaGraphs(denoise)
    (latents, timesteps, one), (_, _, other) = inputs(4, 1.0), inputs(4, 1.0)
    other = {name: tensor + 7 for name, tensor in other.items()}
    wanted = {id(named): denoise(latents, timesteps, named)[0].clone() for named in (one, other)}
    for _ in range(2):
        for place, named in (("text", one), ("longer text", other)):
            output, _ = graphs(latents, timesteps, named, place=place)
            assert torch.equal(output, wanted[id(named)])
    assert len(cuda.pools) == 2


@pytest.mark.parametrize("in_the_pass", [False, True])
def test_a_recording_that_does_not_end_ends_the_run(cuda, in_the_pass):
    def broken_end():
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    cuda.end = broken_end
    calls = []

    def spied(*args):
        calls.append(args)
        if in_the_pass and len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory (pretended)")
        return denoise(*args)

    with pytest.raises(RunError, match="--compile off") as raised:
        CudaGraphs(spied)(*inputs(4, 1.0))
    assert len(calls) == 2  # nothing ran on the stream that was left behind
    assert raised.value.__cause__ is None and raised.value.__suppress_context__


def test_too_little_memory_for_a_recording_is_told_as_that(cuda):
    calls = []

    def greedy(*args):
        calls.append(args)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory (pretended)")
        return denoise(*args)

    with pytest.raises(torch.OutOfMemoryError):
        CudaGraphs(greedy)(*inputs(4, 1.0))


def test_what_fails_before_a_recording_runs_without_one(cuda):
    failures = [RuntimeError("cuBLAS is not initialised")]

    def fails_once(*args):
        if failures:
            raise failures.pop()
        return denoise(*args)

    graphs = CudaGraphs(fails_once)
    output, _ = graphs(*inputs(4, 1.0))
    assert torch.equal(output, torch.full_like(output, 1 + 3 + 1 + 1))
    assert "cuBLAS" in graphs.error and not cuda.pools


def shortage(amount: int):
    """A pass of another kind that fails `amount` times for want of memory."""
    left = [torch.OutOfMemoryError("CUDA out of memory (pretended)")] * amount

    def run():
        if left:
            raise left.pop()
        return "done"

    return run


def test_a_pass_of_another_kind_gets_the_graphs_memory_and_no_lane_is_lost(cuda):
    graphs = CudaGraphs(denoise)
    wanted = graphs(*inputs(4, 1.0))[0].clone()
    assert graphs.beside(shortage(1)) == "done"
    assert "too little memory" in graphs.error
    assert torch.equal(graphs(*inputs(4, 1.0))[0], wanted) and len(cuda.pools) == 1  # none is recorded again


def test_a_size_that_has_no_room_beside_the_graphs_runs_without_any(cuda):
    def limited(latents, *others):
        if latents.shape[-1] == 8 and graphs._graphs:
            raise torch.OutOfMemoryError("CUDA out of memory (pretended)")
        return denoise(latents, *others)

    graphs = CudaGraphs(limited)
    graphs(*inputs(4, 1.0), place="four")
    output, _ = graphs.beside(lambda: graphs(*inputs(8, 1.0), place="eight"))
    assert torch.equal(output, torch.full_like(output, 1 + 3 + 1 + 1))
    assert graphs.error is not None and len(cuda.pools) == 1


@pytest.mark.parametrize("recorded, shortages", [(False, 1), (True, 2)])
def test_without_graphs_to_release_the_shortage_is_the_lanes(cuda, recorded, shortages):
    graphs = CudaGraphs(denoise)
    if recorded:
        graphs(*inputs(4, 1.0))
    with pytest.raises(torch.OutOfMemoryError):
        graphs.beside(shortage(shortages))


def test_an_engine_with_graphs_runs_short_for_a_second_size_and_keeps_its_lanes(cuda, sd, monkeypatch):
    engine = Engine(sd, lanes=4, device="cpu")
    # When the first row has finished, the set of the third is fuller than that of the second.
    sizes = ((4, 64), (8, 64), (4, 128))
    rows = [Request("x", seed=i, steps=n, height=side, width=side) for i, (n, side) in enumerate(sizes)]
    wanted = {image.request.seed: image.pixels for image in engine.generate(rows)}
    plain = engine.family.denoise

    def limited(latents, *others, **named):
        if any(shape != latents.shape for _, shape, *_ in engine._sampling._graphs._graphs):
            raise torch.OutOfMemoryError("CUDA out of memory (pretended)")
        return plain(latents, *others, **named)

    engine.family.denoise = limited
    engine._sampling = Sampling(engine.family, cuda_graphs=True)
    images = list(engine.generate(rows))
    assert not [image.error for image in images if image.error]
    assert all(np.array_equal(image.pixels, wanted[image.request.seed]) for image in images)
    assert engine.lanes == 4 and engine.describe()["out_of_memory"] == []
    assert "too little memory" in engine._sampling.graph_error and len(cuda.pools) == 1


@pytest.mark.parametrize("drift, reason", [(0.0, None), (1e-3, "their bits differ from those without")])
def test_graphs_whose_bits_differ_are_not_used(cuda, monkeypatch, drift, reason):
    calls = []

    def drifting(latents, timesteps, conditioning, features=None):
        calls.append(latents)
        output = latents + timesteps.view(-1, 1, 1, 1) + conditioning["c"]
        return output + drift * (len(calls) > 1), None

    monkeypatch.setattr(device_checks, "trial_inputs", lambda family, lanes, shape: inputs(4, 1.0))
    family = SimpleNamespace(device=torch.device("cuda"), denoise=drifting)
    assert device_checks.cuda_graph_error(family, 2) == reason
