"""The routes of approvals answer as the server's OpenAPI document says, whatever they are sent."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from schemathesis import GenerationMode
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.principals import active_keys, create_key
from mlops_ray.governance.versions import Evidence, record_version
from mlops_ray.serving.approvals import Approvals
from mlops_ray.serving.auth import Guard
from mlops_ray.serving.http import Routes
from mlops_ray.serving.openapi import openapi_of_server
from tests.integration.test_openapi import WithKey, ask


@pytest.fixture
def schema(tmp_path: Path) -> Iterator[Any]:
    store = ControlStore(f"sqlite:///{tmp_path}/control_store.db")
    store.migrate()
    record_version(store, SYSTEM, "flights", 1, Evidence("a" * 64, "b" * 64))
    key = create_key(store, SYSTEM, "ann", ["admin"]).secret
    routes = Approvals(store).routes()
    document = openapi_of_server("1")
    assert {path for path in document["paths"] if "approvals" in path} == {f"/v2{path}" for path in routes}
    version = document["components"]["schemas"]["Version"]["properties"]
    version["model"], version["version"]["maximum"] = {"enum": ["flights", "trains", "../x"]}, 2
    app = Starlette(
        routes=[
            Route("/openapi.json", lambda request: JSONResponse(document)),
            Mount("/v2", WithKey(Routes(routes, Guard(None, active_keys(store))), key)),
        ]
    )
    yield schemathesis.openapi.from_asgi("/openapi.json", app)
    store.close()


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("what", ["request", "approve", "reject", "revoke", "break-glass"])
def test_approvals_answer_as_described_whatever_comes(schema: Any, what: str, mode: GenerationMode) -> None:
    ask(schema[f"/v2/approvals/{what}"]["POST"], mode, 20, lambda case, response: None)


def test_the_list_is_as_described(schema: Any) -> None:
    ask(schema["/v2/approvals/request"]["POST"], GenerationMode.POSITIVE, 20, lambda case, response: None)
    ask(schema["/v2/approvals"]["GET"], GenerationMode.POSITIVE, 2, lambda case, response: None)
