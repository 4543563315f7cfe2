"""Counts a sampler's calls of the model without torch, for common scheduler configurations.

The compiled coefficients (`coefficients.py`) are authoritative. For common configurations its number of calls follows
the
rules here; tests compare them. All others are compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

__all__ = ["COMMON_FAMILIES", "MAX_KNOWN_STEPS", "calls_per_step", "known_calls"]

# Families whose pipelines pass only the steps to a scheduler, and override only the offset, with 1.
COMMON_FAMILIES = ("sd", "sdxl")

# Up to this number of steps every sampler is known to have finite coefficients and to be linear.
MAX_KNOWN_STEPS = 250
# The maximum of lcm and tcd, unless the configuration has another.
DISTILLED_STEPS = 50

_ONE_EACH = """
    ddpm ddim euler euler_karras euler_a lms lms_karras dpmpp_2m dpmpp_2m_karras dpmpp_2m_exponential dpmpp_2m_beta
    dpmpp_3m dpmpp_2m_sde dpmpp_2m_sde_karras dpmpp_2s dpmpp_2s_karras deis ipndm unipc lcm tcd edm_euler edm_dpmpp_2m
"""
# Second-order samplers, whose last step is an Euler step.
_TWO_EACH = "heun heun_karras dpm2 dpm2_karras dpm2_a dpm2_a_karras"
_RULES: dict[str, Callable[[int], int]] = {
    **dict.fromkeys(_ONE_EACH.split(), lambda steps: steps),
    **dict.fromkeys(_TWO_EACH.split(), lambda steps: 2 * steps - 1),
    # Its first step is made twice, to have two outputs for the second.
    "pndm": lambda steps: steps + (steps > 1),
}

# With some betas the numbers of these are not finite.
_DOUBTFUL = {("dpm2_a", 2), ("dpm2_a_karras", 2)}

# (beta_schedule, beta_start, beta_end): Stable Diffusion's, and those of Ho et al. (2020).
_BETAS = [("scaled_linear", 0.00085, 0.012), ("linear", 0.0001, 0.02)]
_ANYTHING: tuple[object, ...] = (object(),)
# The values of each entry with which the rules hold. With "trailing" spacing, rounding adds a step to some counts.
_COMMON: Mapping[str, tuple[object, ...]] = {
    "_class_name": _ANYTHING,
    "_diffusers_version": _ANYTHING,
    "beta_schedule": _ANYTHING,  # `_BETAS` says which go together
    "beta_start": _ANYTHING,
    "beta_end": _ANYTHING,
    "clip_sample": _ANYTHING,  # these three are overridden by `schedulers.build_scheduler`
    "thresholding": _ANYTHING,
    "skip_prk_steps": _ANYTHING,
    "clip_sample_range": _ANYTHING,  # these three belong to clipping and thresholding
    "dynamic_thresholding_ratio": _ANYTHING,
    "sample_max_value": _ANYTHING,
    "interpolation_type": ("linear",),
    "num_train_timesteps": (1000,),
    "original_inference_steps": (DISTILLED_STEPS,),
    "prediction_type": ("epsilon", "v_prediction"),
    "rescale_betas_zero_snr": (False,),
    "set_alpha_to_one": (False, True),
    "steps_offset": (0, 1),
    "timestep_spacing": ("leading", "linspace"),
    "trained_betas": (None,),
    "use_beta_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_karras_sigmas": (False, None),
    "variance_type": ("fixed_small",),
}


def known_calls(sampler: str, steps: int, config: Mapping[str, object]) -> int | None:
    """The number of calls of the model in `steps` steps, or None if only the coefficients show it.

    Args:
        sampler: canonical name.
        config: the scheduler configuration of a checkpoint of the `COMMON_FAMILIES`.
    """
    rule = _RULES.get(sampler)
    if rule is None or not 1 <= steps <= MAX_KNOWN_STEPS or not _is_common(config):
        return None
    if (sampler, steps) in _DOUBTFUL or (sampler in ("lcm", "tcd") and steps > DISTILLED_STEPS):
        return None
    return rule(steps)


def calls_per_step(sampler: str) -> int:
    """Calls per step that a run skips at its start."""
    return 2 if sampler in _TWO_EACH.split() else 1


def _is_common(config: Mapping[str, object]) -> bool:
    betas = tuple(config.get(name) for name in ("beta_schedule", "beta_start", "beta_end"))
    return betas in _BETAS and all(_is_expected(_COMMON.get(name, ()), value) for name, value in config.items())


def _is_expected(expected: tuple[object, ...], value: object) -> bool:
    return expected is _ANYTHING or any(type(value) is type(known) and value == known for known in expected)
