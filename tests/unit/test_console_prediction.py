"""The page of a prediction: what the model was given, what turned out to be true, and reasons computed when asked."""

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.predictions.answers import columns_of, layout_of
from mlops_ray.predictions.labels import BY_REQUEST, write_by_request
from mlops_ray.registry.reasons import reasons
from mlops_ray.registry.sealed_model import load, model_inputs
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.task import Task
from mlops_ray.testing.example_lineage import example_lineage, register_example
from tests.console_server import HOSTILE, ConsoleServer, console
from tests.task_models import DELAY, OUTCOME, VECTORS, sealed_as
from tests.unit.test_lineage import ASKED_AT, ledger_of, request_at
from tests.unit.test_sealed_model import reseal

PAGE = "/console/predictions"


@dataclass(frozen=True)
class Answered:
    server: ConsoleServer
    request: str
    wanted: list[dict[str, Any]]

    def page(self, who: str = "ann", **asked: str) -> str:
        answer = self.server.browser(who).get(PAGE, params={"request": self.request, **asked})
        assert answer.status_code == 200, answer.text
        return answer.text


def answered(server: ConsoleServer, task: Task, version: int, person: str = "", off: float = 0.0) -> Answered:
    """Two rows of one request. person: the ledger's hash where the carrier is personal. off: of what is recorded."""
    artifacts = Artifacts(server.settings.artifacts)
    folder = Path(server.settings.artifacts) / "sealed_models/flights/made"
    digest = sealed_as(task)(folder, version)
    if person:
        schema = json.loads((folder / "schema.json").read_text())
        for column in schema["request_columns"]:
            column["personal"] = "hash" if column["name"] == "carrier" else None
        digest = reseal(folder, "schema.json", json.dumps(schema).encode())
    folder.rename(folder.with_name(digest))
    sealed = load(folder.with_name(digest), digest)
    register_example(server.settings, server.store, example_lineage(digest=digest), version)
    rows = pl.DataFrame(VECTORS[:2])
    inputs = model_inputs(rows, sealed.schema.features)
    answer = sealed.model.answers(*inputs)
    columns = columns_of(layout_of(task), (answer + off).tobytes())
    moment = ASKED_AT + timedelta(seconds=version)
    asked = request_at(moment)
    for at, vector in enumerate(VECTORS[:2]):
        shown = vector | ({"carrier": person} if person else {})
        row: dict[str, Any] = {f"feature.{name}": value for name, value in shown.items()}
        row |= {f"key.{name}": shown[name] for name in ("origin", "carrier")} | {"row": at, "version": str(version)}
        row |= {"request_id": asked, "time": moment, **{name: column[at] for name, column in columns.items()}}
        ledger_of(server.settings, row)
    told = {"request_id": asked, "row": 0, "known_at": moment, "received_at": moment}
    label = {BINARY: True, OUTCOME: HOSTILE, DELAY: 12.5}[task]
    write_by_request(artifacts, "flights", request_at(moment), pl.DataFrame([told | {"label": label}]).cast(
        {"row": BY_REQUEST["row"], "known_at": BY_REQUEST["known_at"], "received_at": BY_REQUEST["received_at"]}
    ))  # fmt: skip
    return Answered(server, asked, reasons(sealed, *inputs, answer))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleServer]:
    with console(tmp_path_factory.mktemp("state")) as server:
        yield server


def texts(page: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", page)))


@pytest.mark.parametrize(("task", "version"), [(BINARY, 11), (OUTCOME, 12), (DELAY, 13)], ids=lambda one: str(one)[:9])
def test_features_label_and_reasons_of_a_prediction(server: ConsoleServer, task: Task, version: int) -> None:
    found = answered(server, task, version)
    page = found.page()
    assert "origin JFK JFK" in texts(page)
    assert "distance 200 1900" in texts(page)
    assert "0 true" in texts(page).lower() or "0 12.5" in texts(page) or "&lt;img src=x" in page
    assert "<img" not in page
    assert "adds" not in page
    assert "The ledger holds none." in page
    why = found.page(reasons="now")
    assert "The model gives the recorded answer again." in why
    for row in found.wanted:
        assert f"{row['base']:.4f} for the mean" in why
        for name, value in row["contributions"].items():
            assert f"{name} {value:+.4f}" in texts(why)


def test_an_answer_that_the_model_does_not_repeat_is_said(server: ConsoleServer) -> None:
    assert "does not give the recorded answer again" in answered(server, BINARY, 14, off=0.1).page(reasons="now")


def test_what_tells_of_a_person_is_not_shown_hashed_or_not(server: ConsoleServer) -> None:
    found = answered(server, BINARY, 15, person="5ad4" * 8)
    for asked in ({}, {"reasons": "now"}):
        page = found.page("root", **asked)
        assert "5ad4" not in page
        assert ">carrier<" not in page
        assert "1 columns and features tell of a person" in page
    assert "The reasons cannot be computed: 1 of the 5 features tell of a person" in page


def test_a_model_that_is_gone_leaves_the_rest_of_the_page(server: ConsoleServer) -> None:
    found = answered(server, BINARY, 16)
    for file in (Path(server.settings.artifacts) / "sealed_models").rglob("model.onnx"):
        file.write_bytes(b"damaged")
    page = found.page(reasons="now")
    assert "sealed model cannot be read (IntegrityError)" in page
    assert "distance 200" not in texts(page)
    assert "version 16" in page
    assert "True" in page


def test_reasons_are_for_who_may_see_the_prediction(server: ConsoleServer) -> None:
    found = answered(server, BINARY, 17)
    for who, status in (("eve", 403), ("foreign", 400)):
        answer = server.browser(who).get(PAGE, params={"request": found.request, "reasons": "now"})
        assert (answer.status_code, "distance" in answer.text) == (status, False)
