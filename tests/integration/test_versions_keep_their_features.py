"""A version keeps the definitions and values it was trained with, whatever is trained; a refresh brings new ones."""

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import ray
from typer.testing import CliRunner

import mlops_ray
from mlops_ray.artifacts import Artifacts, read_parquet
from mlops_ray.cli.main import app
from mlops_ray.client import Client, Prediction
from mlops_ray.config import Settings, load_settings
from mlops_ray.errors import DataError, UseCaseError
from mlops_ray.features.definitions import expect_definitions
from mlops_ray.features.online.store import writer_of
from mlops_ray.features.online.write import online_values
from mlops_ray.features.store import Applied, Store
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.development_keys import credential
from mlops_ray.governance.events import read_events
from mlops_ray.governance.live import Live, live
from mlops_ray.governance.versions import VersionRef
from mlops_ray.pipeline.export_version import export_version
from mlops_ray.pipeline.feature_list import show_view
from mlops_ray.pipeline.import_version import import_version
from mlops_ray.pipeline.pipeline import Pipeline
from mlops_ray.pipeline.refresh import feature_project, refresh
from mlops_ray.pipeline.served_parity import served_parity
from mlops_ray.predictions.reader import Ledger
from mlops_ray.registry.models import download_sealed
from mlops_ray.registry.sealed_model import load
from mlops_ray.serving.local import serve_use_case, stop
from mlops_ray.serving.predictor import Predictor
from mlops_ray.serving.served_version import ServedVersion
from mlops_ray.use_case import load_use_case
from tests.anchoring import make_keys

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, String

carrier = Entity(name="carrier", value_type=ValueType.STRING)
delays = FeatureView(
    name="delays", entities=[carrier], ttl=timedelta(hours=6),
    schema=[Field(name="recent_delay", dtype=Float64), Field(name="recent_kind", dtype=String)],
    source=FileSource(name="delays", path="delays.parquet", timestamp_field="event_timestamp"),
)
service = FeatureService(name="service", features=[delays])
"""
USE_CASE = """
from datetime import timedelta
import polars as pl
from mlops_ray import Column, Label, Search, Source, Split, UseCase
from mlops_ray.training.candidates import LogisticRegression
from mlops_ray.use_case import OnnxParity, Threshold

WINDOW = 3


def delays(tables):
    rows = tables["departures"].sort("departure", "number")
    delay = pl.col("delay").rolling_mean(WINDOW, min_samples=1).over("carrier")
    kind = pl.when(delay > 10).then(pl.lit("slow")).otherwise(pl.lit("quick"))
    return rows.select("carrier", event_timestamp="known", recent_delay=delay, recent_kind=kind).unique(
        ["carrier", "event_timestamp"], keep="last"
    )


columns = (
    Column("number", "integer"),
    Column("carrier", "text"),
    Column("departure", "timestamp"),
    Column("distance", "number"),
    Column("delay", "number", outcome=True),
    Column("known", "timestamp", outcome=True),
)
use_case = UseCase(
    name="NAME",
    sources={"departures": Source("departures_*.csv", columns, key=("number",), known_at=pl.col("known"))},
    entities=("carrier",),
    event_time="departure",
    lead_time=timedelta(minutes=30),
    label=Label("late", pl.col("delay") > 10, pl.col("known")),
    request_features={"distance": pl.col("distance")},
    candidates=(LogisticRegression(),),
    search=Search(trials_per_candidate=1),
    split=Split(test=timedelta(days=10), gap=timedelta(days=2), validation=timedelta(days=10)),
    feature_views={"delays": delays},
    feature_service="service",
    gates=(OnnxParity(), Threshold("roc_auc", 0.0)),
)
"""
START, END = datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 3, 1, tzinfo=UTC)
CARRIERS = [f"C{number:02}" for number in range(40)]
HOUR = timedelta(hours=1)
FEW = 100  # requests, of 1,000: an answer of each carrier twice


def write_departures(folder: Path, start: datetime, end: datetime, seed: int) -> None:
    random = np.random.default_rng(seed)
    count = int((end - start) / timedelta(minutes=10)) + 1
    departures = [start + number * timedelta(minutes=10) for number in range(count)]
    delay = random.normal(10, 8, count).round(1)
    known = [at + timedelta(minutes=float(late) + 20) for at, late in zip(departures, delay, strict=True)]
    frame = pl.DataFrame(
        {
            "number": np.arange(count) + seed * 1_000_000,
            "carrier": random.choice(CARRIERS, count),
            "departure": departures,
            "distance": random.uniform(100, 3000, count).round(1),
            "delay": delay,
            "known": known,
        }
    )
    folder.mkdir(exist_ok=True)
    frame.write_csv(folder / f"departures_{seed}.csv", datetime_format="%+")


def write_repository(
    folder: Path, name: str = "departures", definitions: str = DEFINITIONS, code: str = USE_CASE
) -> Path:
    for part, text in (("feature_repo/views.py", definitions), (f"use_cases/{name}.py", code.replace("NAME", name))):
        (folder / part).parent.mkdir(exist_ok=True, parents=True)
        (folder / part).write_text(text)
    return folder


@dataclass(frozen=True)
class Case:
    folder: Path
    settings: Settings
    requests: list[dict[str, Any]]

    @property
    def champion(self) -> Live:
        return live(open_store(self.settings), "departures")

    def run(self, repository: Path, name: str = "departures") -> dict[str, Any]:
        case = load_use_case(str(repository / f"use_cases/{name}.py"))
        done = Pipeline(case, self.settings, repository / "feature_repo", END).run()
        return dict(done["register"].result)

    def answers(self, moment: datetime = END, first: int = 1000) -> list[Prediction]:
        """Of the endpoint to so many requests, each on its own; by which version, too."""
        with Client(self.url, api_key=credential(self.settings)) as client:
            answers = client.predict_many("departures", keys=self.requests[:first], as_of=moment, batch_size=1)
        assert {answer.version for answer in answers} == {"1"}
        return [prediction for answer in answers for prediction in answer.predictions]

    @property
    def url(self) -> str:
        return f"http://{self.settings.http_host}:{self.settings.http_port}"

    def scores(self, folder: str) -> bytes:
        """Of batch scoring, with features as of each row's time."""
        rows = pl.DataFrame(self.requests).with_row_index("row_number")
        scored = mlops_ray.score(rows, "departures", str(self.folder / folder), self.settings)
        return read_parquet(scored.predictions).sort("row_number")["probability"].to_numpy().tobytes()

    def applied(self) -> Applied | None:
        version = self.champion.champion
        assert version is not None
        return Store(self.settings, str(feature_project(self.settings, "departures", version))).applied()


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    folder = tmp_path_factory.mktemp("case")
    write_departures(folder / "data", START, END, seed=1)
    random = np.random.default_rng(2)
    requests = [
        {
            "carrier": str(random.choice(CARRIERS)),
            "departure": END + timedelta(minutes=int(random.integers(150, 500))),
            "distance": float(random.uniform(100, 3000)),
        }
        for _ in range(1000)
    ]
    places = {"state": str(folder / "state"), "data": str(folder / "data")}
    case = Case(folder, load_settings(**places, http_port=free_port(), ledger_rotate_s=1), requests)
    ray.init(address="local", num_cpus=3, object_store_memory=500_000_000, include_dashboard=False, log_to_driver=False)
    try:
        assert case.run(write_repository(folder / "first"))["champion"]
        serve_use_case(case.settings, "departures")
        yield case
    finally:
        stop()
        ray.shutdown()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def probabilities(predictions: list[Prediction]) -> list[float]:
    return [prediction.probability for prediction in predictions]


@pytest.mark.timeout(500)
def test_a_champion_answers_the_same_while_others_are_trained_registered_and_refused(case: Case) -> None:
    before, live_before = case.applied(), case.champion
    recorded, scored = case.answers(), case.scores("before")
    assert len({prediction.probability for prediction in recorded}) > 900
    assert sum(not prediction.missing_features for prediction in recorded) > 300  # so the online store was read

    # A second use case, whose view has the same name and another definition and meaning.
    other = USE_CASE.replace("WINDOW = 3", "WINDOW = 1").replace('pl.col("delay").rolling', '-pl.col("delay").rolling')
    second = write_repository(case.folder / "second", "arrivals", DEFINITIONS.replace("hours=6", "hours=1"), other)
    assert case.run(second, "arrivals")["champion"]
    # Challengers with changed definitions, and with changed code alone; the gate refuses both.
    harder = USE_CASE.replace('Threshold("roc_auc", 0.0)', 'Threshold("roc_auc", 0.9999)')
    changed = write_repository(
        case.folder / "changed", definitions=DEFINITIONS.replace("hours=6", "hours=2"), code=harder
    )
    code = write_repository(case.folder / "code", code=harder.replace("WINDOW = 3", "WINDOW = 2"))
    for repository in (changed, code):
        refused = case.run(repository)
        assert not refused["champion"]
        assert refused["version"] > 1

    assert case.champion == live_before
    assert case.answers() == recorded
    assert case.scores("after") == scored
    assert case.applied() == before


@pytest.mark.timeout(300)
def test_a_version_that_goes_to_another_environment_answers_there_as_here(case: Case) -> None:
    private, public = make_keys(case.folder / "keys")
    there = load_settings(
        state=str(case.folder / "elsewhere"), data=case.settings.data, evidence_public_key=str(public)
    )
    bundle = export_version(case.settings, "departures@1", case.folder / "departures.bundle", f"file:{private}")
    with pytest.raises(UseCaseError, match="nothing here would fill its features"):
        import_version(load_use_case(str(case.folder / "code/use_cases/departures.py")), there, bundle)
    first = case.folder / "first"
    use_case = load_use_case(str(first / "use_cases/departures.py"))
    found = import_version(use_case, there, bundle)
    assert found.admission.champion  # this use case asks nobody
    project = refresh(use_case, there, first / "feature_repo", END).project
    assert project == found.origin.feature_project
    ref = VersionRef(found.version, found.origin.model)
    sealed = load(download_sealed(there, "departures", ref, case.folder / "arrived"), ref.digest)
    with closing(Store(there, str(project)).online_reader()) as reader:
        served = ServedVersion("departures", "1", Predictor(sealed, reader))
        asked = [
            json.dumps({"keys": request | {"departure": request["departure"].isoformat()}, "as_of": END.isoformat()})
            for request in case.requests[:FEW]
        ]
        answers = [float(served.predict_at_once(one.encode()).answer[0]) for one in asked]
    assert answers == pytest.approx(probabilities(case.answers(first=FEW)), abs=1e-6)
    assert len(set(answers)) > FEW / 2


@pytest.mark.timeout(300)
def test_a_refresh_brings_new_values_and_touches_no_version(case: Case) -> None:
    live_before = case.champion
    sealed_before = sorted(path.name for path in (case.folder / "state/artifacts/sealed_models/departures").iterdir())
    recorded = case.answers(END + HOUR, FEW)
    write_departures(case.folder / "data", END + timedelta(minutes=1), END + HOUR, seed=3)
    first = case.folder / "first"
    use_case = load_use_case(str(first / "use_cases/departures.py"))
    found = refresh(use_case, case.settings, first / "feature_repo", END + HOUR)
    assert [(version.version, version.why_not) for version in found.versions] == [(1, None)]
    assert case.answers(END + HOUR, FEW) != recorded
    assert case.champion == live_before
    sealed = sorted(path.name for path in (case.folder / "state/artifacts/sealed_models/departures").iterdir())
    assert sealed == sealed_before
    applied = case.applied()
    assert applied is not None
    assert applied.as_of == END + HOUR

    # As of an earlier moment nothing newer is taken away; and what runs with other definitions but the same code
    # refreshes the champion with its own.
    fresh = probabilities(case.answers(END + HOUR, FEW))
    refresh(use_case, case.settings, first / "feature_repo", END - HOUR)
    assert probabilities(case.answers(END + HOUR, FEW)) == fresh  # what had expired is online again, too
    assert case.applied() == applied
    other = write_repository(case.folder / "other", definitions=DEFINITIONS.replace("hours=6", "hours=9"))
    write_departures(case.folder / "data", END + HOUR + timedelta(minutes=1), END + 2 * HOUR, seed=4)
    edited = load_use_case(str(other / "use_cases/departures.py"))
    found = refresh(edited, case.settings, other / "feature_repo", END + 2 * HOUR)
    assert [(version.version, version.why_not) for version in found.versions] == [(1, None)]
    assert found.project != found.versions[0].project
    assert case.answers(END + 2 * HOUR, FEW) != case.answers(END + HOUR, FEW)

    # Where the code of today is not what the champion was trained with, its values stay, and that is said.
    fresh = case.answers(END + 2 * HOUR, FEW)
    edited = load_use_case(str(case.folder / "code/use_cases/departures.py"))
    (version,) = refresh(edited, case.settings, case.folder / "code/feature_repo", END + 2 * HOUR).versions
    assert "has changed since it was trained" in str(version.why_not)
    assert case.answers(END + 2 * HOUR, FEW) == fresh


NOW = END + 2 * HOUR


def row(carrier: str, moment: datetime, delay: float) -> dict[str, Any]:
    return {"carrier": carrier, "event_timestamp": moment, "recent_delay": delay, "recent_kind": "slow"}


@pytest.mark.timeout(300)
def test_a_pushed_value_answers_at_once_and_is_accounted_for(case: Case) -> None:
    asked = [request for request in case.requests if request["carrier"] == "C07"][:5]
    with Client(case.url, api_key=credential(case.settings)) as client:
        before = client.predict("departures", keys=asked, as_of=NOW)
        assert client.push("departures", "delays", [row("C07", NOW, 500.0)]) == 1
        after = client.predict("departures", keys=asked, as_of=NOW)
        assert not {one.probability for one in after.predictions} & {one.probability for one in before.predictions}
        assert client.push("departures", "delays", [row("C07", NOW - HOUR, 1.0)]) == 0  # older than what is there
        assert client.predict("departures", keys=asked, as_of=NOW).predictions == after.predictions
        for wrong, said in (
            (("delay", [row("C07", NOW, 1.0)]), "Did you mean 'delays'"),
            (("delays", [row("C07", datetime.now(UTC) + HOUR, 1.0)]), "lies ahead"),
            (("delays", [row("C07", NOW, 1.0) | {"recent_delay": "much"}]), "rows"),
        ):
            with pytest.raises(DataError, match=said):
                client.push("departures", *wrong)
    store = open_store(case.settings)
    # From a program, and as it is refreshed.
    done = mlops_ray.push("departures", "delays", [row("C08", NOW, 600.0)], case.settings)
    assert (done.rows, done.written, done.older) == (1, 1, 0)
    shown = {view.listed.used_by: view for view in show_view(case.settings, store, "delays", datetime.now(UTC))}
    view = shown["departures@1",]
    assert (view.pushes, view.online_keys > 0) == (3, True)
    listed = CliRunner().invoke(app, ["features", "list", "--state", case.settings.state])
    assert re.search(r"^delays  carrier  \d+ days, .* of 6:00:00  no owner  departures@1$", listed.output, re.MULTILINE)
    first = case.folder / "first"
    refresh(load_use_case(str(first / "use_cases/departures.py")), case.settings, first / "feature_repo", NOW)
    with Client(case.url, api_key=credential(case.settings)) as client:
        assert client.predict("departures", keys=asked, as_of=NOW).predictions == after.predictions
    store.close()


def answered_since(case: Case, start: datetime, count: int) -> datetime:
    """Until so many answers of these lie on shared storage."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = Ledger(case.settings, "departures").frame(start)
        if found.filter(pl.col("route") == "champion").height >= count:
            return datetime.now(UTC)
        time.sleep(0.5)
    raise AssertionError(f"the ledger has fewer than {count} answers")


@pytest.mark.timeout(300)
def test_what_was_served_is_what_its_history_says_and_a_planted_skew_is_named(case: Case) -> None:
    start = datetime.now(UTC)
    case.answers(NOW, 200)
    middle = answered_since(case, start, 200)
    found = served_parity(case.settings, "departures", start, middle)
    assert (found.rows, found.differing, found.causes, found.left_out) == (200, 0.0, (), ())
    assert {one.feature for one in found.features} == {"distance", "recent_delay", "recent_kind"}

    # Somebody computes a view otherwise online.
    project = str(case.champion.champion and feature_project(case.settings, "departures", case.champion.champion))
    definitions = expect_definitions(Artifacts(case.settings.artifacts), project)
    skewed = [(f"C{n:02}", NOW, 1000.0 + n, "quick") for n in range(20)]
    schema = {"carrier": pl.String, "event_timestamp": pl.Datetime("us", "UTC")}
    names = ["carrier", "event_timestamp", "recent_delay", "recent_kind"]
    frame = pl.DataFrame(skewed, schema=names, schema_overrides=schema, orient="row")
    writer_of(case.settings.online_store, project).write(
        definitions.views[0], list(online_values(definitions.views[0], frame))
    )
    case.answers(NOW, 200)
    end = answered_since(case, middle, 200)
    found = served_parity(case.settings, "departures", middle, end)
    worst = found.features[0]
    assert (worst.feature, worst.view) == ("recent_delay", "delays")
    assert worst.wrong > 50
    assert next(one for one in found.features if one.feature == "distance").exact == 200
    assert any("computed otherwise online" in cause for cause in found.causes)
    assert found.examples[0].outcome == "wrong"
    command = CliRunner().invoke(
        app,
        ["features", "parity", "departures", "--state", case.settings.state, "--since", middle.isoformat(),
         "--fail-above", "0.01"],
    )  # fmt: skip
    assert command.exit_code == 1, command.output
    (event,) = read_events(open_store(case.settings), types=["parity.failed"])
    assert "computed otherwise online" in event.reason
