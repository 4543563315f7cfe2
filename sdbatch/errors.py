"""The errors that users see. Exceptions of other libraries are mapped to one of these where they occur."""

from __future__ import annotations

__all__ = [
    "AdapterError",
    "InputError",
    "ModelError",
    "PictureError",
    "PromptError",
    "RunError",
    "SamplerError",
    "SdbatchError",
    "StorageError",
    "UnknownOptionError",
    "UsageError",
    "in_one_line",
]


class SdbatchError(Exception):
    """Base of all sdbatch errors. The message says what is wrong, where, and what to do."""

    exit_status = 3


class UsageError(SdbatchError):
    """An invalid option, setting or combination of them."""

    exit_status = 2


class UnknownOptionError(UsageError, TypeError):
    """An unknown keyword; the message names the closest known one."""


class InputError(UsageError):
    """A prompt table that cannot be run; the message names the file and, if known, the column."""


class ModelError(UsageError):
    """A model that cannot be found, read or run by this engine."""


class PictureError(UsageError):
    """An input picture that cannot be read, or not be used for its purpose."""


class AdapterError(UsageError):
    """An adapter, such as a LoRA or a ControlNet, that cannot be found, read or used with the model."""


class PromptError(UsageError):
    """A prompt with a syntax error or an unsupported construct."""


class SamplerError(UsageError):
    """A sampler that is unknown, or whose scheduler is not linear in latents, model outputs and noise."""


class StorageError(UsageError):
    """A file system that denies access: wrong keys, a missing bucket, no permission to write."""


class RunError(SdbatchError):
    """The run failed. Finished shards are kept; running it again resumes."""


def in_one_line(exc: BaseException) -> str:
    """The class of an exception of other code, and the first line of its message."""
    try:
        words = str(exc).strip().partition("\n")[0]
    except Exception:  # its message is code, too
        words = ""
    return f"{type(exc).__name__}: {words}" if words else type(exc).__name__
