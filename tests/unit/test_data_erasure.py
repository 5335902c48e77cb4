"""After an erasure a person is in no file but where it says so, and it is told of snapshots and versions."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
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
from mlops_ray.cli.lineage import refuse
from mlops_ray.cli.main import app
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, ConflictError, DataError, IntegrityError
from mlops_ray.exploration import kept
from mlops_ray.exploration.kept import keep_profile
from mlops_ray.features.definitions import Definitions, View, keep_definitions
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.erased_rows import erased_from, erased_rows
from mlops_ray.governance.events import SYSTEM, read_events
from mlops_ray.governance.replicas import Replica, Unmoved, report
from mlops_ray.ingestion import ingest as ingesting
from mlops_ray.ingestion import writing
from mlops_ray.ingestion.ingest import ingest
from mlops_ray.ingestion.snapshot import Snapshot, last_digest
from mlops_ray.pipeline.reproduction import Difference
from mlops_ray.pipeline.steps.ingest import contract
from mlops_ray.predictions.compaction import compact
from mlops_ray.predictions.ids import uuid7_at
from mlops_ray.predictions.personal import personal_hash
from mlops_ray.predictions.segments import read_segment, segments, write_segment
from mlops_ray.predictions.table import LedgerTable
from mlops_ray.registry.trace import erased_since, read_lineage
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


def ingested(settings: Settings, case: UseCase = CASE) -> Snapshot:
    contracts = {name: contract(source) for name, source in case.sources.items()}
    snapshot = ingest(case, settings, datetime(2025, 6, 1, tzinfo=UTC), "code", contracts)
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
        values = {"request_id": [f"r{number}"], "row": [0], "version": ["1"], "key.person": [value]}
        rows = pl.DataFrame(values, schema_overrides={"row": pl.Int32}).with_columns(time=pl.lit(datetime.now(UTC)))
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
    assert done.rows == {"snapshots": 2, "repairs": 0, "quarantine": 2, "judged": 4, "features": 2, "training_sets": 2}
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
    told = [event.payload["predictions"] for event in read_events(store, types=["ledger.erased"])]
    assert told == [1, 1], "as it is, as a hash"
    (left,) = segments(Artifacts(settings.artifacts), NAME)
    assert read_segment(left.url)["key.person"].to_list() == ["P1"]


def test_a_file_of_theirs_that_a_killed_erasure_left_is_removed(
    settings: Settings, store: ControlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(settings, store)
    compact(Artifacts(settings.artifacts), NAME, lambda segment: True)

    def killed(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(LedgerTable, "_remove", killed)
        with pytest.raises(KeyboardInterrupt):
            erased(settings, store)
    assert any("table" in name for name in holding(settings))
    erased(settings, store)
    assert holding(settings) == []


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
    (since,) = erased_since(settings, read_lineage(settings, NAME, 1)[1])
    assert since == f"{found.sentence}: 2 of its snapshot, 2 of its training set"
    with pytest.raises(IntegrityError, match=r"source file.*It cannot be the same: rows of a person \(person\) were"):
        refuse(f"{NAME}@1", Difference("source file visits_1.csv of visits", "a", "b"), [since])
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


REFUSED = [
    {"person": "7", "at": "2025-02-01T00:00:00Z", "minutes": "seven"},
    {"person": " 7 ", "at": "x", "minutes": "3"},
    {"person": "P5", "at": "x", "minutes": "7"},
    {"person": "P6", "at": "7", "minutes": "1"},
]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_short_number_takes_no_refused_record_of_another(
    settings: Settings, store: ControlStore, ending: str
) -> None:
    frame, accepted = pl.DataFrame(REFUSED), {"person": "P9", "at": "2025-02-01T00:00:00Z", "minutes": "7"}
    frame, file = frame.vstack(pl.DataFrame([accepted])), Path(settings.data) / f"more.{ending}"
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[ending](file)
    if ending == "csv":  # a malformed record has no columns: there the word counts
        file.write_bytes(file.read_bytes() + b"7,x\nP8,x\n")
    snapshot = ingested(settings, replace(CASE, sources={"visits": replace(SOURCE, path=f"more.{ending}")}))
    before = snapshot.quarantine(Artifacts(settings.artifacts), "visits")
    done = erased(settings, store, Person.of("person", "7"))
    left = snapshot.quarantine(Artifacts(settings.artifacts), "visits")
    assert before.height - left.height == done.rows["quarantine"] == (3 if ending == "csv" else 2)
    assert {b"P5", b"P6"} <= {word for raw in left["raw"] for word in (b"P5", b"P6") if word in raw}
    assert (done.raw_files, done.rows["snapshots"]) == ((f"more.{ending}",), 0)
    again = find_person(settings, store, Person.of("person", "P9"))
    assert again.rows["snapshots"] == 1


@pytest.mark.parametrize(
    ("module", "moment"), [(ingesting, "_judge"), (ingesting, "_count"), (writing, "_write_accepted")]
)
def test_an_ingest_that_an_erasure_meets_brings_nobody_back(
    settings: Settings, store: ControlStore, monkeypatch: pytest.MonkeyPatch, module: Any, moment: str
) -> None:
    before, really = filled(settings, store), getattr(module, moment)
    (Path(settings.data) / "visits_4.csv").write_text(f"person,at,minutes\n{CANARY},2025-01-09T00:00:00Z,9\n")

    def met(*given: Any) -> Any:
        monkeypatch.setattr(module, moment, really)
        done = really(*given)
        erased(settings, store)
        return done

    monkeypatch.setattr(module, moment, met)
    with pytest.raises(ConflictError, match=r"erased while visits was ingested.*Ingest again"):
        ingested(settings)
    assert holding(settings) == []
    assert last_digest(Artifacts(settings.artifacts), NAME) == before.digest
    with pytest.raises(DataError, match=r"visits_1\.csv of source visits, file visits_4\.csv.* would bring back"):
        ingested(settings)


def test_a_profile_that_an_erasure_meets_is_made_again(
    settings: Settings, store: ControlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot, really = filled(settings, store), kept.profile_table
    shutil.rmtree(Path(settings.artifacts) / "latest_profiles")
    (Path(settings.artifacts) / "snapshots" / NAME / snapshot.digest / "profile.json").unlink()

    def met(*given: Any) -> Any:
        monkeypatch.setattr(kept, "profile_table", really)
        found = really(*given)
        erased(settings, store)
        return found

    monkeypatch.setattr(kept, "profile_table", met)
    keep_profile(Artifacts(settings.artifacts), snapshot)
    assert holding(settings) == []


def test_nodes_that_have_answers_yet_are_named(settings: Settings, store: ControlStore) -> None:
    filled(settings, store)
    assert erased(settings, store).on_nodes == ()
    folder = Path(settings.ledger_wal) / NAME
    folder.mkdir(parents=True)
    (folder / f"{uuid7_at(0)}.wal").write_bytes(b"")
    (named,) = erased(settings, store).on_nodes
    assert named.startswith("visits on node this one: answers of the last ")
    report(store, NAME, Replica("r1", "node-b", 1, unmoved=Unmoved("a disk", 12.0)))
    report(store, NAME, Replica("r2", "node-c", 1, unmoved=Unmoved("another", 0.0)))
    (named,) = find_person(settings, store, PERSON).on_nodes
    assert named.startswith("visits on node node-b: answers of the last 12 s; a replica moves them after 60 s")


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
