"""What a caller is told of an error: a status by its kind, and a sentence that names nothing of this machine."""

import re

from polars.exceptions import PanicException
from ray.exceptions import RayError, RayTaskError

from mlops_ray.errors import (
    ConfigurationError,
    ConflictError,
    DataError,
    ForbiddenError,
    IntegrityError,
    MlopsRayError,
    UnavailableError,
)

FAILURES: tuple[type[BaseException], ...] = (Exception, PanicException)  # a panic of polars is no Exception
FAILED = "The server failed; its log names the request id."
DAMAGED = "What is stored is not what was registered, so an operator has to look; the log names the request id."

# A use case or a model that is wrong is no caller's mistake: what is not named here is a 500.
_STATUS: dict[type[MlopsRayError], int] = {
    DataError: 400,
    ConfigurationError: 400,
    ForbiddenError: 403,
    ConflictError: 409,
    IntegrityError: 500,
    UnavailableError: 503,
}
_SERVE_ERRORS = "ray.serve.exceptions"  # to import them is to import Serve, which takes a second
_PLACES = re.compile(
    r"""\b[a-z][a-z0-9+.-]*://[^\s'"`,;)\]]+  # URLs
      | (?<![\w.~/-])[.~]{0,2}/[\w.@+~*-]+(?:/[\w.@+~*-]*)*  # paths
      | \b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b  # IPv4
      | (?<![\w:])(?:[0-9a-f]{0,4}:){3,7}[0-9a-f]{0,4}(?![\w:])  # IPv6
      | \blocalhost(?::\d+)?\b | \b[a-z][\w-]*(?:\.[\w-]+)+:\d{2,5}\b  # names with a port
      | \b0x[0-9a-f]{6,}\b | \bpid[ =]\d+""",
    re.VERBOSE | re.IGNORECASE,
)


def cause_of(error: BaseException) -> BaseException:
    """What another process raised, where Ray brought it here with that process's traceback, number and address.

    What Ray raises itself says that a process, a node or a call is lost. It is an UnavailableError: whatever was asked,
    it can be asked again under its id.
    """
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception) and cause is not error:
        return cause_of(cause)
    of_ray = isinstance(error, RayError) and not isinstance(error, RayTaskError | TimeoutError)
    if of_ray or type(error).__module__ == _SERVE_ERRORS:
        return UnavailableError(f"A part of the server does not answer: {type(error).__name__}: {error}")
    return error


def status_of(error: MlopsRayError) -> int:
    """By the nearest of its classes that has one."""
    return next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 500)


def told(error: MlopsRayError) -> str:
    """What a caller may read of the error's text; the log has all of it.

    Of what is down only what it is: behind the colon stands what some library said of it.
    """
    status = status_of(error)
    if status == 500:
        return DAMAGED if isinstance(error, IntegrityError) else FAILED
    text = (str(error).splitlines() or [""])[0]
    if status == 503:
        text = f"{text.partition(': ')[0].rstrip('.')}."
    return _PLACES.sub("…", text)
