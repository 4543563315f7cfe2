"""The errors that people see. Every library's exception is mapped to one of these where it enters."""

from __future__ import annotations

__all__ = [
    "InputError",
    "ModelError",
    "RunError",
    "SamplerError",
    "SdbatchError",
    "StorageError",
    "UsageError",
]


class SdbatchError(Exception):
    """Base of all sdbatch errors. The message is for people: what is wrong, where, and what to do."""

    exit_status = 3


class UsageError(SdbatchError):
    """An option, a setting or a combination of them that makes no sense."""

    exit_status = 2


class InputError(UsageError):
    """A prompt table that cannot be run; names the file and, where there is one, the column."""


class ModelError(UsageError):
    """A model that cannot be found, read or run by this engine."""


class SamplerError(UsageError):
    """A sampler that is unknown, or whose scheduler is not linear in latents, model outputs and noise."""


class StorageError(UsageError):
    """A file system that refuses: wrong keys, a missing bucket, no permission to write."""


class RunError(SdbatchError):
    """The run itself broke. What is finished stays finished; running it again resumes."""
