"""Connection: to a server by its URL and key, or to what lies on this machine."""

import os
from pathlib import Path

from mlops_ray.client import API_KEY_VARIABLE, AsyncClient, Client
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.development_keys import credential
from mlops_ray.governance.versions import expect_name
from mlops_ray.sdk.endpoint import AsyncEndpoint, Endpoint
from mlops_ray.sdk.records import Records, RecordsHere, RecordsThere
from mlops_ray.sdk.settings import AnyPath, settings_here
from mlops_ray.sdk.versions import Versions

URL_VARIABLE = "MLOPS_RAY_URL"
# Somebody sits and waits; a part of the ledger or a view of drift may take the server some seconds.
_TIMEOUT_S, _DEADLINE_S = 60.0, 120.0


class Connection:
    """See `connect`. `client` has all else that a server can be asked: keys, approvals, the audit log, data."""

    def __init__(self, url: str, api_key: str | None, settings: Settings | None = None):
        """settings: where records lie, if they need not be asked for at `url`."""
        self.url, self._api_key = url, api_key
        self.client = Client(url, timeout_s=_TIMEOUT_S, deadline_s=_DEADLINE_S, attempts=3, api_key=api_key)
        self._records: Records = RecordsThere(self.client) if settings is None else RecordsHere(settings)

    def endpoint(self, name: str) -> Endpoint:
        """A served model. It is asked when something is asked of it."""
        expect_name(name)
        return Endpoint(name, self.client, self._records, self.url)

    def async_endpoint(self, name: str) -> AsyncEndpoint:
        """The same for asyncio."""
        expect_name(name)
        client = AsyncClient(self.url, timeout_s=_TIMEOUT_S, deadline_s=_DEADLINE_S, attempts=3, api_key=self._api_key)
        return AsyncEndpoint(name, client, self._records, self.url)

    def versions(self, name: str) -> Versions:
        """What was registered for a use case, newest first."""
        expect_name(name)
        return Versions(name, self._records.versions(name), self._records)

    def __repr__(self) -> str:
        where = "a server" if isinstance(self._records, RecordsThere) else "this machine"
        return f"Connection to {where}, {self.url}"


def connect(url: str | None = None, api_key: str | None = None, *, state: AnyPath | None = None) -> Connection:
    """A connection to a server, by its URL and a key alone; or to what lies in the state folder of this machine.

    url: default MLOPS_RAY_URL. api_key: default MLOPS_RAY_API_KEY. Without a URL, records are read from `state` (see
    `mlops_ray.run`), and predictions asked of the server that its settings name, with the development key where there
    is nobody but this machine's user. Nothing is asked yet.
    Raises ConfigurationError for a URL that is none, and without one where nothing was run yet.
    """
    url = url or (None if state else os.environ.get(URL_VARIABLE))
    if url is None:
        settings = settings_here(state)
        _expect_something(settings)
        return Connection(settings.url, api_key or credential(settings), settings)
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"{url[:80]!r} is no URL of a server. Give one such as https://models.example.org.")
    return Connection(url, api_key if api_key is not None else os.environ.get(API_KEY_VARIABLE))


def _expect_something(settings: Settings) -> None:
    """Raise ConfigurationError where there is no control store: asking would begin one, and find nothing."""
    file = settings.control_store.removeprefix("sqlite:///")
    if file != settings.control_store and not Path(file).exists():
        raise ConfigurationError(
            f"Nothing was run in {settings.state} yet. Run a pipeline (mr.run), give another state folder (state=), or "
            f"name a server: mr.connect(url, key), or {URL_VARIABLE} and {API_KEY_VARIABLE}."
        )


def endpoint(name: str, *, state: AnyPath | None = None) -> Endpoint:
    """A served model, found as `connect()` finds it; `connect(url, key).endpoint(name)` names the server."""
    return connect(state=state).endpoint(name)


def versions(name: str, *, state: AnyPath | None = None) -> Versions:
    """The versions of a use case, found as `connect()` finds them."""
    return connect(state=state).versions(name)
