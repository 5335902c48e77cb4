"""Development keys: of a set-up that only this machine's user reaches, made without anybody asking for them."""

import ipaddress
import os
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uuid6
from sqlalchemy import Row, select

from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, ForbiddenError
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.events import SYSTEM, Actor
from mlops_ray.governance.keys import active_keys, development_ended, hash_of, insert_key, revoke
from mlops_ray.governance.principals import DEVELOPMENT, DEVELOPMENT_APPROVER, Principal, Role
from mlops_ray.governance.tables import principals

DEVELOPMENT_KEY_FILE, APPROVER_KEY_FILE = "development_key", "development_approver_key"
_ENDED = (
    "The development keys ended with the first key that was made for somebody. Set MLOPS_RAY_API_KEY to a key of yours."
)


def development_key(store: ControlStore, settings: Settings) -> str:
    """The secret of the development principal (role admin), for a set-up that only this machine reaches.

    It is kept in `<state>/development_key`, which only this user may read, and made anew if that file is gone or its
    key revoked. Raises ConfigurationError if the HTTP host is not a loopback address.
    """
    return _development_key(store, settings, DEVELOPMENT, "admin", DEVELOPMENT_KEY_FILE)


def development_approver_key(store: ControlStore, settings: Settings) -> str:
    """As `development_key`, of a second development principal (role approve): the other pair of eyes, in name only."""
    return _development_key(store, settings, DEVELOPMENT_APPROVER, "approve", APPROVER_KEY_FILE)


def is_single_user(store: ControlStore, settings: Settings) -> bool:
    """Whether there is nobody but this machine's user: the server is not reachable, and never was a key for others."""
    if not is_loopback(settings.http_host) or settings.oidc_issuer:
        return False
    with store.reading() as connection:
        return not development_ended(connection)


def acting(store: ControlStore, settings: Settings, secret: str | None, use_case: str | None = None) -> Actor:
    """Who a process acts as: the principal of the key that it was given, with the roles that it has on `use_case`
    (None: on the platform); the development principal where there is nobody else; or the system.

    Raises ForbiddenError for a key that does not count.
    """
    principal = active_keys(store).get(hash_of(secret)) if secret else None
    if principal is not None and principal.development and not is_loopback(settings.http_host):
        principal = None
    if principal is not None and (principal.expires_at is None or principal.expires_at > datetime.now(UTC)):
        return principal.actor(use_case)
    if is_single_user(store, settings):
        return Actor(DEVELOPMENT, ("admin",), id=DEVELOPMENT)
    if secret:
        raise ForbiddenError("The key in MLOPS_RAY_API_KEY is not known, has expired or was revoked. Ask for another.")
    return SYSTEM


def credential(settings: Settings) -> str | None:
    """The key in MLOPS_RAY_API_KEY; without one, where there is nobody but this machine's user, the development key,
    which is made."""
    given = os.environ.get("MLOPS_RAY_API_KEY")
    if given:
        return given
    store = open_store(settings)
    try:
        return development_key(store, settings) if is_single_user(store, settings) else None
    finally:
        store.close()


def _development_key(store: ControlStore, settings: Settings, name: str, role: Role, file_name: str) -> str:
    if not is_loopback(settings.http_host):
        raise ConfigurationError(
            f"There is no development key on http_host {settings.http_host!r}, which others can reach. "
            f"Make a key with `mlops-ray keys create`, or set http_host to 127.0.0.1."
        )
    with store.reading() as connection:
        if development_ended(connection):
            raise ConfigurationError(_ENDED)
    file = Path(settings.state) / file_name
    active = principals.c.revoked_at.is_(None) & principals.c.development & (principals.c.name == name)
    with store.reading() as connection:
        rows = connection.execute(select(principals).where(active)).all()
    secret = _kept_secret(file, rows)
    if secret is not None:
        return secret
    with store.transaction() as connection:
        if development_ended(connection):
            raise ConfigurationError(_ENDED)
        rows = connection.execute(select(principals).where(active)).all()
        secret = _kept_secret(file, rows)  # another process may have made it since
        if secret is not None:
            return secret
        for row in rows:
            revoke(connection, SYSTEM, row, f"{file} does not hold its secret")
        made = insert_key(
            connection, SYSTEM, Principal(str(uuid6.uuid7()), name, (role,), development=True, person=name)
        )
        # Before the commit: a process that dies here leaves a file without a key, which the next one replaces.
        _write_secret(file, made.secret)
    return made.secret


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _kept_secret(file: Path, rows: Sequence[Row[Any]]) -> str | None:
    """The secret in `file` if it is that of one of `rows`."""
    try:
        secret = file.read_text().strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return secret if hash_of(secret) in {row.key_hash for row in rows} else None


def _write_secret(file: Path, secret: str) -> None:
    """All of it or nothing, and from the beginning readable for this user only."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(dir=file.parent, prefix=f"{file.name}.")  # mkstemp: mode 0600
    with os.fdopen(descriptor, "w") as stream:
        stream.write(f"{secret}\n")
    os.replace(partial, file)
