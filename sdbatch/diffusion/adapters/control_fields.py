"""The settings of ControlNets as columns and options. Defaults are those of diffusers' ControlNet pipelines."""

from __future__ import annotations

from sdbatch.bounds import Number, Whole
from sdbatch.diffusion.adapters.net_settings import adapter_field, strength_field
from sdbatch.kinds import Flag, Pictures, Several, Text

__all__ = ["CONTROL_FIELDS"]

OF_NETS = {"beside": "controlnet"}
SHARE = Several(Number(0, 1))

CONTROL_FIELDS = (
    adapter_field(
        "controlnet",
        Several(Text(), networks=True),
        "the ControlNet of rows that name none: a folder in diffusers' format, local or s3://…, or a hub id; "
        "separate several with `;`",
        "NAME",
        "ControlNet",
        null_text="the run's; without one, none",
    ),
    adapter_field(
        "control_image",
        Pictures(),
        "the control image (edges, depth, a pose, …), one for each ControlNet",
        "PATH",
        **OF_NETS,
    ),
    strength_field("controlnet_conditioning_scale", "the ControlNet", "ControlNet weight", **OF_NETS),
    adapter_field(
        "control_guidance_start",
        SHARE,
        "the ControlNet starts at this share of the calls, 0 to 1",
        "F",
        "ControlNet start",
        fallback=0.0,
        **OF_NETS,
    ),
    adapter_field(
        "control_guidance_end",
        SHARE,
        "the ControlNet stops at this share of the calls",
        "F",
        "ControlNet end",
        fallback=1.0,
        **OF_NETS,
    ),
    adapter_field(
        "control_mode",
        Several(Whole(0, 1_000)),
        "for a ControlNet Union: what each control image is, as a number of the net's list (pose, depth, edges, …)",
        "N",
        "ControlNet mode",
        **OF_NETS,
    ),
    adapter_field(
        "guess_mode",
        Flag(),
        "guess mode: follow the control image without relying on the prompt; no net runs for the negative prompt",
        "true|false",
        "ControlNet guess mode",
        fallback=False,
        **OF_NETS,
    ),
)
"""In the order of the metadata's columns."""
