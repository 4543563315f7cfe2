"""Mutes diffusers and transformers while they load models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

__all__ = ["quiet_libraries"]

LIBRARIES = (transformers_logging, diffusers_logging)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Mute the libraries' progress bars and reports."""
    drawn = [logging.is_progress_bar_enabled() for logging in LIBRARIES]
    levels = [logging.get_verbosity() for logging in LIBRARIES]
    for logging in LIBRARIES:
        logging.disable_progress_bar()
        logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        for logging, level, is_drawn in zip(LIBRARIES, levels, drawn, strict=True):
            logging.set_verbosity(level)
            if is_drawn:
                logging.enable_progress_bar()
