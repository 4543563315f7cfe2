"""Recognises out-of-memory errors of all libraries, and releases memory."""

from __future__ import annotations

import gc
import traceback

import torch

__all__ = ["forget", "is_out_of_memory", "release_cached"]

# Libraries below torch report it as a RuntimeError, or their own error, that only the text distinguishes.
TEXTS = (
    "out of memory",  # CUDA runtime and driver, pinned memory, Triton ("Triton Error [CUDA]: out of memory"), ROCm
    "cuda_error_out_of_memory",
    "cudaerrormemoryallocation",
    "unable to find an engine to execute this computation",  # cuDNN, after each of its plans had no workspace
    "alloc_failed",  # CUBLAS_, CUSOLVER_, CUSPARSE_, CUFFT_ and CUDNN_STATUS_ALLOC_FAILED
    "allocation_failed",  # cuDNN 9: CUDNN_STATUS_INTERNAL_ERROR_{HOST,DEVICE}_ALLOCATION_FAILED
    "defaultcpuallocator",  # "can't allocate memory" or "not enough memory"
    "cannot allocate memory",  # ENOMEM
    "std::bad_alloc",
    "could not allocate",  # oneDNN, and pinned memory
    "failed to allocate",
)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one of its causes, says that the device or the host has run out of memory.

    Other CUDA errors (an illegal address, a launch failure) do not count.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(error, RuntimeError | OSError) and any(text in str(error).lower() for text in TEXTS):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def forget(error: BaseException) -> None:
    """Release the frames of an error's traceback: they hold the tensors that fill the memory."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        traceback.clear_frames(following.__traceback__)
        following = following.__cause__ or following.__context__


def release_cached(device: torch.device) -> None:
    """Return memory cached by torch to the device."""
    gc.collect()  # a failed call leaves reference cycles that hold tensors
    if device.type == "cuda":
        torch.cuda.empty_cache()
