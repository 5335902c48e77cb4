"""What must be forgotten is gone from segments, table and labels, and from the files beneath them."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from mlops_ray.artifacts import Artifacts
from mlops_ray.batch.output import WAITING, _copy
from mlops_ray.cli.main import app
from mlops_ray.config import Settings
from mlops_ray.errors import ConflictError, DataError, UseCaseError
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import SYSTEM, read_events
from mlops_ray.monitoring.ledger_feed import LATEST, may_be_moved
from mlops_ray.predictions import collect, compaction, erasure, label_compaction
from mlops_ray.predictions.compaction import compact
from mlops_ray.predictions.erasure import count_entity, count_person, erase_entity, erase_person, leave_out_entity
from mlops_ray.predictions.ids import uuid7_at
from mlops_ray.predictions.label_compaction import LEAST_FILES, compact_labels
from mlops_ray.predictions.label_writer import LabelWriter
from mlops_ray.predictions.labels import Label, Labels, label_keys
from mlops_ray.predictions.personal import personal_hash
from mlops_ray.predictions.reader import Ledger
from mlops_ray.predictions.retention import retain
from mlops_ray.predictions.segments import MOMENT, Segment, read_segment, segments
from mlops_ray.predictions.table import LedgerTable
from mlops_ray.predictions.tombstones import CLOCKS_DIFFER, set_tombstone, tombstones
from mlops_ray.predictions.writer import LedgerWriter
from tests.integration.test_score import USE_CASE
from tests.unit.test_compaction import write
from tests.unit.test_ledger import KEY, NOW, Clock, append, personal_schema, settings_in

NAME = "departures"
SCHEMA = personal_schema({"carrier": "hash"})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


def answer(settings: Settings, people: list[str], moment: datetime = NOW) -> list[str]:
    """A segment with an answer about each, labelled by request, and by keys as well."""
    writer = LedgerWriter(settings, NAME, clock=Clock(moment))
    writer.add_version("1", SCHEMA)
    categories = [np.array([["JFK", person]], dtype=object) for person in people]
    keys = [{**KEY, "carrier": person} for person in people]
    ids = [uuid7_at(int(moment.timestamp() * 1000)) for _ in people]
    for request_id, key, texts in zip(ids, keys, categories, strict=True):
        append(writer, request_id, keys=[key], categories=texts)
    writer.close()
    labels = LabelWriter(settings, NAME, clock=Clock(moment))
    labels.append([Label(True, request_id=request_id) for request_id in ids])
    labels.append([Label(False, keys=key) for key in keys], label_keys(SCHEMA, settings))
    labels.close()
    return ids


def hash_of(settings: Settings, person: str) -> str:
    found = personal_hash(settings).hash(person, "text")
    assert found is not None
    return found


def holding(settings: Settings, text: str) -> list[Path]:
    """Files below the artifacts that have a text in a column, or as it is."""
    files = [file for file in Path(settings.artifacts).rglob("*") if file.is_file()]
    assert files
    tables = [file for file in files if file.suffix == ".parquet" and "_delta_log" not in file.parts]
    found = [file for file in tables if text in str(pl.read_parquet(file).select(pl.col(pl.String)).to_dicts())]
    return found + [file for file in files if text.encode() in file.read_bytes() and file not in found]


def test_a_person_is_erased_everywhere_and_nobody_else(settings: Settings) -> None:
    artifacts, store = Artifacts(settings.artifacts), open_store(settings)
    ids = answer(settings, ["ada", "bob"])
    compact(artifacts, NAME, lambda segment: True)
    ids += answer(settings, ["bob", "ada", "ada"], NOW + timedelta(hours=1))
    ids += answer(settings, ["ada"], NOW + timedelta(hours=2))
    before = len(holding(settings, hash_of(settings, "ada")))
    assert before >= 5
    done = erase_person(settings, store, SYSTEM, NAME, hash_of(settings, "ada"))
    assert (done.predictions, done.labels) == (4, 7)  # by keys two of them are one: the same of the same, told at once
    assert sorted(Ledger(settings, NAME).frame()["request_id"]) == sorted([ids[1], ids[2]])
    assert holding(settings, hash_of(settings, "ada")) == []
    (event,) = read_events(store, types=["ledger.erased"])
    assert hash_of(settings, "ada") not in json.dumps(event.to_json())
    assert "ada" not in json.dumps(event.to_json())
    left = Labels(artifacts, NAME).of(Ledger(settings, NAME).frame())
    assert sorted(left["label"]) == [False] * 4 + [True] * 2  # two answers have the same keys
    again = erase_person(settings, store, SYSTEM, NAME, hash_of(settings, "ada"))
    assert (again.predictions, again.labels) == (0, 0)
    with pytest.raises(DataError, match="no ledger of arrivals"):
        erase_person(settings, store, SYSTEM, "arrivals", hash_of(settings, "ada"))
    with pytest.raises(DataError, match="32 hexadecimal digits"):
        erase_person(settings, store, SYSTEM, NAME, "' OR true --")


def test_an_erasure_counts_once_what_a_killed_compaction_left_twice(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts, store, hash = Artifacts(settings.artifacts), open_store(settings), hash_of(settings, "ada")
    for minutes in range(LEAST_FILES):
        answer(settings, ["ada", "bob"], NOW + timedelta(minutes=minutes))

    def killed(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(compaction, "delete_segment", killed)
        patched.setattr(label_compaction, "delete_labels", killed)
        for move in (lambda: compact(artifacts, NAME, lambda segment: True), lambda: compact_labels(artifacts, NAME)):
            with pytest.raises(KeyboardInterrupt):
                move()
    assert count_person(settings, NAME, hash) == LEAST_FILES
    done = erase_person(settings, store, SYSTEM, NAME, hash)
    assert (done.predictions, done.labels) == (LEAST_FILES, 2 * LEAST_FILES)
    (event,) = read_events(store, types=["ledger.erased"])
    assert event.payload is not None
    assert event.payload["predictions"] == LEAST_FILES
    assert holding(settings, hash) == []


STEPS = [
    (erasure, "_erase_labels"), (erasure, "rewrite_labels"), (erasure, "_erase_from_segments"),
    (erasure, "write_segment"), (LedgerTable, "erase"), (LedgerTable, "_delete"), (LedgerTable, "_remove"),
    (erasure, "record"),
]  # fmt: skip


@pytest.mark.parametrize("step", STEPS, ids=[name for _, name in STEPS])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_anywhere_an_erasure_is_completed_by_running_it_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, step: tuple[Any, str], after: bool
) -> None:
    artifacts, store = Artifacts(settings.artifacts), open_store(settings)
    ids = answer(settings, ["ada", "bob"])
    compact(artifacts, NAME, lambda segment: True)
    ids += answer(settings, ["ada", "bob"], NOW + timedelta(hours=1))
    real = getattr(*step)

    def killed(*given: Any, **named: Any) -> Any:
        if after:
            real(*given, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(*step, killed)
        with pytest.raises(KeyboardInterrupt):
            erase_person(settings, store, SYSTEM, NAME, hash_of(settings, "ada"))
    erase_person(settings, store, SYSTEM, NAME, hash_of(settings, "ada"))
    assert holding(settings, hash_of(settings, "ada")) == []
    assert sorted(Ledger(settings, NAME).frame()["request_id"]) == sorted([ids[1], ids[3]])
    labels = Labels(artifacts, NAME)
    assert sorted(labels.read(labels.segments())["request_id"]) == sorted([ids[1], ids[3]])
    assert read_events(store, types=["ledger.erased"])


def test_a_column_that_has_changed_its_type_is_read_after_an_erasure(settings: Settings) -> None:
    artifacts, store, column = Artifacts(settings.artifacts), open_store(settings), "key.seat"
    for hours, value in enumerate((pl.lit(5), pl.lit("AA"), pl.lit(1.5))):
        write(artifacts, NOW + timedelta(hours=hours), 2, **{column: value, "key.person": pl.Series(["ada", "bob"])})
        compact(artifacts, NAME, lambda segment: True)
    assert erase_entity(settings, store, SYSTEM, NAME, "person", "ada").predictions == 3
    assert Ledger(settings, NAME).frame()[column].to_list() == ["5", "AA", "1.5"]


SOUGHT = [
    (pl.Series([5.0, 7.0]), ["5", "5.0", "5e0"]),
    (pl.Series([1e16, 1.0]), ["1e16", "1e+16", "10000000000000000"]),
    (pl.Series([-0.0, 1.0]), ["0", "-0.0"]),
    (pl.Series([0.1, 0.2], dtype=pl.Float32), ["0.1"]),
    (pl.Series([5, 6], dtype=pl.Int64), ["5", "5.0"]),
    (pl.Series([True, False]), ["true"]),
    (pl.Series([NOW + timedelta(microseconds=100_000), NOW], dtype=MOMENT), [
        "2026-03-01T12:00:00.1Z", "2026-03-01 12:00:00.100000+00:00", "2026-03-01T13:00:00.1+01:00",
    ]),
    (pl.Series(["a'b\\", "5.0"]), ["a'b\\"]),
]  # fmt: skip


@pytest.mark.parametrize("moved", [False, True], ids=["segment", "table"])
@pytest.mark.parametrize(("column", "value"), [(column, value) for column, values in SOUGHT for value in values])
def test_a_value_of_any_type_is_erased_however_it_is_written(
    settings: Settings, column: pl.Series, value: str, moved: bool
) -> None:
    artifacts = Artifacts(settings.artifacts)
    _, other = write(artifacts, NOW, 2, **{"key.thing": column})
    if moved:
        compact(artifacts, NAME, lambda segment: True)
    assert count_entity(settings, NAME, "thing", value) == 1
    store = open_store(settings)
    assert erase_entity(settings, store, SYSTEM, NAME, "thing", value).predictions == 1
    assert Ledger(settings, NAME).frame()["request_id"].to_list() == [other]
    write(artifacts, NOW, 2, **{"key.thing": column})  # of a collector that has not looked at the tombstones yet
    compact(artifacts, NAME, lambda segment: True)
    assert Ledger(settings, NAME).frame()["key.thing"].to_list() == [column[1]] * 2
    for nothing in ("nan", "inf", "1e999999999", "", "5.5", "x"):
        assert count_entity(settings, NAME, "thing", nothing) == 0


@pytest.mark.parametrize("has_table", [True, False])
@pytest.mark.parametrize("step", [(LedgerTable, "_write"), (LedgerTable, "append")], ids=["commit", "read"])
def test_a_compaction_at_work_does_not_bring_an_erased_person_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, step: tuple[type, str], has_table: bool
) -> None:
    artifacts, store = Artifacts(settings.artifacts), open_store(settings)
    if has_table:
        answer(settings, ["bob"])
        compact(artifacts, NAME, lambda segment: True)
    (ada, bob) = answer(settings, ["ada", "bob"], NOW + timedelta(hours=1))
    real = getattr(*step)

    def late(*arguments: Any) -> Any:
        monkeypatch.setattr(*step, real)
        erase_person(settings, store, SYSTEM, NAME, hash_of(settings, "ada"))
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(*step, late)
        with pytest.raises(ConflictError):
            compact(artifacts, NAME, lambda segment: True)
    compact(artifacts, NAME, lambda segment: True)
    kept = Ledger(settings, NAME).frame()["request_id"].to_list()
    assert bob in kept
    assert ada not in kept


def test_what_arrives_of_an_erased_person_is_left_out_and_who_comes_back_is_recorded(settings: Settings) -> None:
    """What lay on a node, and what a killed collector leaves, be it a prediction or a label by keys."""
    store = open_store(settings)
    answer(settings, ["bob"])
    writer, labels = LedgerWriter(settings, NAME, clock=Clock(NOW)), LabelWriter(settings, NAME, clock=Clock(NOW))
    writer.add_version("1", SCHEMA)
    for person in ("ada", "bob"):
        texts = np.array([["JFK", person]], dtype=object)
        append(writer, uuid7_at(int(NOW.timestamp() * 1000)), keys=[{**KEY, "carrier": person}], categories=texts)
        labels.append([Label(True, keys={**KEY, "carrier": person})], label_keys(SCHEMA, settings))
    erase_person(settings, store, SYSTEM, NAME, hash_of(settings, "ada"))
    writer.close()
    labels.close()
    assert Ledger(settings, NAME).frame().height == 2
    assert holding(settings, hash_of(settings, "ada")) == []
    (event,) = read_events(store, types=["ledger.erased"])
    assert (event.payload["predictions"], event.payload["labels"]) == (0, 0)
    assert hash_of(settings, "ada") not in " ".join(str(path) for path in Path(settings.artifacts).rglob("*"))
    later = datetime.now(UTC) + CLOCKS_DIFFER + timedelta(minutes=1)
    answer(settings, ["ada"], later)
    assert Ledger(settings, NAME).frame().height == 3
    assert len(holding(settings, hash_of(settings, "ada"))) == 2


def test_what_a_node_moves_later_of_an_erased_entity_is_left_out_though_nothing_was_there_yet(
    settings: Settings,
) -> None:
    artifacts, store = Artifacts(settings.artifacts), open_store(settings)
    leave_out_entity(artifacts, store, NAME, "origin", "JFK")
    now = datetime.now(UTC)
    answer(settings, ["ada"], now)
    assert Ledger(settings, NAME).frame().is_empty()
    assert segments(artifacts, NAME) == []
    answer(settings, ["ada"], now + CLOCKS_DIFFER + timedelta(minutes=1))  # who comes back is recorded
    assert Ledger(settings, NAME).frame().height == 1
    names = [path.name for path in (Path(settings.artifacts) / "ledger" / NAME / "erased").iterdir()]
    assert "JFK" not in str(names)


def test_an_erased_value_is_left_out_of_its_own_column_alone(settings: Settings) -> None:
    artifacts, store = Artifacts(settings.artifacts), open_store(settings)
    leave_out_entity(artifacts, store, NAME, "dest", "JFK")
    leave_out_entity(artifacts, store, NAME, "a column-7/ä", "JFK")
    answer(settings, ["ada"], datetime.now(UTC))
    assert Ledger(settings, NAME).frame().height == 1


@pytest.mark.parametrize("moved", [False, True], ids=["segment", "table"])
def test_a_collector_that_was_killed_before_it_had_looked_brings_nobody_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, moved: bool
) -> None:
    artifacts, store = Artifacts(settings.artifacts), open_store(settings)
    answer(settings, ["bob"])
    writer = LedgerWriter(settings, NAME, clock=Clock(NOW))
    writer.add_version("1", SCHEMA)
    texts = np.array([["JFK", "ada"]], dtype=object)
    append(writer, uuid7_at(int(NOW.timestamp() * 1000)), keys=[{**KEY, "carrier": "ada"}], categories=texts)
    writer.rotate()
    erase_person(settings, store, SYSTEM, NAME, hash_of(settings, "ada"))
    with monkeypatch.context() as patched:

        def killed(*given: Any) -> None:
            raise OSError("killed")

        patched.setattr(collect, "leave_out_erased", killed)
        assert "killed" in str(writer.collect_leftovers().problem)
    assert holding(settings, hash_of(settings, "ada"))
    if moved:
        compact(artifacts, NAME, lambda segment: True)
    writer.close()
    compact(artifacts, NAME, lambda segment: True)
    assert holding(settings, hash_of(settings, "ada")) == []
    assert Ledger(settings, NAME).frame().height == 1


def test_a_run_of_batch_scoring_brings_no_erased_person_into_the_ledger(settings: Settings, tmp_path: Path) -> None:
    artifacts, output = Artifacts(settings.artifacts), Artifacts(f"{tmp_path}/scores")
    answer(settings, ["ada", "bob"])
    (segment,) = segments(artifacts, NAME)
    name = f"{segment.id[:36]}.parquet"
    output.write_table(read_segment(segment.url), WAITING, name)
    erase_person(settings, open_store(settings), SYSTEM, NAME, hash_of(settings, "ada"))
    retain(artifacts, NAME, timedelta(days=1), NOW + timedelta(days=2))  # tombstones are of a later day
    _copy(output.root, name, settings.artifacts, NAME)
    assert Ledger(settings, NAME).frame()["key.carrier"].to_list() == [hash_of(settings, "bob")]


def test_tombstones_go_with_what_they_are_for(settings: Settings) -> None:
    artifacts = Artifacts(settings.artifacts)
    for days in (0, 5, 0):
        set_tombstone(artifacts, NAME, hash_of(settings, "ada"), NOW + timedelta(days=days))
    rows = pl.DataFrame({"key.carrier": [hash_of(settings, "ada"), "AA", None], "time": [NOW + timedelta(days=1)] * 3})
    assert tombstones(artifacts, NAME).without(rows)["key.carrier"].to_list() == ["AA", None]
    retain(artifacts, NAME, timedelta(days=4), NOW + timedelta(days=30))
    assert not tombstones(artifacts, NAME)
    assert tombstones(artifacts, NAME).without(rows).height == 3


def test_retention_takes_whole_days_from_everywhere(settings: Settings) -> None:
    artifacts = Artifacts(settings.artifacts)
    for days in range(6):
        answer(settings, ["ada"], NOW + timedelta(days=days))
        if days < 3:
            compact(artifacts, NAME, lambda segment: True)
    retain(artifacts, NAME, timedelta(days=4), NOW + timedelta(days=6))
    kept = Ledger(settings, NAME).frame()
    assert kept["time"].to_list() == [NOW + timedelta(days=days) for days in range(2, 6)]
    assert {segment.part for segment in Labels(artifacts, NAME).segments()} >= {"2026-03-03", "2026-03-06"}
    assert not {"2026-03-01", "2026-03-02"} & {segment.part for segment in Labels(artifacts, NAME).segments()}
    assert len(list(Path(artifacts.url("ledger", NAME, "table")).glob("day=*/*.parquet"))) == 1
    retain(artifacts, NAME, timedelta(days=1), NOW + timedelta(days=30))
    assert Ledger(settings, NAME).frame().is_empty()
    assert segments(artifacts, NAME) == []


def test_labels_stay_as_long_as_predictions_of_the_day_on_which_they_came(settings: Settings) -> None:
    """Whatever day their ids and events are of, and whatever they were merged with."""
    artifacts, keys = Artifacts(settings.artifacts), label_keys(SCHEMA, settings)
    old = {**KEY, "carrier": "ada", "departure": NOW - timedelta(days=4000)}
    ids = ["6f9619ff-8b86-4d01-b42d-00cf4fc964ff", uuid7_at(0), "052c7a1b-1c00-7da6-a3ce-929d0e0e4736"]
    for days in range(LEAST_FILES):
        with LabelWriter(settings, NAME, clock=Clock(NOW + timedelta(days=days))) as labels:
            labels.append([Label(True, request_id=id) for id in ids])
            labels.append([Label(True, keys=old)], keys)
    compact_labels(artifacts, NAME)
    assert len(Labels(artifacts, NAME).segments()) == 4
    retain(artifacts, NAME, timedelta(days=4), NOW + timedelta(days=LEAST_FILES))
    came = [read_segment(segment.url)["received_at"] for segment in Labels(artifacts, NAME).segments()]
    assert [(len(one), one.min()) for one in came] == [(4, NOW + timedelta(days=LEAST_FILES - 4))] * 4
    retain(artifacts, NAME, timedelta(days=4), NOW + timedelta(days=LEAST_FILES + 5))
    assert Labels(artifacts, NAME).segments() == []


def test_what_the_drift_actor_has_not_read_is_not_moved() -> None:
    def segment(name: str, age: timedelta) -> Segment:
        return Segment(name, "", NOW - age, 1)

    read, unread = segment("read", timedelta(hours=2)), segment("unread", timedelta(hours=2))
    old = segment("old", LATEST + timedelta(hours=1))
    moved = may_be_moved(NOW, ["read"], NOW + timedelta(days=30))
    assert [moved(one) for one in (read, unread, old)] == [True, False, True]
    unwatched = may_be_moved(None, [], NOW)
    assert [unwatched(one) for one in (read, old)] == [False, True]


def test_the_commands_compact_and_erase(settings: Settings, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    (ada, _) = answer(settings, ["ada", "bob"], now - timedelta(days=10))
    answer(settings, ["bob"], now - timedelta(days=100))
    kept = "    candidates=(LogisticRegression(),),\n    keep_predictions=timedelta(days=30),\n"
    text = USE_CASE.replace("    candidates=(LogisticRegression(),),\n", kept)
    (tmp_path / "departures.py").write_text(f"from datetime import timedelta\n{text}")
    command = ["ledger", "compact", str(tmp_path / "departures.py"), "--state", str(tmp_path)]
    done = json.loads(CliRunner().invoke(app, command, catch_exceptions=False).stdout)
    assert done == {"segments": 1, "rows": 2, "label_files": 0}
    command = ["ledger", "erase", NAME, "--state", str(tmp_path)]
    done = CliRunner().invoke(app, command, input="ada\n", catch_exceptions=False)
    assert '"predictions": 1' in done.stdout
    assert ada not in Ledger(settings, NAME).frame()["request_id"].to_list()
    assert Ledger(settings, NAME).frame().height == 1
    command = ["ledger", "status", NAME, "--state", str(tmp_path)]
    shown = json.loads(CliRunner().invoke(app, command, catch_exceptions=False).stdout)
    assert (shown["keep_days"], shown["last_upkeep"]["rows"], shown["last_upkeep"]["problem"]) == (30, 2, "")
    (tmp_path / "other.py").write_text((tmp_path / "departures.py").read_text().replace("days=30", "hours=30"))
    command = ["ledger", "compact", str(tmp_path / "other.py"), "--state", str(tmp_path)]
    with pytest.raises(UseCaseError, match="keep_predictions is 1 day, 6:00:00"):
        CliRunner().invoke(app, command, catch_exceptions=False)


def test_an_erasure_names_the_files_of_which_nobody_can_say_whose_they_are(settings: Settings) -> None:
    answer(settings, ["AA"])
    writer = LedgerWriter(settings, NAME, clock=Clock(NOW))
    writer.add_version("1", SCHEMA)
    append(writer, uuid7_at(int(NOW.timestamp() * 1000)), keys=[KEY], categories=np.array([["JFK", "AA"]], object))
    writer.rotate()
    (path,) = Path(settings.ledger_wal).glob(f"{NAME}/*.wal")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    writer.collect_leftovers()
    store = open_store(settings)
    done = erase_person(settings, store, SYSTEM, NAME, hash_of(settings, "AA"))
    assert done.damaged == (f"{path}.damaged",)
    told = [event for event in read_events(store) if event.type == "ledger.erased"]
    assert told[-1].payload["damaged_files"] == 1
