"""Every page and form of the console by its route: an address of it, what it would do, and who may.

`tests/unit/test_console_routes.py` holds this table against the application's own, so nothing new is left out.
"""

import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from mlops_ray.catalogue.retire import retire
from mlops_ray.governance.approvals import request
from mlops_ray.governance.channels import Channels
from mlops_ray.governance.events import SYSTEM, Actor
from mlops_ray.governance.keys import active_keys, create_key
from mlops_ray.governance.notifications import list_subscriptions, subscribe
from mlops_ray.governance.policies import Policy
from mlops_ray.governance.policy_changes import set_policy
from mlops_ray.governance.replicas import Replica, report
from mlops_ray.governance.usage import Part, month_of, now, write_usage
from mlops_ray.governance.versions import VersionRef
from mlops_ray.tasks.binary import BINARY
from mlops_ray.testing.example_stream import example_stream
from tests.console_data import ingest_twice
from tests.console_server import ConsoleServer, roll_out
from tests.task_models import OUTCOME
from tests.unit.test_console_prediction import answered
from tests.unit.test_drift_page import NAME, Watching, moved

EVERYBODY = frozenset({"root", "ann", "bob", "carol", "audrey", "eve", "foreign"})
LOOKS = EVERYBODY - {"eve", "foreign"}
AUDITS = frozenset({"root", "audrey"})
OPERATES = frozenset({"root", "ann"})
APPROVES = frozenset({"root", "bob", "carol"})
ADMINISTERS = frozenset({"root"})


@dataclass(frozen=True)
class Page:
    """path: an address, with names of `known` in braces. may: who sees it; others are refused."""

    path: str
    may: frozenset[str]


@dataclass(frozen=True)
class Form:
    """fields: with which it does something, for whoever `may`; names of `known` in braces."""

    path: str
    may: frozenset[str]
    fields: Mapping[str, str] = field(default_factory=dict)


_CASE, _OF_CASE = "/console/use-cases/flights", "/console/use-cases/{use_case}"
_VERSION = f"{_OF_CASE}/versions/{{version:int}}"

PAGES = {
    "/console": Page("/console", EVERYBODY),
    _OF_CASE: Page(_CASE, LOOKS),
    f"{_OF_CASE}/drift": Page(f"/console/use-cases/{NAME}/drift", LOOKS),
    f"{_OF_CASE}/data": Page(f"{_CASE}/data", LOOKS),
    f"{_OF_CASE}/data/{{digest}}": Page(f"{_CASE}/data/{{snapshot}}", LOOKS),
    f"{_OF_CASE}/data/{{digest}}/profile/{{source}}": Page(f"{_CASE}/data/{{snapshot}}/profile/trips", LOOKS),
    _VERSION: Page(f"{_CASE}/versions/2", LOOKS),
    "/console/predictions": Page("/console/predictions?request={request}&reasons=now", OPERATES | APPROVES | AUDITS),
    "/console/rules": Page("/console/rules", EVERYBODY),
    "/console/keys": Page("/console/keys", AUDITS),
    "/console/subscriptions": Page("/console/subscriptions", EVERYBODY),
    "/console/audit": Page("/console/audit", AUDITS),
}
FORMS = {
    f"{_OF_CASE}/rollout": Form(
        f"{_CASE}/rollout", OPERATES, {"action": "rollback", "to": "1", "revision": "{revision}", "reason": "slow"}
    ),
    f"{_OF_CASE}/alarms/silence": Form(
        f"{_CASE}/alarms/silence", OPERATES, {"alarm": "a1b2c3", "hours": "4", "reason": "a strike"}
    ),
    f"{_VERSION}/decision": Form(
        f"{_CASE}/versions/3/decision", APPROVES, {"verdict": "reject", "reason": "worse", "digest": "c" * 64}
    ),
    "/console/rules/decision": Form(
        "/console/rules/decision", APPROVES, {"id": "{change}", "verdict": "reject", "reason": "no"}
    ),
    "/console/keys/create": Form("/console/keys/create", ADMINISTERS, {"name": "mallory", "role_admin": "1"}),
    "/console/keys/rotate": Form(
        "/console/keys/rotate", ADMINISTERS, {"key": "{spare}", "until": "2999-01-01T00:00", "reason": "yearly"}
    ),
    "/console/keys/revoke": Form("/console/keys/revoke", ADMINISTERS, {"key": "{spare}", "reason": "left us"}),
    "/console/subscriptions/create": Form(
        "/console/subscriptions/create", OPERATES, {"channel": "https://evil.example/hook"}
    ),
    "/console/subscriptions/change": Form(
        "/console/subscriptions/change", OPERATES, {"id": "{subscription}", "action": "end", "reason": "moved"}
    ),
    "/console/audit/verification": Form("/console/audit/verification", AUDITS),
    "/console/sign-out": Form("/console/sign-out", EVERYBODY),
}
# Without a session: of these nothing is refused to strangers, and nothing but a session changes.
OPEN = {
    ("GET", "/console/static/{name}"),
    ("GET", "/console/sign-in"),
    ("POST", "/console/sign-in"),
    ("GET", "/console/sign-in/provider"),
    ("GET", "/console/sign-in/callback"),
}


def fill_all(server: ConsoleServer, hostile: str = "") -> dict[str, str]:
    """Let every page have something to show; `hostile` stands in every text that somebody can choose. Returns the names
    that stand in braces in the table."""
    store, text = server.store, hostile or "as planned"
    author = Actor(hostile or "ada", ("operate",), id="ada")
    roll_out(server)
    request(store, author, "flights", 3, text)
    change = set_policy(store, author, "flights", Policy(), (text,), text)
    assert change is not None
    channel = "https://hooks.example.org/x"
    if hostile:
        channel = f"jsons://hooks.example.org/{hostile.replace(chr(0x202E), '')}"
    subscribe(store, author, Channels(), channel, "flights")
    spare = create_key(store, SYSTEM, re.sub(r"[/\\\u202e]", "", hostile) or "spare", ["audit"])
    first, snapshot = ingest_twice(server.settings, hostile or "gate", hostile or "B12")
    retire(server.settings, store, author, "flights", first.digest, text)
    found = answered(server, OUTCOME if hostile else BINARY, 9)
    Watching(Path(server.settings.state)).take(moved(example_stream(6, 5), timedelta(days=4)), labelled=1_200)
    write_usage(store, Part(text, "step", text, "flights"), month_of(now(store)), {"cpu_s": 9.0}, "failed")
    failed = {VersionRef(2, "b" * 64): text}
    report(store, "flights", Replica(hostile or "r1", "node", 1, failed=failed))
    server.guard.keys = active_keys(store)
    return {
        "change": change.id,
        "revision": "2",
        "request": found.request,
        "snapshot": snapshot.digest,
        "spare": spare.principal.id,
        "subscription": list_subscriptions(store)[0].id,
    }


def written(server: ConsoleServer) -> list[str]:
    """All that the control store holds."""
    database = sqlite3.connect(server.store.file)
    try:
        return list(database.iterdump())
    finally:
        database.close()
