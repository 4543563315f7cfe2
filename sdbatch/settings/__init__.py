"""All settings of a run, each declared once; the modules follow the headings of `--help`."""

from __future__ import annotations

from sdbatch.settings.output_settings import COMPRESSIONS, IMAGE_FORMATS, LAYOUTS, MAX_IMAGES_PER_SHARD
from sdbatch.settings.run_settings import NUMBERS, ROW_OPTIONS, RUN_FIELDS, RunSettings, all_fields
from sdbatch.settings.setting_groups import (
    ADAPTERS,
    APPROXIMATIONS,
    MODEL,
    MONITORING,
    OUTPUT,
    SCORES,
    TABLE,
    WORKERS,
    did_you_mean,
)

__all__ = [
    "ADAPTERS",
    "APPROXIMATIONS",
    "COMPRESSIONS",
    "IMAGE_FORMATS",
    "LAYOUTS",
    "MAX_IMAGES_PER_SHARD",
    "MODEL",
    "MONITORING",
    "NUMBERS",
    "OUTPUT",
    "ROW_OPTIONS",
    "RUN_FIELDS",
    "SCORES",
    "TABLE",
    "WORKERS",
    "RunSettings",
    "all_fields",
    "did_you_mean",
]
