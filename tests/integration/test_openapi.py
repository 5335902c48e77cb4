"""The OpenAPI document describes exactly what the endpoint accepts and answers."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import ignored_auth, negative_data_rejection, positive_data_acceptance
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from mlops_ray import Column
from mlops_ray.config import load_settings
from mlops_ray.governance.control_store import open_store
from mlops_ray.ingestion.reading import read_column
from mlops_ray.serving.auth import Guard
from mlops_ray.serving.openapi import openapi_of_server
from mlops_ray.serving.server import ServerApi
from mlops_ray.serving.validation import MAX_EXPLAINED, feature_column
from mlops_ray.testing.example_endpoint import example_endpoint
from mlops_ray.testing.example_model import example_schema
from tests.unit.test_version_routes import no_models

PREFIX = "/v2/models/departures"
MOMENTS = st.datetimes(datetime(1900, 1, 1), datetime(2199, 12, 31)).map(lambda moment: f"{moment.isoformat()}Z")


# What is accepted is compared with the schema below; credentials are tested where there are several (test_auth).
UNCHECKED = [negative_data_rejection, positive_data_acceptance, ignored_auth]


class WithKey:
    """Gives every request the credential, whatever the generator wrote there."""

    def __init__(self, app: ASGIApp, key: str):
        self._app, self._header = app, (b"authorization", f"Bearer {key}".encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        others = [header for header in scope.get("headers", ()) if header[0] != b"authorization"]
        await self._app({**scope, "headers": [*others, self._header]}, receive, send)


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    schemathesis.openapi.format("date-time", MOMENTS)
    with example_endpoint(tmp_path_factory.mktemp("state")) as example:
        app = Starlette(routes=[Mount(PREFIX, WithKey(example.app, example.key))])
        yield schemathesis.openapi.from_asgi(f"{PREFIX}/openapi.json", app)


def ask(operation: Any, mode: GenerationMode, examples: int, check: Callable[[Any, Any], None]) -> None:
    """Send generated requests; every answer must be one that the document describes, and none a 5xx."""

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        response = case.call()
        case.validate_response(
            response, excluded_checks=[negative_data_rejection, positive_data_acceptance, ignored_auth]
        )
        assert response.status_code < 500
        check(case, response)

    run()


def is_too_late(body: Any) -> bool:
    """What a JSON schema cannot say, and the description of `as_of` does: at most two hours before each departure."""
    rows = body["keys"] if isinstance(body["keys"], list) else [body["keys"]]
    first = min(datetime.fromisoformat(row["departure"]) for row in rows)
    return datetime.fromisoformat(body["as_of"]) > first - timedelta(hours=2)


def rows_of(body: Any) -> int:
    rows = body["keys"] if "keys" in body else body["features"]
    return len(rows) if isinstance(rows, list) else 1


def test_what_the_document_allows_is_answered(schema: Any) -> None:
    def answered(case: Any, response: Any) -> None:
        too_late = "keys" in case.body and "as_of" in case.body and is_too_late(case.body)
        too_many = case.body.get("explain") is True and rows_of(case.body) > MAX_EXPLAINED
        assert response.status_code == (400 if too_late or too_many else 200), (case.body, response.text)
        assert response.status_code == 200 or response.json()["field"] in ["as_of"] * too_late + ["explain"] * too_many

    ask(schema[f"{PREFIX}/predict"]["POST"], GenerationMode.POSITIVE, 80, answered)


def in_the_documents_words(body: dict[str, Any]) -> dict[str, Any]:
    """The body with each value as the contract reads it."""
    schema = example_schema()
    columns = {
        "keys": schema.request_columns,
        "features": [feature_column(schema, feature) for feature in schema.features],
    }
    (part,) = {"keys", "features"} & set(body)
    rows = body[part] if isinstance(body[part], list) else [body[part]]
    read = [{c.name: reread(c, row[c.name]) for c in columns[part]} for row in rows]
    assert all(len(row) == len(columns[part]) for row in rows)
    as_of = {"as_of": reread(Column("as_of", "timestamp"), body["as_of"])} if "as_of" in body else {}
    return {part: read, **as_of}


def reread(column: Column, value: Any) -> Any:
    text = value if value is None or isinstance(value, str) else json.dumps(value)
    reading = read_column(column, pl.Series([text], dtype=pl.String), "the test")
    assert not reading.reasons
    found = reading.value[0]
    return found.isoformat() if isinstance(found, datetime) else found


def test_what_the_document_forbids_is_refused(schema: Any) -> None:
    document = schema.raw_schema
    validator = Draft202012Validator({"$ref": "#/components/schemas/Ask", "components": document["components"]})

    def refused(case: Any, response: Any) -> None:
        if not validator.is_valid(case.body):
            # A value may be right in other words, as in a file: then the document allows what it means.
            if response.status_code == 200:
                assert validator.is_valid(in_the_documents_words(case.body)), case.body
                return
            assert 400 <= response.status_code < 500, case.body
            assert response.json()["error"]

    ask(schema[f"{PREFIX}/predict"]["POST"], GenerationMode.NEGATIVE, 40, refused)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_infer_answers_as_described_whatever_comes(schema: Any, mode: GenerationMode) -> None:
    ask(schema[f"{PREFIX}/infer"]["POST"], mode, 40, lambda case, response: None)


@pytest.mark.parametrize("path", ["/rollout", "/rollout/promote", "/rollout/rollback", "/features"])
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_operations_answer_as_described_whatever_comes(schema: Any, path: str, mode: GenerationMode) -> None:
    ask(schema[f"{PREFIX}{path}"]["POST"], mode, 15, lambda case, response: None)


@pytest.mark.parametrize("path", ["", "/ready", "/openapi.json", "/rollout"])
def test_what_can_be_read_is_as_described(schema: Any, path: str) -> None:
    case = schema[f"{PREFIX}{path}"]["GET"].Case()
    assert case.call_and_validate(excluded_checks=[ignored_auth]).status_code == 200


def test_the_document_of_the_server_describes_all_of_its_routes(tmp_path: Path) -> None:
    config = load_settings(state=str(tmp_path), data=str(tmp_path))
    store = open_store(config)
    routes = ServerApi(config, store, Guard(None, {}), no_models).app.routes
    store.close()
    document = openapi_of_server("1")
    assert schemathesis.openapi.from_dict(document).validate() is None
    described = {path: {method.upper() for method in methods} for path, methods in document["paths"].items()}
    assert described == {f"/v2{path}": set(methods) for path, methods in routes.items()}
