"""Doctor: what of a machine and its settings would stop work, found before work begins.

Nothing is changed, but for an object in an object store that is written and deleted again.
"""

import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from uuid import uuid4

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from mlops_ray.artifacts import Artifacts, locate
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, MlopsRayError
from mlops_ray.extras import is_installed
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.references import is_reference, value_of
from mlops_ray.governance.schema import expect_usable
from mlops_ray.operations.backup.databases import expect_tools
from mlops_ray.operations.clocks import Clock, of_control_store, of_nodes, of_server
from mlops_ray.operations.installed_packages import extras_here, promised
from mlops_ray.operations.own_databases import expect_own_databases
from mlops_ray.operations.ray_token import expect_token, token_place
from mlops_ray.state_folder import expect_room

LOCK = "requirements.lock"
_REACHED_WITHIN_S = 3.0
_MOST_SAID = 5
# A daemon keeps clocks within a fraction of a second. From a minute on tokens of an identity provider are refused.
_DOUBTED_S, _REFUSED_S = 10.0, 60.0
_PORTS = {"postgresql": 5432, "redis": 6379, "rediss": 6379, "http": 80, "https": 443, "mysql": 3306}
_PYTHONS = ((3, 11), (3, 14))  # from, and below
_FILES_OF_KEYS = ("audit_public_key", "audit_time_stamp_roots", "evidence_public_key", "model_signing_public_key")
_SECRETS = ("audit_key", "evidence_key", "model_signing_key")


@dataclass(frozen=True)
class Examined:
    """What was looked at. state: `error` for what stops work, `warning` for what may."""

    name: str
    state: Literal["ok", "warning", "error"]
    sentence: str


class _Doubt(Exception):
    """What may stop work, as a sentence."""


def examine(settings: Settings, project: Path, more: Mapping[str, Callable[[], None]]) -> list[Examined]:
    """project: the folder with the lock file. more: further looks by name, which raise a MlopsRayError where
    something is missing."""
    looks: dict[str, Callable[[], str]] = {
        "python": _python,
        "packages": lambda: _packages(project / LOCK),
        "state": lambda: _state(settings),
        "data": lambda: _data(settings.data),
        "artifacts": lambda: _artifacts(settings),
        "control_store": lambda: _control_store(settings),
        "databases": lambda: _own_databases(settings),
        **{name: lambda name=name: _reached(_named(getattr(settings, name))) for name in _servers(settings)},  # type: ignore[misc]
        **{name: lambda name=name: _readable(getattr(settings, name)) for name in _keys(settings)},  # type: ignore[misc]
        **({"backups": lambda: _backups(settings)} if settings.backups else {}),
        **({"clocks": lambda: _clocks(settings)} if _has_other_clocks(settings) else {}),
        **({"ray_token": _ray_token} if os.environ.get("RAY_AUTH_MODE") == "token" else {}),
        **{name: lambda look=look: look() or "as it should be" for name, look in more.items()},  # type: ignore[misc]
    }
    return [_looked(name, look) for name, look in looks.items()]


def _looked(name: str, look: Callable[[], str]) -> Examined:
    try:
        return Examined(name, "ok", look())
    except _Doubt as doubt:
        return Examined(name, "warning", str(doubt))
    except (MlopsRayError, OSError) as error:
        return Examined(name, "error", str(error))


def _python() -> str:
    found = sys.version_info[:2]
    if not _PYTHONS[0] <= found < _PYTHONS[1]:
        raise ConfigurationError(
            f"Python is {found[0]}.{found[1]}, and 3.11, 3.12 or 3.13 is needed. Make an environment of one of them."
        )
    return f"Python {sys.version.split()[0]}"


def _packages(lock: Path) -> str:
    """Whether what is installed is what the lock file pins. Only what this machine's extras need can be missing."""
    if not lock.is_file():
        raise _Doubt(f"There is no {lock}, so that nobody knows which versions belong here.")
    pinned = [one for one in map(_pin, lock.read_text().splitlines()) if one is not None]
    needed = promised()
    elsewhere = [one for one in pinned if canonicalize_name(one.name) not in needed and not is_installed(one.name)]
    here = [one for one in pinned if one not in elsewhere]
    differing = [said for one in here if (said := _difference(one))]
    if differing:
        more = f" and {len(differing) - _MOST_SAID} more" if len(differing) > _MOST_SAID else ""
        raise _Doubt(
            f"{len(differing)} of {len(here)} packages are not as {lock.name} has them: "
            f"{', '.join(differing[:_MOST_SAID])}{more}. Install it: pip install -r {lock.name}."
        )
    absent = ", ".join(name for name, is_here in extras_here().items() if not is_here)
    more = f"; {len(elsewhere)} more are of what is not installed here ({absent})" if elsewhere else ""
    return f"{len(here)} packages as {lock.name} has them{more}"


def _pin(line: str) -> Requirement | None:
    """What a line pins, where it does so here."""
    try:
        wanted = Requirement(line.split("#")[0].split(" --hash")[0].rstrip("\\ "))
    except InvalidRequirement:
        return None
    exact = any(one.operator == "==" for one in wanted.specifier)
    return wanted if exact and (wanted.marker is None or wanted.marker.evaluate()) else None


def _difference(wanted: Requirement) -> str | None:
    try:
        found = version(wanted.name)
    except PackageNotFoundError:
        return f"{wanted.name} is missing"
    return None if wanted.specifier.contains(found, prereleases=True) else f"{wanted.name} {found} ({wanted.specifier})"


def _state(settings: Settings) -> str:
    folder = Path(settings.state)
    if not folder.exists():
        _expect_can_be_made(folder)
        return f"{folder} is made when it is needed"
    expect_room(settings)
    return f"{folder} can be written"


def _expect_can_be_made(folder: Path) -> None:
    above = next(one for one in folder.parents if one.exists())
    if not os.access(above, os.W_OK | os.X_OK):
        raise ConfigurationError(f"{folder} cannot be made: {above} cannot be written. Have it made, or give another.")


def _data(place: str) -> str:
    if "://" not in place and not Path(place).is_dir():
        raise _Doubt(f"There is no folder {place}. Set `data` to where the raw files are.")
    _listed(place)
    return f"{_shown(place)} can be read"


def _artifacts(settings: Settings) -> str:
    place = settings.artifacts
    if "://" in place:
        return _written_and_deleted(place)
    if not Path(place).exists():
        _expect_can_be_made(Path(place))
        return f"{place} is made when it is needed"
    if not os.access(place, os.W_OK | os.X_OK):
        raise ConfigurationError(f"{place} cannot be written. Have it made writable, or set `artifacts`.")
    return f"{place} can be written"


def _written_and_deleted(place: str) -> str:
    """Raise ConfigurationError unless an object can be written, and deleted again."""
    artifacts, name = Artifacts(place), f"doctor-{uuid4().hex}"
    try:
        artifacts.write_bytes(b"mlops-ray doctor", name)
        artifacts.delete(name)
    except (OSError, ValueError, MlopsRayError) as error:
        said = " ".join(str(error).split())[:300]
        raise ConfigurationError(f"{_shown(place)} cannot be written: {said}.") from None
    return f"{_shown(place)} can be written"


def _listed(place: str) -> None:
    """Raise ConfigurationError unless a folder or bucket can be looked at."""
    try:
        filesystem, path = locate(place)
        filesystem.get_file_info(path)
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())[:300]
        raise ConfigurationError(f"{_shown(place)} cannot be reached: {said}.") from None


def _control_store(settings: Settings) -> str:
    store = ControlStore(settings.control_store, wait_s=_REACHED_WITHIN_S)
    if store.is_file and not store.file.exists():
        return "it is made when it is needed"
    if not store.is_file and store.servers:
        _reached(store.servers)
    schema = store.schema()
    if schema.revision is None:
        return "it is empty: its tables are made when they are needed"
    expect_usable(schema, str(store))
    return f"schema {schema.revision}"


def _own_databases(settings: Settings) -> str:
    try:
        expect_own_databases(settings)
    except ConfigurationError as error:
        raise _Doubt(f"No backup can be made: {error}") from None
    return "each store has one to itself"


def _servers(settings: Settings) -> Iterator[str]:
    """Settings that name a server beside the control store."""
    for name in ("mlflow_uri", "feast_registry", "online_store", "oidc_keys", "advisories"):
        host = getattr(settings, name).partition("://")[2].partition("/")[0].rpartition("@")[2]
        if host and not host.lower().startswith("%2f"):  # the folder of a socket
            yield name


def _named(url: str) -> list[tuple[str, int]]:
    """Host and port of the servers in a URL: several as PostgreSQL has it (`one:5432,two:5432`).

    Raises ConfigurationError, which shows nothing of the URL, if it cannot be read: its password may be anywhere.
    """
    try:
        parts = urlsplit(url)
        usual = _PORTS.get(parts.scheme.partition("+")[0], 443)
        servers = [urlsplit(f"//{host}") for host in parts.netloc.rpartition("@")[2].split(",")]
        named = [(server.hostname or "", server.port or usual) for server in servers]
    except ValueError:
        named = []
    account_is_cut_off = "@" not in parts.netloc and "@" in url if named else True
    if account_is_cut_off or not all(host for host, _ in named):
        raise ConfigurationError(
            "It cannot be read as an address, scheme://user:password@host:port/name. A port is a number, and what "
            "means something in a URL is written with % in a password: # as %23, / as %2F, ? as %3F, @ as %40."
        )
    return named


def _reached(servers: Sequence[tuple[str, int]]) -> str:
    """Raise ConfigurationError unless one takes connections. Whether it lets us in is not asked.

    Where there are several, one that is away is a doubt.
    """
    away = {f"{host}:{port}": said for host, port in servers if (said := _refuses(host, port))}
    told = "; ".join(f"{server} takes no connections: {said}" for server, said in away.items())
    if len(away) == len(servers):
        raise ConfigurationError(f"{told}. Start it, or mend the setting.")
    if away:
        raise _Doubt(f"{told}. The rest answers. Start it again before that fails too.")
    return f"{', '.join(f'{host}:{port}' for host, port in servers)} takes connections"


def _refuses(host: str, port: int) -> str:
    try:
        socket.create_connection((host, port), timeout=_REACHED_WITHIN_S).close()
    except OSError as error:
        return str(error)
    except UnicodeError:
        return "that is no name of a host"
    return ""


def _keys(settings: Settings) -> Iterator[str]:
    for name in (*_SECRETS, *_FILES_OF_KEYS):
        if getattr(settings, name):
            yield name


def _readable(place: str) -> str:
    """Raise ConfigurationError unless a key is where a setting says. It is not shown."""
    value_of(place if is_reference(place) else f"file:{place}")
    return "it is where the setting says"


def _backups(settings: Settings) -> str:
    expect_tools(settings)
    return "what copies the databases is on this machine"


def _has_other_clocks(settings: Settings) -> bool:
    return "RAY_ADDRESS" in os.environ or _is_postgresql(settings.control_store) or _is_http(settings.mlflow_uri)


def _is_postgresql(url: str) -> bool:
    return url.startswith("postgresql")


def _is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _clocks(settings: Settings) -> str:
    """Raise ConfigurationError if the clock of a server or of a node of the cluster is far from this one's."""
    found = list(_other_clocks(settings))
    off = [f"that of {one.whose} is {abs(one.ahead_s):.0f} s {'ahead' if one.ahead_s > 0 else 'behind'}"
           for one in found if abs(one.ahead_s) > _DOUBTED_S]  # fmt: skip
    if not off:
        return f"{', '.join(one.whose for one in found) or 'nobody else'} within {_DOUBTED_S:g} s of this machine's"
    told = f"Of this machine's clock, {'; '.join(off)}. Let a daemon (chrony) set all of them."
    if any(abs(one.ahead_s) > _REFUSED_S for one in found):
        raise ConfigurationError(told)
    raise _Doubt(told)


def _other_clocks(settings: Settings) -> Iterator[Clock]:
    """Of those who answer: that one is away is said elsewhere."""
    if _is_postgresql(settings.control_store):
        with suppress(MlopsRayError):
            yield of_control_store(ControlStore(settings.control_store, wait_s=_REACHED_WITHIN_S))
    if _is_http(settings.mlflow_uri):
        clock = of_server(settings.mlflow_uri, "mlflow_uri")
        if clock is not None:
            yield clock
    if "RAY_ADDRESS" in os.environ:
        from mlops_ray.operations.local_ray import ray_for

        with ray_for(settings, gives_way=False):  # which would need this package on each node
            yield from of_nodes()


def _ray_token() -> str:
    """Raise ConfigurationError unless Ray finds a token, without which `ray start` ends in a traceback."""
    place = token_place(os.environ)
    expect_token(place)
    if place is None:
        return "RAY_AUTH_TOKEN holds it"
    if place.stat().st_mode & 0o077:
        raise _Doubt(f"{place} can be read by other users of this machine: chmod 600 {place}.")
    return f"{place} holds it"


def _shown(place: str) -> str:
    """A path or URL without a password and options."""
    scheme, mark, rest = place.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}" if mark else place
