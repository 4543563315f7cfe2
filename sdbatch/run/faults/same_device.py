"""Compares the devices of two workers: pictures of two kinds of device differ in their last bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["other_device"]

DEVICE_KIND = ("device_name", "compute_capability")


def other_device(first: Mapping[str, Any], engine: Mapping[str, Any]) -> str | None:
    """Why an engine is not on the same kind of device as the first one; None if it is.

    Args:
        first, engine: descriptions, see `Engine.describe`; the first may be what OUT was started with.
    """
    if all(first.get(name) == engine.get(name) for name in DEVICE_KIND):
        return None
    kinds = " and ".join(str(described.get("device_name")) for described in (first, engine))
    return f"--same-device: this dataset has workers on {kinds}, whose pictures differ; use nodes of one kind"
