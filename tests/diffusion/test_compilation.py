"""What is compiled with torch.compile, with which options, and how often."""

from __future__ import annotations

import math
import threading

import flow_checkpoints
import numpy as np
import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch._dynamo.utils import counters

from sdbatch.diffusion.accelerate import compilation
from sdbatch.diffusion.device import calibration
from sdbatch.diffusion.device.trial import trial_inputs
from sdbatch.diffusion.engine import Engine
from sdbatch.diffusion.families import stable_diffusion, transformer
from sdbatch.diffusion.models.inspection import inspect_model
from sdbatch.diffusion.models.loading import load_family
from sdbatch.diffusion.request import Request
from sdbatch.errors import RunError, UsageError


@pytest.fixture
def calls(monkeypatch) -> list[dict]:
    """What torch.compile was called with; it gives back what it was given."""
    seen = []

    def spy(call, **options):
        seen.append(options | {"call": call})
        return call

    monkeypatch.setattr(torch, "compile", spy)
    return seen


def whole(call, device, sizes, blocks=None):
    """In place of `compiled`: one graph without breaks, run as it is."""
    return torch.compile(call, backend="eager", fullgraph=True, dynamic=False)


def load(folder, dtype="fp32"):
    return load_family(inspect_model(folder), dtype, torch.device("cpu"))


def test_no_clock_chooses_kernels_on_a_gpu(calls):
    compilation.compiled(abs, torch.device("cuda"))
    compilation.compiled(abs, torch.device("cpu"))
    gpu, cpu = calls
    assert gpu["options"] == {"deterministic": True}
    assert cpu["options"] is None
    assert all(call["dynamic"] is False and "mode" not in call for call in calls)


def test_the_option_is_one_that_this_torch_takes():
    assert "deterministic" in torch._inductor.list_options()


def test_a_torch_without_the_option_compiles_without_it(calls, monkeypatch):
    monkeypatch.setattr(compilation, "_can_be_deterministic", lambda: False)
    compilation.compiled(abs, torch.device("cuda"))
    assert calls[0]["options"] is None


@pytest.mark.parametrize("device, networks", [("cpu", 1), ("cuda", 2)])
def test_the_decoder_is_compiled_on_a_gpu_only(sd, calls, device, networks):
    family = load(sd)
    family.device = torch.device(device)
    family.compile([(4, 8, 8)], 2)
    assert [call["call"] for call in calls] == [family.denoiser, family.vae.decode][:networks]


def test_only_the_batch_that_was_warmed_up_is_decoded_by_compiled_code(sd, monkeypatch):
    family = load(sd)
    family.device = torch.device("cuda")
    shapes = []

    def compiled(call, device, sizes, blocks=None):
        def counted(latents, **options):
            shapes.append(tuple(latents.shape))
            return call(latents, **options)

        return counted

    monkeypatch.setattr(compilation, "compiled", compiled)
    family.compile([(4, 8, 8)], 2)
    for shape in ((2, 4, 8, 8), (1, 4, 8, 8), (2, 4, 8, 16)):
        family.decode(torch.zeros(shape))
    assert shapes == [(2, 4, 8, 8)]
    family.decompile()
    family.decode(torch.zeros(2, 4, 8, 8))
    assert len(shapes) == 1


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_repeated_blocks_can_be_compiled_instead(sd, calls, device):
    family = load(sd)
    family.device = torch.device(device)
    family.compile([(4, 8, 8)], 2, blocks=True)
    networks = [family.denoiser, family.vae.decoder][: 1 if device == "cpu" else 2]
    classes = BasicTransformerBlock, ResnetBlock2D
    wanted = [module for network in networks for module in network.modules() if isinstance(module, classes)]
    assert [call["call"].__self__ for call in calls] == wanted
    assert not [inner for block in wanted for inner in block.modules() if inner is not block and inner in wanted]


def test_blocks_are_compiled_during_the_network_s_own_calls_only(monkeypatch):
    block, seen = torch.nn.Linear(2, 2), []
    monkeypatch.setattr(compilation, "compiled", lambda call, device, sizes: lambda x: seen.append(x) or call(x))

    def network(x):
        if x is None:
            raise ValueError
        return block(x)

    blocks = compilation.CompiledBlocks(network, [block], torch.device("cpu"))
    x = torch.ones(1, 2)
    assert torch.equal(blocks(x), block(x)) and len(seen) == 1
    with pytest.raises(ValueError):
        blocks(None)
    block(x)
    assert len(seen) == 1


@pytest.mark.parametrize("model", ["tiny", "flux"])
def test_equal_blocks_share_their_code_in_all_calls_and_threads(model, tmp_path, monkeypatch):
    def for_all_sizes(call, device, sizes, blocks=None):
        torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, 14 * sizes)
        return whole(call, device, sizes)

    monkeypatch.setattr(compilation, "compiled", for_all_sizes)
    torch._dynamo.reset()
    counters.clear()
    family = load("tiny" if model == "tiny" else flow_checkpoints.build_flux(tmp_path / "flux"))
    own = family.latent_shape(family.info.height, family.info.width)
    latents, timesteps, conditioning = trial_inputs(family, 4)
    plain = torch.inference_mode()(family.denoise)(latents, timesteps, conditioning)[0]
    family.compile([own], 2, blocks=True)
    outputs = []

    @torch.inference_mode()
    def work():
        outputs.append(family.denoise(latents, timesteps, conditioning)[0])

    work()
    graphs, blocks = counters["stats"]["unique_graphs"], len(family._compiled.call._forwards)
    assert 0 < graphs < blocks
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    work()
    assert counters["stats"]["unique_graphs"] == graphs
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    assert torch.allclose(outputs[0], plain, atol=1e-5)  # uncompiled, layers on a CPU use another library


@pytest.mark.long
@pytest.mark.parametrize("compile", ["on", "blocks"])
def test_a_compiled_row_does_not_depend_on_its_neighbours(compile):
    rows = [Request("a red circle", seed=seed, steps=6 + seed, sampler="ddim") for seed in range(4)]
    engine = Engine("tiny", lanes=4, device="cpu", compile=compile)
    assert engine.describe()["compile"] == compile
    together = {image.request.seed: image.pixels for image in engine.generate(rows)}
    plain = Engine("tiny", lanes=4, device="cpu", compile="off")
    for row in rows:
        (alone,), (uncompiled,) = engine.generate([row]), plain.generate([row])
        assert np.array_equal(alone.pixels, together[row.seed])
        assert np.abs(uncompiled.pixels.astype(int) - alone.pixels).max() <= 2


@pytest.mark.parametrize("error", [RuntimeError("no gcc"), FileNotFoundError("gcc"), ImportError("triton")])
def test_a_machine_that_cannot_compile_is_told_of_the_option(sd, monkeypatch, error):
    def broken(call, **_):
        def fail(*args, **kwargs):
            raise error

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(RunError, match="--compile off"):
        Engine(sd, lanes=4, compile="on")
    family = load(sd)
    assert str(error) in calibration.warm_up(family, 4, must_compile=False)
    assert family.denoise(*trial_inputs(family, 4))[0].shape == (4, 4, 8, 8)


@pytest.mark.parametrize("model", ["sd", "sdxl", "tiny"])
def test_one_graph_without_breaks_serves_all_calls_in_all_threads(model, request, monkeypatch):
    for module in (stable_diffusion, compilation):
        monkeypatch.setattr(module, "compiled", whole)
    torch._dynamo.reset()
    family = load("tiny" if model == "tiny" else request.getfixturevalue(model))
    own = family.latent_shape(family.info.height, family.info.width)
    shape = (2, *own)
    plain = torch.inference_mode()(family.decode)(torch.ones(shape))
    family.device = torch.device("cuda")
    family.compile([own], 2)
    family.device = torch.device("cpu")
    pictures = []

    @torch.inference_mode()
    def work():
        latents, timesteps, conditioning = trial_inputs(family, 4)
        for order in (torch.arange(4), torch.arange(4).flip(0)):
            permuted = {name: tensor[order] for name, tensor in conditioning.items()}
            family.denoise(latents[order], timesteps[order], permuted)
            pictures.append(family.decode(torch.ones(shape)))

    work()
    compiled = counters["stats"]["unique_graphs"]
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    work()
    assert counters["stats"]["unique_graphs"] == compiled
    assert len(pictures) == 6 and all(torch.equal(picture, plain) for picture in pictures)


@pytest.mark.long
@pytest.mark.parametrize("name", flow_checkpoints.FLOWS)
def test_so_do_those_of_every_transformer(name, tmp_path, monkeypatch):
    for module in (transformer, compilation):
        monkeypatch.setattr(module, "compiled", whole)
    torch._dynamo.reset()
    counters.clear()
    family = load(flow_checkpoints.FLOWS[name](tmp_path / name))
    own = family.latent_shape(family.info.height, family.info.width)
    latents, timesteps, conditioning = trial_inputs(family, 4)
    to_decode = torch.linspace(-1, 1, 2 * math.prod(own)).view(2, *own)
    with torch.inference_mode():
        plain = family.denoise(latents, timesteps, conditioning)[0]
        plain_picture = family.decode(to_decode)
    family.device = torch.device("cuda")
    family.compile([own], 2)
    family.device = torch.device("cpu")
    outputs, pictures = [], []

    @torch.inference_mode()
    def work():
        for order in (torch.arange(4), torch.arange(4).flip(0)):
            permuted = {name: tensor[order] for name, tensor in conditioning.items()}
            outputs.append(family.denoise(latents[order], timesteps[order], permuted)[0][order])
            pictures.append(family.decode(to_decode))

    work()
    graphs = counters["stats"]["unique_graphs"]
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert counters["stats"]["unique_graphs"] == graphs == 2
    assert len(outputs) == 4 and all(torch.equal(output, plain) for output in outputs)
    assert len(pictures) == 4 and all(torch.equal(picture, plain_picture) for picture in pictures)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "sana" else pytest.mark.long) for name in flow_checkpoints.FLOWS]
)
def test_blocks_of_the_decoder_of_every_transformer_can_be_compiled_instead(name, tmp_path, monkeypatch):
    plain_compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda call, **_: plain_compile(call, backend="eager", fullgraph=True))
    torch._dynamo.reset()
    counters.clear()
    family = load(flow_checkpoints.FLOWS[name](tmp_path / name))
    own = family.latent_shape(family.info.height, family.info.width)
    latents = torch.linspace(-1, 1, 2 * math.prod(own)).view(2, *own)
    plain = torch.inference_mode()(family.decode)(latents)
    family.device = torch.device("cuda")
    family.compile([own], 2, blocks=True)
    family.device = torch.device("cpu")
    graphs = set()
    for _ in range(2):
        assert torch.equal(torch.inference_mode()(family.decode)(latents), plain)
        graphs.add(counters["stats"]["unique_graphs"])
    blocks = [block for block in family.vae.decoder.modules() if isinstance(block, family.decoder_blocks)]
    assert graphs <= set(range(1, len(blocks) + 1)) and len(graphs) == 1


@pytest.fixture
def shapes_compiled(monkeypatch) -> set[tuple[int, ...]]:
    """The shapes of latents that a compiled UNet runs; it runs as it is."""
    shapes = set()

    def compiled(call, device, sizes, blocks=None):
        def noted(latents, *args, **named):
            shapes.add(tuple(latents.shape))
            return call(latents, *args, **named)

        return noted

    monkeypatch.setattr(stable_diffusion, "compiled", compiled)
    return shapes


def test_further_sizes_are_compiled_if_named_and_warmed_up_with_their_own_lanes(sd, shapes_compiled):
    engine = Engine(sd, lanes=4, compile="on", compile_sizes="96x64, 64x128")
    assert shapes_compiled == {(4, 4, 8, 8), (2, 4, 8, 12), (2, 4, 16, 8)}
    assert engine.describe()["compile_sizes"] == "64x128,96x64"
    rows = [Request("a fox", steps=1, height=h, width=w) for h, w in ((64, 64), (64, 96), (128, 64), (64, 128))]
    assert all(image.error is None for image in engine.generate(rows))
    assert shapes_compiled == {(4, 4, 8, 8), (2, 4, 8, 12), (2, 4, 16, 8)}  # not 64 high, 128 wide


def test_torch_compiles_as_many_shapes_as_there_are(sd, monkeypatch):
    monkeypatch.setattr(compilation, "SHAPES_PER_SIZE", 1)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    plain = torch.compile
    monkeypatch.setattr(torch, "compile", lambda call, **_: plain(call, backend=backend, dynamic=False))
    # Not monkeypatch: putting its value back, it removes a setting of torch's.
    with torch._dynamo.config.patch(recompile_limit=2):
        Engine(sd, lanes=2, compile="on", compile_sizes="64x72,64x80,64x88,64x96")
    assert len(graphs) == 5


@pytest.mark.parametrize(
    "sizes, reason",
    [
        ("96x63", "height must be a multiple of 8"),
        ("64", "expected sizes WxH"),
        ("64x64 128x128", "expected sizes WxH"),
        (",".join(f"64x{64 + 8 * i}" for i in range(17)), "17 sizes are too many, 16 at most"),
        ("64x99992", "is too large"),
    ],
)
def test_sizes_that_cannot_be_compiled_are_refused(sd, sizes, reason):
    with pytest.raises(UsageError, match=reason):
        Engine(sd, lanes=2, compile="on", compile_sizes=sizes)


def test_sizes_are_refused_where_nothing_is_compiled(sd):
    with pytest.raises(UsageError, match="nothing is compiled"):
        Engine(sd, lanes=2, compile="off", compile_sizes="96x64")


def test_kernels_are_kept_where_other_workers_find_them(tmp_path, monkeypatch):
    import torch._inductor.config as inductor

    for name in ("TORCHINDUCTOR_CACHE_DIR", "TORCHINDUCTOR_COMPILE_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 96)
    # Not monkeypatch: putting its value back, it removes a setting of torch's.
    with inductor.patch(compile_threads=32):
        compilation.keep_compiled(tmp_path / "compiled")
        from torch._inductor.runtime.cache_dir_utils import cache_dir

        assert cache_dir() == str(tmp_path / "compiled")
        assert inductor.compile_threads == compilation.COMPILE_THREADS
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "mine"))
        compilation.keep_compiled(tmp_path / "other")
        assert cache_dir() == str(tmp_path / "mine")
