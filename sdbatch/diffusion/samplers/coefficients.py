"""Compiles a sampler into its coefficients.

Every sampler here is linear in the latents x, the model outputs m and the noise z, so call i of its `step` is

    x⁽ⁱ⁺¹⁾ = Σₖ aᵢₖ·x⁽ⁱ⁻ᵏ⁾ + Σₖ bᵢₖ·m⁽ⁱ⁻ᵏ⁾ + sᵢ·z⁽ⁱ⁾        k = 0, 1, … calls ago

`compile_coefficients` reads the numbers off a diffusers scheduler: it passes basis vectors to `step` and reads its
outputs. diffusers remains the only source of truth for samplers. That a scheduler is linear is
tested, not assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from sdbatch.diffusion.samplers.schedulers import Scheduler, quiet, scale_input, start, step
from sdbatch.errors import SamplerError

__all__ = ["MAX_DEPTH", "Coefficients", "compile_coefficients"]

# PNDM's fourth-order Adams-Bashforth looks furthest back; each further call costs two latents per lane.
MAX_DEPTH = 4
# Dimensions of the probing vectors that no basis vector uses: they show only the noise.
PROBES = 32
# Schedulers that compute in float32 leave residues of this relative size instead of exact zeros.
TRACE = 1e-6
# Tolerance of a shortened history, relative to the largest coefficient.
SHALLOW = 1e-9


@dataclass(frozen=True)
class Coefficients:
    """The numbers of one sampler for one number of steps; n calls of the model, history of K = `depth` calls.

    Attributes:
        timesteps: float32 (n,), input of the UNet.
        input_scale: float64 (n,), factor on the latents before the UNet (`scale_model_input`).
        x, m: float64 (n, K + 1), coefficients of latents and model outputs, k calls ago.
        noise: float64 (n,), coefficient s of fresh N(0, 1) noise.
        draws: bool (n,), whether the call draws noise from the row's generator; it may draw where s is 0.
        init_noise_sigma: factor on the N(0, 1) start latents.
        start: factors (a, s) of a picture's latents and of noise, whose sum is the start of the run.
        keep: float64 (n, 2), the same after each call. Both are set only for runs from a picture (`cuts`).
    """

    timesteps: np.ndarray
    input_scale: np.ndarray
    x: np.ndarray
    m: np.ndarray
    noise: np.ndarray
    draws: np.ndarray
    init_noise_sigma: float
    start: tuple[float, float] | None = None
    keep: np.ndarray | None = None

    @property
    def calls(self) -> int:
        """Calls of the model; second-order samplers have more calls than steps."""
        return len(self.timesteps)

    def noised(self, picture: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The start of a run from a picture's latents."""
        if self.start is None:
            raise ValueError("these coefficients are not of a run from a picture")
        return self.start[0] * picture + self.start[1] * noise

    @property
    def depth(self) -> int:
        return self.x.shape[1] - 1


def compile_coefficients(scheduler: Scheduler, steps: int, **schedule: object) -> Coefficients:
    """Compile a diffusers scheduler for `steps` inference steps.

    Args:
        schedule: the pipeline's arguments of `set_timesteps` besides the steps, such as sigmas or mu.

    Raises:
        SamplerError: the scheduler can't do that many steps, is not linear (clipping, thresholding), looks
            further back than `MAX_DEPTH` calls, or draws noise from another source than the given generator.
    """
    name = type(scheduler).__name__
    with quiet():
        try:
            coefficients = _Probe(scheduler, steps, schedule).coefficients()
            _check_linear(scheduler, steps, coefficients, schedule)
        except (ValueError, IndexError, ZeroDivisionError, RuntimeError, AssertionError, TypeError) as error:
            raise SamplerError(f"{name} can't do {steps} steps: {error}") from error
    return coefficients


class _Probe:
    """Runs a scheduler on basis vectors: dimension j < 2n belongs to x⁽ʲ⁾ or m⁽ʲ⁻ⁿ⁾, the rest are probes."""

    def __init__(self, scheduler: Scheduler, steps: int, schedule: Mapping[str, object]):
        self.scheduler = scheduler
        self.timesteps = start(scheduler, steps, **schedule)
        self.calls = len(self.timesteps)
        self.size = 2 * self.calls + PROBES
        self.generator = torch.Generator().manual_seed(0)

    def coefficients(self) -> Coefficients:
        n = self.calls
        x, m = np.zeros((n, n)), np.zeros((n, n))  # column k: coefficients of k calls ago
        noise, draws, input_scale = np.zeros(n), np.zeros(n, dtype=bool), np.zeros(n)
        for i, t in enumerate(self.timesteps):
            sample, output = self._basis(i), self._basis(n + i)
            input_scale[i] = float(scale_input(self.scheduler, sample, t).flatten()[i])
            result, noise[i], draws[i] = self._call(t, sample, output)
            x[i, : i + 1] = result[i::-1]
            m[i, : i + 1] = result[n + i : n - 1 : -1]
        if _depth(x, m) > MAX_DEPTH and not draws.any():
            x, m = _shallow(x, m)
        x, m = _trim(self.scheduler, x, m)
        return Coefficients(
            timesteps=np.array([float(t) for t in self.timesteps], dtype=np.float32),
            input_scale=input_scale,
            x=x,
            m=m,
            noise=noise,
            draws=draws,
            init_noise_sigma=float(getattr(self.scheduler, "init_noise_sigma", 1.0)),
        )

    def _basis(self, j: int) -> torch.Tensor:
        vector = torch.zeros(1, self.size, 1, 1, dtype=torch.float64)
        vector[0, j] = 1.0
        return vector

    def _call(self, t: torch.Tensor, sample: torch.Tensor, output: torch.Tensor) -> tuple[np.ndarray, float, bool]:
        """One `step`: the next sample without its noise, the noise's coefficient, whether any was drawn."""
        state = self.generator.get_state()
        result = step(self.scheduler, output, t, sample, self.generator).double().flatten().numpy()
        if not np.all(np.isfinite(result)):
            raise ValueError("it computes numbers that are not finite")
        if torch.equal(state, self.generator.get_state()):
            z = np.zeros(self.size)
        else:
            z = _matching_noise(result[-PROBES:], sample.shape, state)
        scale = result[-PROBES:] @ z[-PROBES:] / max(z[-PROBES:] @ z[-PROBES:], 1.0)
        rest = result - scale * z
        if np.abs(rest[-PROBES:]).max() > 1e-4 * max(abs(scale), 1.0):
            raise SamplerError(_refusal(self.scheduler, "adds noise that its generator did not draw"))
        return rest, scale, bool(z.any())


def _matching_noise(probes: np.ndarray, shape: torch.Size, state: torch.Tensor) -> np.ndarray:
    """The noise that the scheduler drew from a generator in `state`, in its own dtype or in float32."""
    draws = []
    for dtype in (torch.float64, torch.float32):
        generator = torch.Generator()
        generator.set_state(state)
        draws.append(torch.randn(shape, generator=generator, dtype=dtype).double().flatten().numpy())
    return max(draws, key=lambda z: abs(np.corrcoef(z[-PROBES:], probes)[0, 1]) if probes.any() else 0.0)


def _depth(x: np.ndarray, m: np.ndarray) -> int:
    """The number of earlier calls that the coefficients use."""
    largest = np.maximum(np.abs(x).max(axis=1), np.abs(m).max(axis=1))[:, None]
    used = np.maximum(np.abs(x), np.abs(m)) >= TRACE * largest
    return int(np.flatnonzero(used.any(axis=0)).max(initial=0))


def _trim(scheduler: Scheduler, x: np.ndarray, m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Remove the columns of old calls whose coefficients are all zero."""
    depth = _depth(x, m)
    if depth > MAX_DEPTH:
        reason = f"looks back {depth} calls of the model, and at most {MAX_DEPTH} are kept"
        raise SamplerError(_refusal(scheduler, reason))
    return x[:, : depth + 1].copy(), m[:, : depth + 1].copy()


def _shallow(x: np.ndarray, m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same sampler with a short history, if possible; otherwise the coefficients unchanged.

    A corrector (UniPC, Zhao et al. 2023) works on a corrected sample that is passed from call to call, so as a
    function of all its inputs its history is unlimited. But in a real run those inputs are not free
    vectors: each is the output of the previous call, which determines the corrected sample. So express everything
    in the free variables, x⁽⁰⁾ and the model outputs, and solve for the next sample in terms of the last few
    samples and outputs.
    """
    n = len(x)
    samples, outputs = np.zeros((n + 1, n + 1)), np.eye(n + 1)[1:]
    samples[0, 0] = 1.0
    short_x, short_m = np.zeros_like(x), np.zeros_like(m)
    for i in range(n):
        recent = slice(i, None, -1)
        samples[i + 1] = x[i, : i + 1] @ samples[recent] + m[i, : i + 1] @ outputs[recent]
        for depth in range(min(i, MAX_DEPTH) + 1):
            basis = np.concatenate([samples[i - depth : i + 1][::-1], outputs[i - depth : i + 1][::-1]])
            solution = np.linalg.lstsq(basis.T, samples[i + 1], rcond=None)[0]
            if np.abs(solution @ basis - samples[i + 1]).max() < SHALLOW * np.abs(samples[i + 1]).max():
                break
        else:
            return x, m
        short_x[i, : depth + 1], short_m[i, : depth + 1] = np.split(solution, 2)
    return short_x, short_m


def _check_linear(scheduler: Scheduler, steps: int, coefficients: Coefficients, schedule: Mapping[str, object]) -> None:
    """Compare with the scheduler on large random vectors, where clipping and thresholding would show."""
    source = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(1)
    shape = (1, 64, 1, 1)
    xs: list[np.ndarray] = [source.normal(scale=30.0, size=shape)]
    ms: list[np.ndarray] = []
    for i, t in enumerate(start(scheduler, steps, **schedule)):
        ms.insert(0, source.normal(scale=30.0, size=shape))
        sample, output = torch.from_numpy(xs[0]), torch.from_numpy(ms[0])
        scale_input(scheduler, sample, t)
        state = generator.get_state()
        actual = step(scheduler, output, t, sample, generator).double().numpy()
        predicted = np.zeros(shape)
        for k in range(min(i, coefficients.depth) + 1):
            predicted += coefficients.x[i, k] * xs[k] + coefficients.m[i, k] * ms[k]
        if coefficients.draws[i]:
            probes = (actual - predicted).flatten()
            predicted += coefficients.noise[i] * _matching_noise(probes[-PROBES:], shape, state).reshape(shape)
        if np.abs(actual - predicted).max() > 1e-4 * max(np.abs(actual).max(), np.abs(predicted).max(), 1.0):
            raise SamplerError(_refusal(scheduler, f"is not linear at step {i + 1}"))
        xs.insert(0, actual)


def _refusal(scheduler: Scheduler, reason: str) -> str:
    return f"{type(scheduler).__name__} {reason}, so it can't run in a batch of different rows"
