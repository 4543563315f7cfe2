"""The words that an engine's settings take, in `Engine`, options and manifests alike. Imports no torch."""

from __future__ import annotations

__all__ = ["COMPILES", "DEVICES", "DTYPES", "LANES_ON_CPU", "QUANTIZATIONS", "SWITCHES"]

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "fp16", "bf16", "fp32")
QUANTIZATIONS = ("none", "int8", "fp8")
SWITCHES = ("auto", "on", "off")
COMPILES = (*SWITCHES, "blocks")
LANES_ON_CPU = 16
"""The default; on a GPU the number is measured."""
