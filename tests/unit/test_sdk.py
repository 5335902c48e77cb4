"""What a notebook uses: frames go in and out, everything shows itself, and a URL with a key is enough."""

import asyncio
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

import mlops_ray as mr
from mlops_ray.config import Settings
from mlops_ray.errors import (
    BudgetError,
    ConfigurationError,
    DataError,
    ForbiddenError,
    MlopsRayError,
    UnavailableError,
)
from mlops_ray.evaluation.report import EvaluationReport
from mlops_ray.frames import like, to_polars
from mlops_ray.governance.budgets import Budget, set_budget
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.usage import read_usage
from mlops_ray.registry.trace import Trace
from mlops_ray.sdk.connection import Connection
from mlops_ray.sdk.endpoint import Endpoint
from mlops_ray.sdk.leaderboard import Leaderboard
from mlops_ray.sdk.rollout import RolloutState
from mlops_ray.serving.server import ServerApi
from mlops_ray.show.shown import Shown
from mlops_ray.testing.example_endpoint import NAME, ExampleEndpoint, example_endpoint
from mlops_ray.testing.example_lineage import example_lineage, register_example
from tests.unit.test_drift_page import expect_harmless
from tests.unit.test_run_command import CASE as ORDERS
from tests.unit.test_version_routes import no_models

EVIL = "<script>alert(1)</script>\x1b[2J"
MOMENT = datetime(2030, 1, 15, 13, 30, tzinfo=UTC)
ROWS = pl.DataFrame(
    {
        "carrier": ["AA", "UA", "ZZ"],
        "origin": ["JFK", "EWR", "LGA"],
        "departure": [MOMENT + timedelta(hours=number) for number in range(3)],
        "distance": [500.0, None, 0.0],
        "note": ["kept", "as", "given"],
    }
)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExampleEndpoint]:
    with example_endpoint(tmp_path_factory.mktemp("sdk")) as found:
        yield found


@contextmanager
def listening(app: Starlette) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.001)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def url(example: ExampleEndpoint) -> Iterator[str]:
    settings, store = example.settings, example.store
    register_example(settings, store, example_lineage(NAME, digest=example.sealed[7].digest), 7)
    server = ServerApi(settings, store, example.guard, no_models)
    routes = [Mount(f"/v2/models/{NAME}", example.app), Mount("/v2", server.app)]
    with listening(Starlette(routes=routes)) as address:
        yield address


@pytest.fixture
def there(url: str, example: ExampleEndpoint) -> Connection:
    return mr.connect(url, example.key)


def test_pandas_polars_and_arrow_come_back_as_the_kind_that_was_given(there: Connection) -> None:
    endpoint = there.endpoint(NAME)
    answered = endpoint.predict(ROWS)
    assert answered.select(ROWS.columns).equals(ROWS)
    assert answered["probability"].is_between(0, 1).all()
    assert answered["version"].to_list() == [7, 7, 7]
    assert answered["row"].to_list() == [0, 1, 2]
    given = ROWS.to_pandas().set_index(pd.Index([7, 8, 9]))
    from_pandas = endpoint.predict(given)
    assert isinstance(from_pandas, pd.DataFrame)
    assert list(from_pandas.index) == [7, 8, 9]
    from_arrow = endpoint.predict(ROWS.to_arrow())
    assert isinstance(from_arrow, pa.Table)
    for other in (pl.from_pandas(from_pandas), pl.DataFrame(pl.from_arrow(from_arrow))):
        assert other["probability"].to_list() == answered["probability"].to_list()


def test_many_rows_go_in_requests_of_bounded_size(there: Connection) -> None:
    many = pl.concat([ROWS] * 500).with_columns(number=pl.int_range(1500))
    answered = there.endpoint(NAME).predict(many)
    assert answered["number"].to_list() == list(range(1500))
    assert sorted(answered.group_by("request_id").len()["len"]) == [500, 500, 500]
    assert answered["probability"].n_unique() == 3


def test_no_rows_are_answered_with_none(there: Connection) -> None:
    assert there.endpoint(NAME).predict(ROWS.clear()).height == 0


def test_reasons_come_where_they_are_asked_for(there: Connection) -> None:
    found = there.endpoint(NAME).predict(pl.concat([ROWS] * 5), explain=True)
    assert found.height == 15
    assert set(found["reasons"].struct.fields) >= {"origin", "distance"}


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (ROWS.drop("departure"), "lacks departure .*Endpoint departures asks for carrier, origin, departure, distance"),
        (ROWS.with_columns(prediction=1), "'prediction', which an answer adds. Rename it"),
        (
            ROWS.with_columns(pl.col("departure").dt.replace_time_zone(None)),
            "departure has moments without a time zone",
        ),
        (ROWS.with_columns(distance=pl.lit([1.0])), "distance has values of type List"),
        (ROWS.lazy(), "frame.collect"),
        ([{"carrier": "AA"}], "are a list. Give a data frame"),
        (ROWS.with_columns(origin=pl.lit("XXX")), "origin"),
    ],
)
def test_a_frame_that_cannot_be_asked_about_is_told_why(there: Connection, frame: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        there.endpoint(NAME).predict(frame)


def test_what_is_wrong_with_the_connection_is_a_sentence_with_the_next_step(url: str, example: ExampleEndpoint) -> None:
    with pytest.raises(ForbiddenError, match="The API key is wrong, expired or revoked"):
        mr.connect(url, "wrong").endpoint(NAME).predict(ROWS)
    with pytest.raises(ConfigurationError, match="is no URL of a server"):
        mr.connect("models.example.org", "key")
    with pytest.raises(ConfigurationError, match="a-z, 0-9"):
        mr.connect(url, "key").endpoint("../flights")
    gone = mr.connect("http://127.0.0.1:9", "key")
    with pytest.raises(UnavailableError, match="Is the server running"):
        gone.endpoint(NAME).predict(ROWS)
    with pytest.raises(MlopsRayError, match="404"):
        mr.connect(url, example.key).endpoint("nothing").predict(ROWS)


def test_a_url_and_a_key_alone_give_versions_lineage_drift_and_the_ledger(
    there: Connection, example: ExampleEndpoint, tmp_path: Path
) -> None:
    versions = there.versions(NAME)
    assert versions.champion.number == 7
    assert versions[7].about.value == 0.75
    with pytest.raises(ConfigurationError, match="has no version 8 here; there are: 7"):
        versions[8]
    here = mr.connect(state=example.settings.state)
    assert repr(here.versions(NAME)) == repr(versions)
    assert repr(versions[7].lineage()) == repr(here.versions(NAME)[7].lineage())
    assert versions[7].evaluation()["roc_auc"] == 0.75
    endpoint = there.endpoint(NAME)
    assert "Nothing was counted yet" in repr(endpoint.drift())
    answered = endpoint.predict(ROWS)
    found = rotated(example, endpoint)
    assert set(answered["request_id"]) <= set(found["request_id"])
    assert here.endpoint(NAME).ledger(columns=["request_id", "probability"]).equals(found)
    assert endpoint.ledger(datetime(2001, 1, 1, tzinfo=UTC), datetime(2001, 1, 2, tzinfo=UTC)).height == 0


def rotated(example: ExampleEndpoint, endpoint: Endpoint) -> pl.DataFrame:
    """The ledger once the last answers are in it."""
    example.ledger.rotate()
    for _ in range(100):
        if (found := endpoint.ledger(columns=["request_id", "probability"])).height:
            break
        time.sleep(0.1)
    return found


def test_asyncio_asks_the_same(there: Connection) -> None:
    async def ask() -> tuple[pd.DataFrame, Any, Any, Any]:
        async with there.async_endpoint(NAME) as endpoint:
            frame = await endpoint.predict(ROWS.to_pandas())
            return frame, await endpoint.rollout(), await endpoint.versions(), await endpoint.drift()

    frame, state, versions, drift = asyncio.run(ask())
    assert isinstance(frame, pd.DataFrame)
    assert state.champion == 7
    assert list(versions) == [7]
    assert drift.use_case == NAME


def test_labels_are_told_by_what_predict_gave(there: Connection) -> None:
    endpoint = there.endpoint(NAME)
    answered = endpoint.predict(ROWS)
    told = answered.select("request_id", "row", label=pl.Series([True, False, None]))
    assert endpoint.send_labels(told) == 3
    left = pl.col("departure").dt.offset_by("-10y")  # of what lies ahead nobody knows a label
    by_keys = ROWS.select("carrier", "origin", left, label=pl.lit(True))
    assert endpoint.send_labels(by_keys) == 3


def trial(number: int, value: float | None, status: str = "finished") -> dict[str, Any]:
    steps = [] if value is None else [{"fraction": f, "value": value * f, "seconds": f} for f in (0.5, 1.0)]
    return {
        "candidate": EVIL, "number": number, "parameters": {EVIL: number}, "run_id": "", "status": status,
        "message": EVIL, "steps": steps,
    }  # fmt: skip


def hostile() -> Iterator[Shown]:
    trials = [trial(0, 0.6), trial(1, 0.7), trial(2, None, "failed")]
    yield Leaderboard.of(EVIL, {"metric": "roc_auc", "trials": trials})
    estimate = {"value": 0.7, "low": 0.6, "high": 0.8}
    bins = [{"rows": 10, "probability": at / 10, "observed": at / 9} for at in range(10)]
    for task, more in (
        ({"kind": "binary", "threshold": 0.5}, {"positive": 0.2, "roc_auc": estimate}),
        ({"kind": "multiclass", "classes": [EVIL, "b", "c"]}, {"classes": {EVIL: 0.5, "b": 0.5}, "log_loss": estimate}),
        ({"kind": "regression"}, {"mean": 1, "median": 1, "deviation": 1, "mean_absolute_error": estimate}),
    ):
        counted = (
            {} if task["kind"] == "regression" else {"confusion": {"names": [EVIL, "b"], "rows": [[5, 1], [0, 4]]}}
        )
        judged = [{"column": EVIL, "value": EVIL, "evaluation": {"rows": 5, **more}}]
        content = {
            "task": task, "rows": 10, "days": 2, "reliability": bins, "slices": {"judged": judged}, **more, **counted,
            "importance": {"measure": EVIL, "features": {EVIL: 0.1}},
        }  # fmt: skip
        yield EvaluationReport(EVIL, EVIL, next(name for name, one in more.items() if one is estimate), content)
    yield RolloutState(EVIL, {
        "champion": {"version": 1}, "champion_since": EVIL, "previous": None, "progress": {EVIL: EVIL},
        "rollout": {"version": {"version": 2}, "state": "running", "step": 0,
                    "plan": {"steps": [{"route": EVIL, "share": 0.1, "hold_s": 1}]}},
    })  # fmt: skip


def test_everything_shows_itself_in_notebooks_and_terminals_whatever_names_say(
    there: Connection, example: ExampleEndpoint
) -> None:
    trace = there.versions(NAME)[7].lineage()
    made_from = replace(trace.lineage, source_files={EVIL: {EVIL: "0"}}, candidate=EVIL, metric=EVIL, purpose=EVIL)
    shown: list[Shown] = [*hostile(), there.versions(NAME), there.versions(NAME)[7], trace]
    shown.append(replace(trace, lineage=made_from, use_case=EVIL))
    assert there.url in there.endpoint(NAME)._repr_html_()
    for one in shown:
        page = one.page()
        expect_harmless(page)
        kind, html = one._mime_()
        assert (kind, html) == ("text/html", one._repr_html_())
        assert "prefers-color-scheme:dark" in html
        assert "\x1b" not in repr(one)
        assert repr(one).strip()


def test_charts_are_those_of_the_kind_of_label() -> None:
    _, binary, several, number, _ = hostile()
    assert all("calibration:" in one.page() for one in (binary, several, number))
    assert "confusion:" in binary.page()
    assert "confusion:" in several.page()
    assert "confusion:" not in number.page()


def test_a_trace_that_was_sent_is_the_same(example: ExampleEndpoint, there: Connection) -> None:
    trace = there.versions(NAME)[7].lineage()
    assert Trace.from_json(trace.to_json()).page() == trace.page()


def test_data_is_looked_at_as_a_frame_as_files_and_by_pattern(tmp_path: Path) -> None:
    frame = ROWS.select("carrier", "origin")
    frame.write_csv(tmp_path / "a_1.csv")
    frame.write_csv(tmp_path / "a_2.csv")
    assert mr.explore(frame).profile.rows == 3
    assert mr.explore(frame.to_pandas()).profile.rows == 3
    assert mr.explore(str(tmp_path / "a_1.csv")).profile.rows == 3
    assert mr.explore(tmp_path / "a_*.csv").profile.rows == 6
    with pytest.raises(DataError, match=r"b\.csv"):
        mr.explore(tmp_path / "b.csv")


def test_a_step_that_there_is_not_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"'trian' is no step\. There are ingest"):
        mr.run("use_cases/flights.py", state=tmp_path, until="trian")  # type: ignore[arg-type]
    with pytest.raises(MlopsRayError, match="There is no use case 'nothing'"):
        mr.run("nothing", state=tmp_path)


def test_a_run_is_measured_and_stops_at_a_spent_budget(tmp_path: Path) -> None:
    (tmp_path / "use_cases").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "orders.csv").write_text("id,at,late\n1,2026-01-01T00:00:00Z,true\n")
    (tmp_path / "use_cases" / "orders.py").write_text(ORDERS)
    (tmp_path / "settings.yaml").write_text("prices: {currency: EUR, cpu_hour: 3600}\n")
    for _ in range(2):  # in one process, and its second run is no part of the first
        mr.run(tmp_path / "use_cases" / "orders.py", as_of=MOMENT, until="ingest", force=("ingest",))
    store = open_store(Settings(state=str(tmp_path / "state"), data=str(tmp_path / "data")))
    rows = [row for row in read_usage(store, "orders") if row.name == "ingest"]
    assert len({row.run for row in rows}) == 2
    assert all(row.state == "ended" and 0 < row.quantities["cpu_s"] < 60 for row in rows)
    set_budget(store, SYSTEM, Budget("orders", "", 0.0, "EUR"), "")
    with pytest.raises(BudgetError, match=r"budget of orders for .* is spent"):
        mr.run(tmp_path / "use_cases" / "orders.py", as_of=MOMENT, until="ingest")
    assert "MLOPS_RAY_METERED" not in os.environ
    store.close()


def test_a_project_elsewhere_has_its_own_settings(tmp_path: Path) -> None:
    from mlops_ray.sdk.settings import settings_for

    (tmp_path / "use_cases").mkdir()
    (tmp_path / "settings.yaml").write_text("http_port: 8123\n")
    found = settings_for(tmp_path / "use_cases" / "a.py")
    assert (found.state, found.data, found.http_port) == (f"{tmp_path}/state", f"{tmp_path}/data", 8123)
    assert settings_for(tmp_path / "use_cases" / "a.py", state=tmp_path / "other").state == f"{tmp_path}/other"


def test_an_object_column_of_pandas_is_named() -> None:
    with pytest.raises(DataError, match="Column b of the rows has no one type"):
        to_polars(pd.DataFrame({"a": [1, 2], "b": [1, "x"]}))
    assert like(pd.DataFrame({"a": [1]}), pl.DataFrame({"a": [1, 2]})).shape == (2, 1)


def test_the_package_is_imported_at_once_and_completion_finds_its_names() -> None:
    code = (
        "import sys, mlops_ray; print(*dir(mlops_ray)); print(sum(one.startswith('mlops_ray.') for one in sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, modules = found.stdout.splitlines()
    assert {"run", "explore", "endpoint", "versions", "connect", "UseCase"} <= set(names.split())
    assert len(names.split()) <= 16
    assert modules == "0"


def test_settings_of_a_connection_are_those_of_its_state(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"Nothing was run in .* yet\. Run a pipeline"):
        mr.connect(state=tmp_path)
    assert not list(tmp_path.iterdir())
    open_store(Settings(state=str(tmp_path), data=str(tmp_path))).close()
    here = mr.connect(state=tmp_path)
    assert here.url == Settings(state=str(tmp_path), data=str(tmp_path)).url
    assert "this machine" in repr(here)
    assert len(here.versions("flights")) == 0
    with pytest.raises(ConfigurationError, match=r"has no version yet\. Run its pipeline"):
        _ = here.versions("flights").champion


def test_the_code_of_the_page_runs(url: str, example: ExampleEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "sdk.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block.replace("https://models.example.org", url), {"mr": mr, "key": example.key, "frame": ROWS})
    assert "departures: monitoring" in capsys.readouterr().out
