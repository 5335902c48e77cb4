"""The routes of approvals and versions answer as the server's OpenAPI document says, whatever they are sent."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from schemathesis import GenerationMode
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from mlops_ray.config import Settings
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.keys import active_keys, create_key
from mlops_ray.serving.alarms import Alarms
from mlops_ray.serving.approvals import Approvals
from mlops_ray.serving.approvers import Approvers
from mlops_ray.serving.audit_log import AuditLog
from mlops_ray.serving.auth import Guard
from mlops_ray.serving.data import Data
from mlops_ray.serving.http import Routes
from mlops_ray.serving.inventory import Inventory
from mlops_ray.serving.keys import Keys
from mlops_ray.serving.monitoring import Monitored
from mlops_ray.serving.openapi import openapi_of_server
from mlops_ray.serving.records import Records
from mlops_ray.serving.subscriptions import Subscriptions
from mlops_ray.serving.versions import Versions
from mlops_ray.testing.example_lineage import example_lineage, register_example
from tests.integration.test_openapi import WithKey, ask


@pytest.fixture
def schema(tmp_path: Path) -> Iterator[Any]:
    store = ControlStore(f"sqlite:///{tmp_path}/control_store.db")
    store.migrate()
    settings = Settings(state=str(tmp_path), data=str(tmp_path))
    for number in (1, 2):
        register_example(settings, store, example_lineage(digest=f"{number:064x}"), number)
    key = create_key(store, SYSTEM, "ann", ["admin"]).secret
    parts = (
        Approvals(store), Approvers(settings, store), Versions(settings, store), Keys(settings, store),
        Subscriptions(settings, store), AuditLog(settings, store), Inventory(store),
        Monitored(settings, store), Data(settings, store), Alarms(store), Records(settings, store),
    )  # fmt: skip
    routes = {path: methods for part in parts for path, methods in part.routes().items()}
    document = openapi_of_server("1")
    described = {path: set(methods) for path, methods in document["paths"].items() if path[3:] in routes}
    assert described == {f"/v2{path}": {m.lower() for m in methods} for path, methods in routes.items()}
    version = document["components"]["schemas"]["Version"]["properties"]
    version["model"], version["version"]["maximum"] = {"enum": ["flights", "trains", "../x"]}, 2
    for body in ("NewDelegation", "NewReport", "ReportQuestion"):
        document["components"]["schemas"][body]["properties"]["model"] = {"enum": ["flights", "trains", "../x"]}
    of = {"enum": ["flights", "flights@1", "flights@2", "../x", "018d0000-0000-7000-8000-000000000000"]}
    document["components"]["schemas"]["LineageQuestion"]["properties"]["of"] = of
    app = Starlette(
        routes=[
            Route("/openapi.json", lambda request: JSONResponse(document)),
            Mount("/v2", WithKey(Routes(routes, Guard(None, active_keys(store))), key)),
        ]
    )
    yield schemathesis.openapi.from_asgi("/openapi.json", app)
    store.close()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize(
    "path",
    [f"approvals/{what}" for what in ("request", "approve", "reject", "revoke", "break-glass")]
    + [f"approvals/{what}" for what in ("rules/approve", "rules/reject", "delegations", "delegations/end")]
    + ["approvals/reports", "approvals/reports/read", "versions/retire", "versions/lineage"]
    + [f"keys/{what}" for what in ("create", "rotate", "revoke")]
    + ["inventory/review", "alarms/silence", "monitoring/set", "data/retire", "data/erase"]
    + [f"subscriptions/{what}" for what in ("create", "pause", "resume", "end", "test")],
)
def test_people_are_answered_as_described_whatever_comes(schema: Any, path: str, mode: GenerationMode) -> None:
    ask(schema[f"/v2/{path}"]["POST"], mode, 20, lambda case, response: None)


def test_the_list_is_as_described(schema: Any) -> None:
    ask(schema["/v2/approvals/request"]["POST"], GenerationMode.POSITIVE, 20, lambda case, response: None)
    for path in ("", "/rules", "/delegations"):
        ask(schema[f"/v2/approvals{path}"]["GET"], GenerationMode.POSITIVE, 2, lambda case, response: None)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize(
    "path",
    ["keys", "persons", "subscriptions", "audit/events", "audit/verification", "inventory", "monitoring"]
    + ["versions", "alarms", "drift", "data/profile"]
    + [f"data/{what}" for what in ("snapshots", "snapshot", "tables", "table", "work")],
)
def test_what_an_auditor_reads_is_as_described(schema: Any, path: str, mode: GenerationMode) -> None:
    if path == "audit/verification":
        schema["/v2/audit/verification"]["POST"].Case().call()
        if mode == GenerationMode.NEGATIVE:
            return  # it takes nothing that could be wrong
    ask(schema[f"/v2/{path}"]["GET"], mode, 20, lambda case, response: None)
