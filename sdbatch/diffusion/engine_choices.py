"""The words that an engine's settings take, in `Engine`, in options and in manifests alike. Imports no torch."""

from __future__ import annotations

__all__ = ["COMPILES", "DEVICES", "DTYPES", "QUANTIZATIONS", "SWITCHES"]

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "fp16", "bf16", "fp32")
QUANTIZATIONS = ("none", "int8", "fp8")
SWITCHES = ("auto", "on", "off")
COMPILES = (*SWITCHES, "blocks")
