"""The token by which the nodes and callers of a Ray cluster know each other. Imports no Ray."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from mlops_ray.artifacts import partial_name
from mlops_ray.errors import ConfigurationError

_BYTES = 32  # as many as Ray's own have


def token_place(environment: Mapping[str, str]) -> Path | None:
    """The file in which Ray looks for its token; None where RAY_AUTH_TOKEN, which counts first, holds the token."""
    if environment.get("RAY_AUTH_TOKEN"):
        return None
    named = environment.get("RAY_AUTH_TOKEN_PATH")
    return Path(named) if named else Path(environment.get("HOME") or Path.home()) / ".ray" / "auth_token"


def make_token(place: Path) -> bool:
    """Whether a token was made: one that is there is kept, and closed to other users. Of several makers at once, one
    counts. Ray's own command leaves the file open to every user of the machine, and prints the token.

    Raises ConfigurationError where the file is empty or cannot be written.
    """
    try:
        made = not place.exists() and _make(place)
        if not made and place.stat().st_mode & 0o077:
            place.chmod(0o600)
    except OSError as error:
        raise ConfigurationError(
            f"Ray's token {place} cannot be made: {error.strerror}. Have its folder made writable, or name another "
            f"file in RAY_AUTH_TOKEN_PATH."
        ) from error
    expect_token(place)
    return made


def _make(place: Path) -> bool:
    """Whole or not at all; False where another maker was faster."""
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = place.with_name(partial_name(place.name))
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(_BYTES))
    try:
        os.link(partial, place)
    except FileExistsError:
        return False
    finally:
        partial.unlink()
    return True


def expect_token(place: Path | None) -> None:
    """Raise ConfigurationError unless Ray would find a token there."""
    if place is None:
        return
    try:
        if place.read_text().strip():
            return
    except OSError as error:
        raise ConfigurationError(
            f"Ray's token {place} cannot be read: {error.strerror}. Make it with `mlops-ray cluster token`; on another "
            f"node of a cluster copy the file of the head."
        ) from error
    raise ConfigurationError(f"Ray's token {place} is empty. Delete the file, and run `mlops-ray cluster token`.")
