"""Every error a user can meet, sorted by who must act.

Each message says what happened, the value, the limit and the next step. Messages survive a trip between
processes: every class takes one argument, the message, and hands it to `Exception`.
"""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the known one that is most like it, or all there are."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(names) or 'none'}."


class MlopsRayError(Exception):
    """Base of all errors raised on purpose; the command line prints its text without a traceback."""


class DataError(MlopsRayError):
    """The user's data must be repaired: a missing column, an unreadable file, an empty source."""


class UseCaseError(MlopsRayError):
    """The use case must be changed: it does not import, or a declaration contradicts another."""


class NoUseCaseError(UseCaseError):
    """A file of Python declares no use case."""


class ConfigurationError(MlopsRayError):
    """A setting must be changed: an unknown name, a relative path in a job, a port already taken."""


class UnavailableError(MlopsRayError):
    """A dependency is down or does not answer; retry later, or ask its operator."""


class IntegrityError(MlopsRayError):
    """Stored bytes differ from the digest they were stored under, or are no value; the operator must find out why."""


class ModelError(MlopsRayError):
    """A model answered what is no probability; its author must repair it. Counts as a failure of its version."""


class ConflictError(MlopsRayError):
    """Somebody else changed the same thing first; look at what stands now, then decide again."""


class ForbiddenError(MlopsRayError):
    """The caller is known and may not do this; ask somebody whose role allows it."""


class StalledError(MlopsRayError):
    """A run made no progress within its limit and was stopped; who runs it finds out what it waited for, and the same
    run goes on."""


class BudgetError(MlopsRayError):
    """The month's budget of a use case is spent; who pays for it raises it, and the same run goes on."""
