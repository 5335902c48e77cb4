"""Personal values: replaced by a keyed hash, so that equal values still join and nobody can read them back."""

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.use_case import ColumnType

DIGEST_BYTES = 16


class PersonalHash:
    """HMAC-SHA256 of values (RFC 2104), cut to 16 bytes. Give the same secret everywhere, or nothing joins."""

    def __init__(self, secret: bytes):
        self._secret = secret

    def hash(self, value: Any, type_: ColumnType) -> str | None:
        """32 hexadecimal digits; None for a missing value. `type_` is the column's: 5 and 5.0 are the same number."""
        if value is None or value == "":
            return None
        text = _canonical(value, type_).encode()
        return self.digest(text)[:DIGEST_BYTES].hex()

    def digest(self, content: bytes) -> bytes:
        """32 bytes that nobody without the secret can tell to be of this content."""
        return hmac.digest(self._secret, content, hashlib.sha256)


def personal_hash(settings: Settings) -> PersonalHash:
    """By the secret in `ledger_secret_file`.

    Where it does not exist it is made, readable by its owner alone, if the artifacts lie in the state folder, so that
    nobody else writes there: elsewhere each who made one would have hashes that join with nobody's.
    Raises ConfigurationError where it may not be made, if the file cannot be read or made, or if it holds fewer than 16
    bytes.
    """
    file = settings.ledger_secret_file
    path = Path(file)
    try:
        if not path.exists():
            if not settings.artifacts.startswith(f"{settings.state}/"):
                raise ConfigurationError(
                    f"ledger_secret_file {file} does not exist, and others may share the artifacts at "
                    f"{settings.artifacts}: their hashes must be the same. Copy the file from a node that has it; only "
                    f"if there is none yet, make it once: head -c 32 /dev/urandom | base64 > {file}"
                )
            _make_secret(path)
        secret = path.read_bytes().strip()
    except OSError as error:
        raise ConfigurationError(f"ledger_secret_file {file} cannot be used: {error.strerror}.") from error
    if len(secret) < DIGEST_BYTES:
        raise ConfigurationError(f"ledger_secret_file {file} holds {len(secret)} bytes; a secret needs 16 or more.")
    return PersonalHash(secret)


def _make_secret(path: Path) -> None:
    """Written aside and linked to its name, so that of two processes one wins and none reads half a secret."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(secrets.token_hex(32))
    with suppress(FileExistsError):
        os.link(aside, path)
    aside.unlink()


def _canonical(value: Any, type_: ColumnType) -> str:
    if type_ == "number":
        return repr(float(value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return str(value)
