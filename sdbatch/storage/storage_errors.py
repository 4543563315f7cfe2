"""Classifies file systems' exceptions: which are worth a retry, and what to tell the user."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = [
    "client_errors",
    "explain",
    "is_absence",
    "is_transient",
    "knows_no_conditions",
    "was_answered",
    "was_condition",
    "was_unsatisfiable",
    "without_secrets",
]

# Base classes of the fsspec clients' exceptions besides OSError. A client that was never imported raises none.
CLIENT_ERRORS = {
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "aiohttp": ("ClientError",),
    "gcsfs.retry": ("HttpError",),
    "google.auth.exceptions": ("GoogleAuthError",),
    "azure.core.exceptions": ("AzureError",),
    "huggingface_hub.errors": ("HfHubHTTPError", "RepositoryNotFoundError"),
    "httpx": ("HTTPError",),
    "httpx2": ("HTTPError",),
}
TRANSIENT_CODES = {
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "RequestTimeTooSkewed",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "XAmzContentSHA256Mismatch",
}
TRANSIENT_CLASSES = {
    "ClientConnectionError",
    "ClientPayloadError",
    "ConnectTimeoutError",
    "EndpointConnectionError",
    "HTTPClientError",
    "IncompleteRead",
    "ResponseParserError",
}
MEANINGS = {
    "AccessDenied": "access denied; the credentials lack this permission",
    "403": "access denied; the credentials lack this permission",
    "Forbidden": "access denied; the credentials lack this permission",
    "ExpiredToken": "the credentials have expired",
    "InvalidAccessKeyId": "the store does not know this access key",
    "SignatureDoesNotMatch": "the secret key is wrong",
    "NoSuchBucket": "there is no such bucket",
    "RepositoryNotFoundError": "the Hugging Face hub has no such repository, or this user may not see it; create it "
    "(hf repos create), or log in (hf auth login)",
    "RevisionNotFoundError": "the repository on the Hugging Face hub has no such branch",
    "NoCredentialsError": "no credentials found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
    "or AWS_PROFILE, or give --storage-options",
}
STATUSES = ("status", "status_code", "code")
MIN_SECRET_LENGTH = 4  # shorter values would match parts of ordinary words
SECRET_OPTIONS = ("key", "secret", "token", "password", "credential", "sas", "conn")
SECRET_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN")


def client_errors() -> tuple[type[BaseException], ...]:
    """The exceptions of file systems: `OSError`, and the errors of the clients that are loaded."""
    found: list[type[BaseException]] = [OSError]
    for module, names in CLIENT_ERRORS.items():
        if module in sys.modules:
            found += [getattr(sys.modules[module], name) for name in names]
    return tuple(found)


def is_transient(exc: BaseException) -> bool:
    """Whether the same request may succeed a moment later: 5xx, throttling, a dropped or slow connection."""
    if knows_no_conditions(exc):
        return False
    for cause in _chain(exc):
        code, status = _answer(cause)
        if code in TRANSIENT_CODES or status == 429 or (status is not None and 500 <= status < 600):
            return True
        if isinstance(cause, TimeoutError | ConnectionError):
            return True
        if any(base.__name__ in TRANSIENT_CLASSES for base in type(cause).__mro__):
            return True
    return False


def was_answered(exc: BaseException) -> bool:
    """Whether a server answered."""
    return any(_answer(cause) != (None, None) for cause in _chain(exc))


def was_condition(exc: BaseException) -> bool:
    """Whether a conditional write failed because the file exists or is being written."""
    codes = {code for cause in _chain(exc) for code in _answer(cause)}
    return bool(codes & {"PreconditionFailed", "ConditionalRequestConflict", 412}) or isinstance(exc, FileExistsError)


def knows_no_conditions(exc: BaseException) -> bool:
    """Whether the store does not implement conditional writes."""
    codes = {code for cause in _chain(exc) for code in _answer(cause)}
    return bool(codes & {"NotImplemented", 501})


def was_unsatisfiable(exc: BaseException) -> bool:
    """Whether a read failed because the file has no byte of the requested range."""
    codes = {code for cause in _chain(exc) for code in _answer(cause)}
    return bool(codes & {"InvalidRange", "416", 416})


def is_absence(exc: FileNotFoundError) -> bool:
    """Whether the file is missing, rather than its bucket, its server, or the permission to look for it."""
    codes = {code for cause in _chain(exc) for code in (*_answer(cause), type(cause).__name__)}
    return not codes & {
        "NoSuchBucket",
        401,
        403,
        "RepositoryNotFoundError",
        "RevisionNotFoundError",
    } and not is_transient(exc)


def explain(exc: BaseException) -> str:
    """The file system's error as one line for users."""
    for cause in _chain(exc):
        for key in (_answer(cause)[0], type(cause).__name__):
            if key in MEANINGS:
                return MEANINGS[key]
    if isinstance(exc, FileNotFoundError):
        origin = exc.__cause__ or exc.__context__
        return "there is no such file or folder" if is_absence(exc) or origin is None else explain(origin)
    if isinstance(exc, OSError) and exc.strerror and isinstance(exc.errno, int):
        return exc.strerror.splitlines()[0]
    lines = str(exc).strip().splitlines()
    if not lines:
        return type(exc).__name__
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def without_secrets(text: str, options: Mapping[str, Any]) -> str:
    """The text with all credentials from the options and the usual environment variables removed."""
    secrets = [*_secrets(options), *(os.environ.get(name, "") for name in SECRET_VARIABLES)]
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= MIN_SECRET_LENGTH:
            text = text.replace(secret, "***")
    return text


def _secrets(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _secrets(value)
        elif isinstance(value, str) and any(word in name.lower() for word in SECRET_OPTIONS):
            yield value


def _chain(exc: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = exc
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _answer(exc: BaseException) -> tuple[str | None, int | None]:
    """Error code and HTTP status of a server's answer, from exceptions of botocore, aiohttp, gcsfs, azure, the hub."""
    response = getattr(exc, "response", None)
    if isinstance(response, Mapping):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return str(response.get("Error", {}).get("Code")), status
    for status in (*(getattr(exc, name, None) for name in STATUSES), getattr(response, "status_code", None)):
        if isinstance(status, int):
            return str(status), status
    return None, None
