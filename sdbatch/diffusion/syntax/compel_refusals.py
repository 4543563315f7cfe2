"""The parts of compel's syntax that are refused, with the reasons. Imports neither compel nor torch."""

from __future__ import annotations

__all__ = ["SWAP", "WITH_LORA"]

SWAP = ".swap() needs control of attention, which is not supported"
WITH_LORA = "withLora() names a network, which is not supported in prompts; remove it"
