"""The samplers by name. Plain data, without torch and diffusers.

diffusers defines what a sampler does: `schedulers` builds the scheduler class named here from the checkpoint's own
scheduler configuration and the keyword arguments given here, and `coefficients` compiles it. A new sampler is one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from sdbatch.errors import SamplerError

__all__ = [
    "EVERY_SAMPLER",
    "FLOW_SAMPLERS",
    "REFUSED",
    "SAMPLERS",
    "TRIGFLOW_SAMPLERS",
    "Sampler",
    "canonical",
    "label",
    "resolve",
]


@dataclass(frozen=True)
class Sampler:
    """A diffusers scheduler class and the configuration that makes it this sampler.

    Attributes:
        name: canonical name, as in the metadata.
        label: its name in AUTOMATIC1111's web UI; used in a PNG's `parameters`.
        scheduler: name of the class in `diffusers`.
        config: entries that override the checkpoint's own scheduler configuration.
        aliases: other accepted names, in any case, with `-` or spaces for `_`.
    """

    name: str
    label: str
    scheduler: str
    config: Mapping[str, object] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()


KARRAS = {"use_karras_sigmas": True, "use_exponential_sigmas": False, "use_beta_sigmas": False}
EXPONENTIAL = {"use_karras_sigmas": False, "use_exponential_sigmas": True, "use_beta_sigmas": False}
BETA = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": True}
# A name such as "2M" states an order and an algorithm, which override the checkpoint's.
MULTISTEP_2M = {"algorithm_type": "dpmsolver++", "solver_order": 2}
MULTISTEP_3M = {"algorithm_type": "dpmsolver++", "solver_order": 3}
MULTISTEP_2M_SDE = {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}
SINGLESTEP_2S = {"algorithm_type": "dpmsolver++", "solver_order": 2}

_ALL = (
    Sampler("ddpm", "DDPM", "DDPMScheduler"),
    Sampler("ddim", "DDIM", "DDIMScheduler"),
    Sampler("pndm", "PLMS", "PNDMScheduler", aliases=("plms",)),
    Sampler("euler", "Euler", "EulerDiscreteScheduler", aliases=("k_euler",)),
    Sampler("euler_karras", "Euler Karras", "EulerDiscreteScheduler", KARRAS),
    Sampler(
        "euler_a",
        "Euler a",
        "EulerAncestralDiscreteScheduler",
        aliases=("k_euler_a", "k_euler_ancestral", "euler_ancestral"),
    ),
    Sampler("heun", "Heun", "HeunDiscreteScheduler", aliases=("k_heun",)),
    Sampler("heun_karras", "Heun Karras", "HeunDiscreteScheduler", KARRAS),
    Sampler("dpm2", "DPM2", "KDPM2DiscreteScheduler", aliases=("k_dpm_2", "kdpm2", "dpm_2")),
    Sampler("dpm2_karras", "DPM2 Karras", "KDPM2DiscreteScheduler", KARRAS),
    Sampler(
        "dpm2_a",
        "DPM2 a",
        "KDPM2AncestralDiscreteScheduler",
        aliases=("k_dpm_2_a", "k_dpm_2_ancestral", "kdpm2_a", "dpm2_ancestral"),
    ),
    Sampler("dpm2_a_karras", "DPM2 a Karras", "KDPM2AncestralDiscreteScheduler", KARRAS),
    Sampler("lms", "LMS", "LMSDiscreteScheduler", aliases=("k_lms",)),
    Sampler("lms_karras", "LMS Karras", "LMSDiscreteScheduler", KARRAS),
    Sampler(
        "dpmpp_2m",
        "DPM++ 2M",
        "DPMSolverMultistepScheduler",
        MULTISTEP_2M,
        aliases=("dpm++_2m", "k_dpmpp_2m", "dpmsolver++"),
    ),
    Sampler(
        "dpmpp_2m_karras",
        "DPM++ 2M Karras",
        "DPMSolverMultistepScheduler",
        MULTISTEP_2M | KARRAS,
        aliases=("dpm++_2m_karras", "k_dpmpp_2m_karras"),
    ),
    Sampler(
        "dpmpp_2m_exponential",
        "DPM++ 2M Exponential",
        "DPMSolverMultistepScheduler",
        MULTISTEP_2M | EXPONENTIAL,
        aliases=("dpm++_2m_exponential",),
    ),
    Sampler(
        "dpmpp_2m_beta",
        "DPM++ 2M Beta",
        "DPMSolverMultistepScheduler",
        MULTISTEP_2M | BETA,
        aliases=("dpm++_2m_beta",),
    ),
    Sampler("dpmpp_3m", "DPM++ 3M", "DPMSolverMultistepScheduler", MULTISTEP_3M, aliases=("dpm++_3m",)),
    Sampler(
        "dpmpp_2m_sde",
        "DPM++ 2M SDE",
        "DPMSolverMultistepScheduler",
        MULTISTEP_2M_SDE,
        aliases=("dpm++_2m_sde", "k_dpmpp_2m_sde"),
    ),
    Sampler(
        "dpmpp_2m_sde_karras",
        "DPM++ 2M SDE Karras",
        "DPMSolverMultistepScheduler",
        MULTISTEP_2M_SDE | KARRAS,
        aliases=("dpm++_2m_sde_karras",),
    ),
    Sampler("dpmpp_2s", "DPM++ 2S", "DPMSolverSinglestepScheduler", SINGLESTEP_2S, aliases=("dpm++_2s",)),
    Sampler(
        "dpmpp_2s_karras",
        "DPM++ 2S Karras",
        "DPMSolverSinglestepScheduler",
        SINGLESTEP_2S | KARRAS,
        aliases=("dpm++_2s_karras",),
    ),
    Sampler("deis", "DEIS", "DEISMultistepScheduler", {"algorithm_type": "deis"}),
    Sampler("ipndm", "IPNDM", "IPNDMScheduler"),
    Sampler("unipc", "UniPC", "UniPCMultistepScheduler", aliases=("uni_pc",)),
    Sampler("lcm", "LCM", "LCMScheduler"),
    Sampler("tcd", "TCD", "TCDScheduler"),
    Sampler("edm_euler", "EDM Euler", "EDMEulerScheduler"),
    Sampler(
        "edm_dpmpp_2m",
        "EDM DPM++ 2M",
        "EDMDPMSolverMultistepScheduler",
        MULTISTEP_2M,
        aliases=("edm_dpm++_2m",),
    ),
)

SAMPLERS: Mapping[str, Sampler] = {sampler.name: sampler for sampler in _ALL}

# For models trained by flow matching: the denoiser predicts a velocity, and sigmas run from 1 to 0.
# diffusers builds schedulers of either kind from a configuration of the other, but the pictures are garbage.
_FLOW_SOLVER = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "final_sigmas_type": "zero"}
_DETERMINISTIC = {"stochastic_sampling": False}
_FLOW = (
    Sampler("flow_euler", "Euler", "FlowMatchEulerDiscreteScheduler", _DETERMINISTIC, ("flowmatch_euler",)),
    Sampler("flow_euler_karras", "Euler Karras", "FlowMatchEulerDiscreteScheduler", _DETERMINISTIC | KARRAS),
    Sampler(
        "flow_euler_exponential", "Euler Exponential", "FlowMatchEulerDiscreteScheduler", _DETERMINISTIC | EXPONENTIAL
    ),
    Sampler("flow_euler_beta", "Euler Beta", "FlowMatchEulerDiscreteScheduler", _DETERMINISTIC | BETA),
    Sampler("flow_euler_stochastic", "Euler a", "FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
    Sampler("flow_heun", "Heun", "FlowMatchHeunDiscreteScheduler", aliases=("flowmatch_heun",)),
    Sampler("flow_lcm", "LCM", "FlowMatchLCMScheduler", aliases=("flowmatch_lcm",)),
    Sampler(
        "flow_dpmpp_2m", "DPM++ 2M", "DPMSolverMultistepScheduler", MULTISTEP_2M | _FLOW_SOLVER, ("flow_dpm++_2m",)
    ),
    Sampler(
        "flow_dpmpp_2s", "DPM++ 2S", "DPMSolverSinglestepScheduler", SINGLESTEP_2S | _FLOW_SOLVER, ("flow_dpm++_2s",)
    ),
    Sampler("flow_deis", "DEIS", "DEISMultistepScheduler", {"algorithm_type": "deis"} | _FLOW_SOLVER),
    Sampler("flow_unipc", "UniPC", "UniPCMultistepScheduler", _FLOW_SOLVER, ("flow_uni_pc",)),
)
FLOW_SAMPLERS: Mapping[str, Sampler] = {sampler.name: sampler for sampler in _FLOW}

# For consistency models in TrigFlow's terms (Lu & Song 2024), whose noise levels are angles.
TRIGFLOW_SAMPLERS: Mapping[str, Sampler] = {"scm": Sampler("scm", "SCM", "SCMScheduler")}

EVERY_SAMPLER: Mapping[str, Sampler] = {**SAMPLERS, **FLOW_SAMPLERS, **TRIGFLOW_SAMPLERS}

# Well-known samplers that are not offered, and why.
_BROWNIAN = (
    "its noise comes from a Brownian tree with its own state, which a row's seed does not control, "
    "so its pictures would not be reproducible; dpmpp_2m_sde is the nearest that is"
)
REFUSED: Mapping[str, str] = {
    "dpmpp_sde": _BROWNIAN,
    "dpmpp_sde_karras": _BROWNIAN,
    "dpmpp_2s_a": "diffusers has no ancestral DPM++ 2S; dpmpp_2s is its deterministic form",
    "dpm_fast": "diffusers has no such scheduler",
    "dpm_adaptive": "diffusers has no such scheduler, and its number of steps depends on the picture",
}

# https://huggingface.co/datasets/poloclub/diffusiondb, column `sampler`; 9 is "others" and names none.
_DIFFUSIONDB = {
    "1": "ddim",
    "2": "pndm",
    "3": "euler",
    "4": "euler_a",
    "5": "heun",
    "6": "dpm2",
    "7": "dpm2_a",
    "8": "lms",
}


def _key(name: str) -> str:
    return "_".join(name.lower().replace("-", " ").replace("_", " ").split())


def _names() -> dict[str, str]:
    names = {}
    for sampler in _ALL:
        for name in (sampler.name, sampler.label, *sampler.aliases):
            names[_key(name)] = sampler.name
    # Their labels are those of other samplers, which PNG readers know.
    for sampler in (*_FLOW, *TRIGFLOW_SAMPLERS.values()):
        for name in (sampler.name, *sampler.aliases):
            names[_key(name)] = sampler.name
    return names


_NAMES = _names()


def resolve(sampler: str | int, offered: Collection[str] = ()) -> str:
    """Canonical name of a sampler given by name, alias, A1111 label or DiffusionDB code.

    Args:
        offered: samplers that a hint may name; default all.

    Raises:
        SamplerError: the sampler is unknown or not offered; the message has the reason or the closest name.
    """
    if isinstance(sampler, int) or (isinstance(sampler, str) and sampler.strip().isdecimal()):
        code = str(sampler).strip()
        if code not in _DIFFUSIONDB:
            raise SamplerError(f"sampler code {code:.40} is none of DiffusionDB's codes 1 to 8")
        return _DIFFUSIONDB[code]
    if not isinstance(sampler, str):
        raise SamplerError(f"sampler must be a name, not {sampler!r}")
    key = _key(sampler)
    if key in _NAMES:
        return _NAMES[key]
    refused = REFUSED.get(key.replace("dpm++", "dpmpp"))
    if refused:
        raise SamplerError(f"sampler {sampler!r} is not offered: {refused}")
    known = {key: name for key, name in _NAMES.items() if not offered or name in offered}
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    hint = f"did you mean {known[near[0]]!r}?" if near else f"there are: {', '.join(offered or EVERY_SAMPLER)}"
    raise SamplerError(f"unknown sampler {sampler!r}; {hint}")


def canonical(sampler: str) -> str:
    """The canonical name for an alias or a code; an unknown name is returned unchanged."""
    try:
        return resolve(sampler)
    except SamplerError:
        return sampler


def label(sampler: str) -> str:
    """The sampler's name in AUTOMATIC1111's web UI; an unknown name is returned unchanged."""
    return EVERY_SAMPLER[sampler].label if sampler in EVERY_SAMPLER else sampler
