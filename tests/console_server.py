"""The console of a real control store, filled by the functions that fill one, on a port of this machine. No Ray."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from mlops_ray.config import Settings
from mlops_ray.governance.alarms import raise_alarm
from mlops_ray.governance.approvals import approve, request
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import SYSTEM, Actor
from mlops_ray.governance.inventory import Declared, declare
from mlops_ray.governance.keys import active_keys, create_key, revoke_key
from mlops_ray.governance.policies import Policy
from mlops_ray.governance.policy_changes import set_policy
from mlops_ray.governance.retrainings import DECIDED, Entry, record_next
from mlops_ray.governance.rollouts import start_rollout
from mlops_ray.governance.versions import VersionRef
from mlops_ray.serving.auth import Guard, tokens_of
from mlops_ray.serving.http import Routes
from mlops_ray.serving.operations import Operations
from mlops_ray.serving.site import Site
from mlops_ray.testing.example_lineage import AUTHOR, example_lineage, register_example

BOB = Actor("bob", ("approve",), id="bob")
HOSTILE = "<img src=x onerror=alert(1)>\"'{{7919*7907}}\u202etxt"
ROLES = {
    "root": ["admin"], "ann": ["operate"], "bob": ["approve"], "carol": ["approve"], "audrey": ["audit"],
    "eve": ["predict"],
}  # fmt: skip


async def no_models() -> dict[str, bool]:
    return {}


class ConsoleServer:
    """Somebody of each role has a key; `foreign` operates and approves another use case."""

    def __init__(self, folder: Path, public: bool = False, port: int = 0, **settings: Any):
        self.settings = Settings(state=str(folder), data=str(folder), **settings)
        self.store = open_store(self.settings)
        self.keys = {name: create_key(self.store, SYSTEM, name, roles).secret for name, roles in ROLES.items()}
        self.keys["foreign"] = create_key(self.store, SYSTEM, "foreign", ["operate", "approve"], ["trains"]).secret
        self.guard = Guard(None, active_keys(self.store), tokens_of(self.settings), public)
        self.site = Site(self.settings, self.store, self.guard, no_models)
        config = uvicorn.Config(self._answer, port=port, log_level="error", lifespan="off", interface="asgi3")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        """Rollouts of flights stand where those of an endpoint do, without its models."""
        prefix = "/v2/models/flights"
        if scope["path"].startswith(f"{prefix}/rollout"):
            routes = Operations(self.store, "flights", lambda version: VersionRef(version, ""), tuple).routes()
            await Routes(routes, self.guard)({**scope, "root_path": prefix}, receive, send)
        else:
            await self.site(scope, receive, send)

    def start(self) -> None:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.001)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self.store.close()

    def revoke(self, name: str) -> None:
        revoke_key(self.store, SYSTEM, name, "gone")
        self.guard.keys = active_keys(self.store)

    def browser(self, name: str = "", **headers: str) -> httpx.Client:
        """One that follows no redirects; signed in if it is named."""
        client = httpx.Client(base_url=self.url, headers=headers, verify=False, timeout=30)
        if name:
            entered = client.post("/console/sign-in", data={"key": self.keys[name]})
            assert entered.status_code == 303, entered.text
        return client


def whole(browser: httpx.Client, path: str) -> httpx.Response:
    """A page, once nothing of it is being read any more."""
    for _ in range(100):
        if "data-soon" not in (answer := browser.get(path)).text:
            break
        time.sleep(0.05)
    return answer


def fill(server: ConsoleServer, hostile: str = "") -> None:
    """flights: version 1 champion, 2 waits for approval, with an alarm and a retraining; trains: nothing live but a
    version. hostile: stands in every text that somebody can choose."""
    store, settings = server.store, server.settings
    text = hostile or "as planned"
    author = Actor(hostile or "ada", ("operate",), id="ada")
    set_policy(store, AUTHOR, "flights", Policy(required=True))
    declare(store, author, "flights", Declared(hostile or "operations@example.org", hostile or "Will it be late?", ""))
    changed: dict[str, Any] = {"owner": text, "purpose": text, "limits": (text,)} if hostile else {}
    if hostile:
        changed |= {"candidate": hostile, "parameters": {hostile: hostile}, "rows": {hostile: _COUNTS}}
        changed |= {"source_files": {hostile: {hostile: "a" * 64}}, "snapshot": hostile, "training_set": hostile}
    for number, digest in ((1, "a" * 64), (2, "b" * 64), (3, "c" * 64)):
        register_example(settings, store, example_lineage(digest=digest, **changed), number)
    request(store, author, "flights", 1, text)
    set_champion(store, author, "flights", approve(store, BOB, "flights", 1, text).ref, text)
    request(store, author, "flights", 2, text)
    now = datetime.now(UTC)
    found = {"question": "data", "window": {"kind": "rows", "start": now.isoformat(), "end": now.isoformat()}}
    found |= {"findings": [], "examples": [], "columns": [text]}
    title = hostile or "The inputs have changed: hour moved by 1.2 (threshold 0.1)"
    raise_alarm(store, "flights", 1, "a1b2c3", title, "critical", now - timedelta(hours=3), found)
    payload = {"order": {"id": "r1", "as_of": now.isoformat()}, "at": now.isoformat(), "numbers": {}}
    because = hostile or "An alarm about the inputs stands for 3 hours."
    record_next(store, SYSTEM, "flights", lambda events: Entry(DECIDED, "retraining flights", because, payload))
    register_example(settings, store, example_lineage("trains", "d" * 64), 1)


_COUNTS = {"rows_in": 10, "accepted": 8, "repaired": 1, "quarantined": 1, "not_yet_known": 0}


def roll_out(server: ConsoleServer) -> None:
    """Version 2 is approved, and its rollout under way."""
    approved = approve(server.store, BOB, "flights", 2, "good")
    start_rollout(server.store, AUTHOR, "flights", approved.ref)


@contextmanager
def console(
    folder: Path, hostile: str = "", public: bool = False, port: int = 0, **settings: Any
) -> Iterator[ConsoleServer]:
    server = ConsoleServer(folder, public, port, **settings)
    fill(server, hostile)
    server.start()
    try:
        yield server
    finally:
        server.stop()
