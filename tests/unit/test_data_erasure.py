"""After an erasure a person is in no file but where it says so, and it is told of snapshots and versions."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from mlops_ray import Column, Label, Source, UseCase
from mlops_ray.artifacts import Artifacts
from mlops_ray.catalogue import erase as erasing
from mlops_ray.catalogue.erase import Erasure, erase_person_from_data, find_person
from mlops_ray.catalogue.person import Person
from mlops_ray.cli.main import app
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, DataError
from mlops_ray.exploration.kept import keep_profile
from mlops_ray.features.definitions import Definitions, View, keep_definitions
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.erased_rows import erased_from, erased_rows
from mlops_ray.governance.events import SYSTEM, read_events
from mlops_ray.ingestion.ingest import ingest
from mlops_ray.ingestion.snapshot import Snapshot
from mlops_ray.pipeline.steps.ingest import contract
from mlops_ray.predictions.ids import uuid7_at
from mlops_ray.predictions.personal import personal_hash
from mlops_ray.predictions.segments import read_segment, segments, write_segment
from mlops_ray.testing.example_lineage import example_lineage, register_example
from mlops_ray.training.candidates import GradientBoosting

CANARY, NAME = "N7CANARY", "visits"
PERSON = Person(entity="person", value=CANARY)
SOURCE = Source(
    path="visits*.csv",
    columns=(Column("person", "text"), Column("at", "timestamp"), Column("minutes", "integer")),
    key=("person", "at"),
    known_at=pl.col("at"),
)
OTHER = Source(path="wards*.csv", columns=(Column("ward", "text"), Column("beds", "integer")))
CASE = UseCase(
    name=NAME,
    owner="ann",
    sources={"visits": SOURCE, "wards": OTHER},
    entities=("person",),
    event_time="at",
    label=Label("long", value=pl.col("minutes") > 20, known_at=pl.col("at")),
    candidates=(GradientBoosting(),),
)
TYPES = {"guest": "STRING", "minutes": "INT64"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    data = tmp_path / "data"
    data.mkdir()
    people = [f"P{number}" for number in range(30)]
    lines = [f"{person},2025-01-01T00:00:00Z,{number}" for number, person in enumerate([*people, CANARY])]
    lines += [f"{CANARY},2025-01-02T00:00:00Z,7", f"{CANARY},2025-01-03T00:00:00Z,seven", f"{CANARY},x"]
    (data / "visits_1.csv").write_text("\n".join(["person,at,minutes", *lines]) + "\n")
    (data / "visits_2.csv").write_text("person,at,minutes\nP77,2025-01-05T00:00:00Z,9\n")
    (data / "wards.csv").write_text("ward,beds\neast,7\n")
    return Settings(state=f"{tmp_path}/state", data=str(data))


@pytest.fixture
def store(settings: Settings) -> ControlStore:
    Path(settings.state).mkdir(parents=True)
    return open_store(settings)


def ingested(settings: Settings) -> Snapshot:
    contracts = {name: contract(source) for name, source in CASE.sources.items()}
    snapshot = ingest(CASE, settings, datetime(2025, 6, 1, tzinfo=UTC), "code", contracts)
    keep_profile(Artifacts(settings.artifacts), snapshot)
    return snapshot


def filled(settings: Settings, store: ControlStore) -> Snapshot:
    """A snapshot, feature rows, a training set and a version that were made from it, and a ledger."""
    artifacts, snapshot = Artifacts(settings.artifacts), ingested(settings)
    rows = snapshot.tables(artifacts)["visits"]
    record = example_lineage(NAME, snapshot=snapshot.digest, feature_rows={"stays": "f" * 64})
    artifacts.write_table(rows, "training_sets", NAME, f"{record.training_set}.parquet")
    artifacts.write_table(rows.rename({"person": "patient"}), "features", NAME, "stays", f"{'f' * 64}.parquet")
    register_example(settings, store, record)
    view = View("stays", ("guest",), ("person",), ("minutes",), ("minutes",), TYPES, 60.0, {"guest": "patient"})
    keep_definitions(artifacts, f"{NAME}_1", Definitions(NAME, "d" * 64, (view,), {}, {}))
    for number, value in enumerate([CANARY, personal_hash(settings).hash(CANARY, "text"), "P1"]):
        values = {"request_id": [f"r{number}"], "row": [0], "key.person": [value]}
        rows = pl.DataFrame(values, schema_overrides={"row": pl.Int32})
        write_segment(artifacts, NAME, uuid7_at(number), rows)
    return snapshot


def texts(file: Path) -> Iterator[bytes]:
    yield file.read_bytes()
    if file.suffix == ".parquet":
        for column in pl.read_parquet(file).iter_columns():
            yield str(column.to_list()).encode()
    if file.suffix == ".db":
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
            yield "\n".join(database.iterdump()).encode()


def holding(settings: Settings, text: str = CANARY) -> list[str]:
    """Files of the state folder in which a text stands, as it is or as those read it who know the format."""
    files = [file for file in Path(settings.state).rglob("*") if file.is_file()]
    assert files
    found = [file for file in files if any(text.encode() in part for part in texts(file))]
    return [str(file.relative_to(settings.state)) for file in found]


def erased(settings: Settings, store: ControlStore, person: Person = PERSON) -> Erasure:
    return erase_person_from_data(settings, store, SYSTEM, person, "request 17")


def test_a_person_is_in_no_file_of_the_state_afterwards(settings: Settings, store: ControlStore) -> None:
    snapshot = filled(settings, store)
    before = holding(settings)
    assert {name.split("/")[1] for name in before if "/" in name} >= {
        "snapshots", "quarantine", "judged", "features", "training_sets",
    }  # fmt: skip
    asked = find_person(settings, store, PERSON)
    assert holding(settings) == before
    done = erased(settings, store)
    assert holding(settings) == []
    assert (asked.rows, asked.models) == (done.rows, done.models)
    assert done.rows == {"snapshots": 2, "quarantine": 2, "judged": 4, "features": 2, "training_sets": 2}
    assert done.models == (f"{NAME}@1 (registered)",)
    assert done.raw_files == ("visits_1.csv",)
    assert f"source wards of {NAME}" in done.not_searched
    left = snapshot.tables(Artifacts(settings.artifacts))["visits"]
    assert sorted(left["person"]) == sorted([*(f"P{number}" for number in range(30)), "P77"])
    assert erased(settings, store).is_empty()
    (event,) = read_events(store, types=["data.erased"])
    assert CANARY not in json.dumps(event.to_json())
    assert event.payload["snapshots"] == {f"{NAME}/{snapshot.digest}": 2}


def test_the_ledger_loses_what_it_has_of_them_plain_or_hashed(settings: Settings, store: ControlStore) -> None:
    filled(settings, store)
    assert find_person(settings, store, PERSON).ledger == {NAME: 2}
    assert erased(settings, store).ledger == {NAME: 2}
    assert find_person(settings, store, PERSON).ledger == {NAME: 0}
    (left,) = segments(Artifacts(settings.artifacts), NAME)
    assert read_segment(left.url)["key.person"].to_list() == ["P1"]


@pytest.mark.parametrize("times", range(1, 8))
def test_killed_anywhere_it_is_completed_by_running_it_again(
    settings: Settings, store: ControlStore, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    snapshot = filled(settings, store)
    really, calls = erasing.erase_hit, list[Any]()

    def killed(*arguments: Any, **named: Any) -> None:
        calls.append(arguments)
        if len(calls) == times:
            raise KeyboardInterrupt
        really(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(erasing, "erase_hit", killed)
        if times == 7:
            patched.setattr(erasing, "record", killed)
            calls[:] = [None] * 6
            patched.setattr(erasing, "erase_hit", really)
        with pytest.raises(KeyboardInterrupt):
            erased(settings, store)
    (begun,) = erased_rows(Artifacts(settings.artifacts))
    assert begun.event is None
    assert "not finished" in begun.sentence
    erased(settings, store)
    assert holding(settings) == []
    (ended,) = erased_rows(Artifacts(settings.artifacts))
    assert (ended.snapshots, ended.salt) == ({f"{NAME}/{snapshot.digest}": 2}, None)
    assert ended.models == (f"{NAME}@1",)
    (event,) = read_events(store, types=["data.erased"])
    assert ended.event == event.seq


def test_raw_files_that_would_bring_them_back_are_named(settings: Settings, store: ControlStore) -> None:
    snapshot = filled(settings, store)
    erased(settings, store)
    with pytest.raises(DataError, match=r"file visits_1\.csv of source visits would bring back.*event \d+.*Take these"):
        ingested(settings)
    raw = Path(settings.data, "visits_1.csv")
    raw.write_text("".join(line for line in raw.read_text().splitlines(True) if CANARY not in line))
    again = ingested(settings)
    assert again.digest != snapshot.digest
    assert again.counts["visits"].accepted == 31
    assert holding(settings) == []


def test_a_snapshot_and_a_training_set_say_what_was_erased_from_them(settings: Settings, store: ControlStore) -> None:
    snapshot = filled(settings, store)
    erased(settings, store)
    artifacts = Artifacts(settings.artifacts)
    (found,) = erased_from(artifacts, NAME, snapshot.digest)
    assert found.sentence.startswith("rows of a person (person) were erased at 20")
    assert erased_from(artifacts, NAME, "0" * 64) == []
    said = CliRunner().invoke(app, ["lineage", f"{NAME}@1", "--state", settings.state])
    assert "rows of a person (person) were erased" in said.output
    shown = CliRunner().invoke(app, ["data", "show", NAME, snapshot.digest[:9], "--state", settings.state])
    assert "rows of a person" in shown.output


def test_a_number_is_only_looked_for_as_itself(settings: Settings, store: ControlStore) -> None:
    filled(settings, store)
    (Path(settings.artifacts) / "note.json").write_text('{"other": 7, "minutes": 70}')
    (Path(settings.artifacts) / "told.json").write_text('{"minutes": 7}')
    asked = find_person(settings, store, Person.of("minutes", "7"))
    assert asked.rows["snapshots"] == 2
    assert "told.json" in asked.still_in
    assert "note.json" not in asked.still_in


def test_the_command_shows_first_and_asks_and_needs_a_reason(settings: Settings, store: ControlStore) -> None:
    filled(settings, store)
    where = ["data", "erase", "--entity", f"person={CANARY}", "--state", settings.state]
    assert '"snapshots": 2' in CliRunner().invoke(app, [*where, "--dry-run"]).output
    refused = CliRunner().invoke(app, [*where, "--reason", "request 17"], input="n\n")
    assert refused.exit_code != 0
    assert holding(settings)
    with pytest.raises(ConfigurationError, match="Say why"):
        CliRunner().invoke(app, [*where, "--yes"], catch_exceptions=False)
    with pytest.raises(ConfigurationError, match="without the value"):
        CliRunner().invoke(app, [*where, "--yes", "--reason", CANARY], catch_exceptions=False)
    asked = ["data", "erase", "--entity", "person", "--reason", "request 17", "--state", settings.state]
    done = CliRunner().invoke(app, asked, input=f"{CANARY}\ny\n")
    assert done.exit_code == 0, done.output
    assert CANARY not in done.output
    assert holding(settings) == []
