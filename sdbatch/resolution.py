"""Resolves a run's settings for its model: defaults, and options that it cannot use."""

from __future__ import annotations

import dataclasses

from sdbatch.diffusion.adapters.lora_rows import LORA
from sdbatch.diffusion.checkpoints.model_info import ModelInfo
from sdbatch.diffusion.request import COMMON, TEXT_TO_IMAGE
from sdbatch.diffusion.row_fields import defaults_of, fields_of, own_fields
from sdbatch.diffusion.tasks import ENGINE_TASKS, TASKS
from sdbatch.errors import UsageError
from sdbatch.fields import Field
from sdbatch.settings import ROW_OPTIONS, RunSettings

__all__ = ["refuse_unused", "resolved", "task_name", "unused_because", "with_compression", "with_task"]


def resolved(settings: RunSettings, model: ModelInfo) -> RunSettings:
    """The settings with defaults filled in: of the task, else of the model, else of the field.

    The default task is the model's first one.
    """
    settings = with_task(settings, model)
    defaults = defaults_of(task_name(settings), model)
    found = {name: value for name, value in defaults.items() if settings.given(name) is None}
    extra = {name: value for name, value in found.items() if name not in COMMON}
    common = {name: value for name, value in found.items() if name in COMMON}
    return dataclasses.replace(settings, **common, extra={**extra, **settings.extra})


def with_compression(settings: RunSettings, before: str | None = None) -> RunSettings:
    """The settings with a compression of picture files; the default is that of the output that is continued.

    Raises:
        UsageError: one is given for files that have a quality instead.
    """
    given, image_format = settings.compression, settings.image_format
    if given is not None and (image_format == "jpeg" or (image_format == "webp" and settings.image_quality)):
        raise UsageError(f"--compression {given}: JPEG and lossy WebP have --image-quality instead; omit it")
    return dataclasses.replace(settings, compression=given or before or settings.value("compression"))


def task_name(settings: RunSettings) -> str:
    """The chosen or resolved task; before that, text to image."""
    return settings.task or TEXT_TO_IMAGE


def with_task(settings: RunSettings, model: ModelInfo) -> RunSettings:
    """The settings with a task; the default is the model's first one."""
    if settings.task is not None:
        return settings
    return dataclasses.replace(settings, task=next(iter(model.tasks), TEXT_TO_IMAGE))


def refuse_unused(settings: RunSettings, model: ModelInfo) -> None:
    """Refuse a task that the model is not made for, and options of rows that neither can use. Raises `UsageError`."""
    if settings.task in ENGINE_TASKS and settings.task not in model.tasks:
        raise UsageError(f"--task {settings.task}: this model is not made for it, but for {', '.join(model.tasks)}")
    for field in (*ROW_OPTIONS, *own_fields()):
        if settings.given(field.name) is not None and (reason := unused_because(field, task_name(settings), model)):
            raise UsageError(f"{field.option}: {reason}; omit it")
    for option, is_given in (("--lora-dir", settings.lora_dir is not None), ("--merge-lora", settings.merge_lora)):
        if is_given and (reason := unused_because(LORA, task_name(settings), model)):
            raise UsageError(f"{option}: {reason}; omit it")


def unused_because(field: Field, task: str, model: ModelInfo) -> str | None:
    """Why rows of this task on this model cannot use the field; None if they can."""
    if field.name in {used.name for used in fields_of(task, model)}:
        return None
    is_task_field = field.name in {own.name for known in TASKS for own in known.fields}
    is_left_to_the_model = field.name in {used.name for used in fields_of(task)}
    if is_task_field or (field.name in COMMON and not is_left_to_the_model):
        return f"{task} does not use it"
    return f"{model.title} does not use it"
