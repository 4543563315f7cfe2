"""Numbers as people read them."""

from __future__ import annotations

__all__ = ["counted", "duration", "size"]


def counted(number: int, noun: str) -> str:
    """1 row, 2,000 rows."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def duration(seconds: float) -> str:
    """1:02:03, or 2:03 below an hour."""
    minutes, secs = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}:{minutes:02}:{secs:02}" if hours else f"{minutes}:{secs:02}"


def size(number: float) -> str:
    """Bytes: 12.3 MB."""
    for unit in ("B", "KB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"
