"""Describes a device: the facts, besides settings, on which a picture's bits depend."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import torch

__all__ = ["describe_device"]

DRIVER = Path("/proc/driver/nvidia/version")
PROCESSORS = Path("/proc/cpuinfo")


def describe_device(device: torch.device) -> dict[str, str | None]:
    """Name and compute capability of a device; on CUDA also the versions of driver, CUDA and cuDNN.

    A CPU's capability is the instruction set that decides which kernels libraries use, such as AVX512.
    """
    if device.type != "cuda":
        capability = torch.backends.cpu.get_cpu_capability()
        return {
            "device_name": _processor(),
            "compute_capability": capability,
            "driver": None,
            "cuda": None,
            "cudnn": None,
        }
    major, minor = torch.cuda.get_device_capability(device)
    return {
        "device_name": torch.cuda.get_device_name(device),
        "compute_capability": f"{major}.{minor}",
        "driver": _driver_version(),
        "cuda": torch.version.cuda,
        "cudnn": str(torch.backends.cudnn.version()),
    }


def _processor() -> str:
    """The processor's name, if Linux shows it; else its architecture."""
    try:
        found = re.search(r"^model name\s*: (.*)$", PROCESSORS.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return (found and found[1].strip()) or platform.processor() or platform.machine()


def _driver_version() -> str | None:
    """The version of NVIDIA's kernel module, if Linux shows it."""
    try:
        found = re.search(r"\b\d{3,}\.\d+(\.\d+)*\b", DRIVER.read_text(encoding="utf-8"))
    except OSError:
        return None
    return found and found.group()
