"""Calls of the hub's client: made again where the trouble passes, and what their failures mean to users."""

from __future__ import annotations

import errno
import json
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from huggingface_hub import errors

from pythia_cpu._errors import CheckpointError

_NUM_TRIES = 6
_NUM_TRIES_WITHOUT_ANSWER = 3
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 60.0
_LONGEST_RATE_LIMIT_S = 301.0  # the hub counts requests in windows of five minutes
_RATE_LIMIT_RESET = re.compile(r"\bt=(\d+)")
_LOG_IN = "log in with 'hf auth login' or set HF_TOKEN"
# What the client raises when the hub does not answer as it should: OSErrors, and those of the HTTP library beneath it.
HTTP_ERRORS: tuple[type[BaseException], ...] = (
    OSError,
    errors.HfHubHTTPError.__bases__[0],
    json.JSONDecodeError,  # a network that answers for the hub, with a page to log in
)
_CAUGHT: tuple[type[BaseException], ...] = (errors.EntryNotFoundError, *HTTP_ERRORS)
# Of this machine's disk: the same the next time.
_LOCAL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)

_Result = TypeVar("_Result")


def patiently(call: Callable[[], _Result], *, tries_without_answer: int = _NUM_TRIES_WITHOUT_ANSWER) -> _Result:
    """Calls again after 429, 5xx and cut connections, waiting as the hub asks or twice as long each time: after 429 for
    up to five minutes in all.
    """
    wait_s, waited_s, tries = _FIRST_WAIT_S, 0.0, 0
    while True:
        tries += 1
        try:
            return call()
        except _CAUGHT as raised:
            error = cause_of(raised)
            if isinstance(error, errors.OfflineModeIsEnabled | errors.EntryNotFoundError):
                raise
            status = status_of(error)
            passing = status is None or status == 429 or status >= 500
            if not passing or getattr(error, "errno", None) in _LOCAL_ERRNOS:
                raise
            if status == 429:
                if waited_s >= _LONGEST_RATE_LIMIT_S:
                    raise
            elif tries >= (tries_without_answer if status is None else _NUM_TRIES):
                raise
            asked_s, own_s = _asked_wait_s(error), min(wait_s, _LONGEST_WAIT_S)
            most_s = _LONGEST_RATE_LIMIT_S if status == 429 else _LONGEST_WAIT_S
            pause_s = own_s if asked_s is None else min(asked_s, most_s)
            time.sleep(pause_s)
            waited_s += max(pause_s, own_s)
            wait_s *= 2


def cause_of(error: BaseException) -> BaseException:
    """What made the client say that a file is neither here nor to be had; other errors as they are."""
    is_wrapped = isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None
    return error.__cause__ or error if is_wrapped else error


def status_of(error: BaseException) -> int | None:
    """The HTTP status of an answer; None if there was none."""
    status: int | None = getattr(getattr(error, "response", None), "status_code", None)
    return status


def is_refusal(error: BaseException) -> bool:
    """Whether the hub answered, and not that it is busy or broken: what was seen earlier is no help."""
    status = status_of(error)
    return status is not None and 400 <= status < 500 and status != 429


def explained(repo_id: str, error: BaseException, otherwise: str) -> Exception:
    """The error for users: of models that are not there or not open to them a CheckpointError, else an OSError that
    says ``otherwise``.
    """
    if isinstance(error, errors.GatedRepoError):
        return CheckpointError(f"{repo_id}: asks for an agreement; accept it on the hub, and {_LOG_IN}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return CheckpointError(
            f"{repo_id}: is neither a folder nor a model on the hub; check its name, and for a private one {_LOG_IN}"
        )
    if status_of(error) in (401, 403):
        return CheckpointError(f"{repo_id}: the hub refuses access ({error}); {_LOG_IN} with a token that is valid")
    return OSError(f"{repo_id}{otherwise} ({error})")


def _asked_wait_s(error: Any) -> float | None:
    """Seconds that the hub asks to wait: Retry-After, or the ``t`` of RateLimit."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    asked = str(headers.get("Retry-After", ""))
    if asked.isdecimal():
        return float(asked)
    reset = _RATE_LIMIT_RESET.search(str(headers.get("RateLimit", "")))
    return float(reset[1]) + 1 if reset else None
