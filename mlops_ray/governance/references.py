"""References: where a secret stands, `env:NAME` or `file:/path`, in place of the secret; and URLs without theirs."""

import hashlib
import os
from pathlib import Path

from mlops_ray.errors import ConfigurationError

_LONGEST = 2000


def is_reference(text: str) -> bool:
    """Whether it says where something secret stands instead of being it."""
    return text.startswith(("env:", "file:")) and not text.startswith("file://")


def expect_reference(text: str) -> None:
    """Raise ConfigurationError for what begins as a reference and is none."""
    kind, _, where = text.partition(":")
    good = where.isidentifier() if kind == "env" else where.startswith("/") and where.isprintable()
    if not good or len(text) > _LONGEST:
        raise ConfigurationError(f"{text[:60]!r} is neither env:NAME nor file:/path, an absolute path.")


def digest_of(text: str) -> str:
    """What stands for a secret where it must not be read, and yet nobody shall exchange it."""
    return hashlib.sha256(text.encode()).hexdigest()


def without_credentials(url: str) -> str:
    """A URL as it may be shown: without user, password and query. What is no URL stays as it is."""
    scheme, mark, rest = url.partition("://")
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}" if mark else url


def value_of(text: str) -> str:
    """The secret itself, where a reference stands for it. Raises ConfigurationError if there is none."""
    if not is_reference(text):
        return text
    kind, _, where = text.partition(":")
    try:
        value = os.environ[where] if kind == "env" else Path(where).read_text()
    except (KeyError, OSError, ValueError) as error:
        raise ConfigurationError(f"{text} cannot be read by who needs it: {type(error).__name__}.") from None
    if not value.strip():
        raise ConfigurationError(f"{text} is empty.")
    return value.strip()
