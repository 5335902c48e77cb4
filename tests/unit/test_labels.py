"""Labels: kept before they are confirmed, found by request or by keys, whatever order they come in."""

import asyncio
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uuid6
from ray.data._internal.object_extensions.arrow import ArrowPythonObjectArray

from mlops_ray.artifacts import Artifacts
from mlops_ray.batch import labels as batch_labels
from mlops_ray.batch.labels import import_labels
from mlops_ray.client import AsyncClient, Client
from mlops_ray.client.labels import labels_sent
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, DataError, UnavailableError
from mlops_ray.monitoring.quality import join_labels
from mlops_ray.predictions.compaction import compact
from mlops_ray.predictions.ids import uuid7_at
from mlops_ray.predictions.label_writer import LabelWriter
from mlops_ray.predictions.labels import BY_REQUEST, Label, LabelKeys, Labels, key_columns, labels_of
from mlops_ray.predictions.personal import PersonalHash
from mlops_ray.predictions.reader import Ledger
from mlops_ray.predictions.retention import retain
from mlops_ray.predictions.wal import WalFile
from mlops_ray.predictions.writer import LedgerWriter
from mlops_ray.testing.example_endpoint import NAME, ExampleEndpoint, example_endpoint
from mlops_ray.testing.example_model import example_schema
from tests.unit.test_endpoint import KEY, VECTOR, assert_refused, predict, send
from tests.unit.test_ledger import append

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEYS = {"carrier": "AA", "origin": "JFK", "departure": "2013-10-01T12:00:00Z"}
REQUEST = str(uuid6.uuid7())


CALLERS_IDS = {
    "random, of 4617": "4bf92f35-77b3-7da6-a3ce-929d0e0e4736",
    "random, of no year": "ffffffff-ffff-7fff-bfff-ffffffffffff",
    "random, of 2150": "052c7a1b-1c00-7da6-a3ce-929d0e0e4736",
    "random, of another variant": "4bf92f35-77b3-7da6-03ce-929d0e0e4736",
    "random": "6f9619ff-8b86-4d01-b42d-00cf4fc964ff",
    "an order of last year": uuid7_at(round((datetime.now(UTC) - timedelta(days=400)).timestamp() * 1000)),
    "an order of 1988": "00884bf9-2f35-7da6-a3ce-929d0e0e4736",
}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExampleEndpoint]:
    with example_endpoint(tmp_path_factory.mktemp("state")) as example:
        yield example


def label(endpoint: ExampleEndpoint, *labels: Any, **more: Any) -> httpx.Response:
    return send(endpoint, "POST", "/labels", json={"labels": list(labels), **more})


def stored(endpoint: ExampleEndpoint) -> pl.DataFrame:
    """The predictions of the ledger with what was said of them."""
    endpoint.ledger.rotate()
    endpoint.labels.rotate()
    deadline = time.monotonic() + 20
    while any(Path(endpoint.settings.state).rglob("*.wal")):  # the writers' own threads may be at it, too
        assert time.monotonic() < deadline
        endpoint.ledger.collect_leftovers()
        endpoint.labels.collect()
        time.sleep(0.01)
    predictions = Ledger(endpoint.settings, NAME).frame()
    return labels_of(NAME, predictions, endpoint.settings)


# Over HTTP


def test_labels_by_request_and_by_keys_are_joined_to_their_predictions(endpoint: ExampleEndpoint) -> None:
    first = predict(endpoint, {"keys": [KEY, {**KEY, "carrier": "UA"}]}).json()["request_id"]
    second = predict(endpoint, {"features": VECTOR}).json()["request_id"]
    told = label(
        endpoint,
        {"request_id": first.upper(), "row": 1, "label": True, "known_at": "2013-10-02T00:00:00Z"},
        {"request_id": second, "label": False},
        {"keys": {**KEYS, "departure": "2013-10-01T08:00:00-04:00"}, "label": True},
        {"request_id": second, "label": None},
    )
    assert told.status_code == 200
    assert told.json() == {
        "model": NAME, "request_id": told.headers["x-request-id"], "accepted": 4, "by_keys": 1, "withdrawn": 1,
    }  # fmt: skip
    found = stored(endpoint).sort("request_id", "row", "label", nulls_last=True)
    assert found.select("request_id", "row", "label").rows() == sorted(
        [(first, 0, True), (first, 1, True), (second, 0, False), (second, 0, None)],
        key=lambda row: (row[0], row[1], row[2] is None, row[2] or False),
    )
    assert found.filter(pl.col("row") == 1)["known_at"][0] == datetime(2013, 10, 2, tzinfo=UTC)
    assert (datetime.now(UTC) - found["received_at"].max()) < timedelta(minutes=1)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("item", "field"),
    [
        ({"request_id": REQUEST}, "labels[0].label"),
        ({"request_id": REQUEST, "label": "maybe"}, "labels[0].label"),
        ({"request_id": REQUEST, "label": "NaN"}, "labels[0].label"),
        ({"request_id": REQUEST, "label": -1}, "labels[0].label"),
        ({"request_id": REQUEST, "label": 2}, "labels[0].label"),
        ({"request_id": "no uuid", "label": True}, "labels[0].request_id"),
        ({"request_id": REQUEST, "label": True, "row": -1}, "labels[0].row"),
        ({"request_id": REQUEST, "label": True, "row": 2**31}, "labels[0].row"),
        ({"request_id": REQUEST, "label": True, "known_at": "yesterday"}, "labels[0].known_at"),
        ({"request_id": REQUEST, "label": True, "known_at": "2013-10-01T00:00:00"}, "labels[0].known_at"),
        ({"request_id": REQUEST, "label": True, "known_at": "1013-10-01T00:00:00Z"}, "labels[0].known_at"),
        ({"request_id": REQUEST, "label": True, "known_at": "2199-10-01T00:00:00Z"}, "labels[0].known_at"),
        ({"request_id": REQUEST, "label": True, "more": 1}, "labels[0].more"),
        ({"label": True}, "labels[0]"),
        ({"request_id": REQUEST, "keys": KEYS, "label": True}, "labels[0]"),
        ({"keys": {**KEYS, "origin": "SFO"}, "label": True}, "labels[0].keys.origin"),
        ({"keys": {"carrier": "AA", "origin": "JFK"}, "label": True}, "labels[0].keys.departure"),
        ({"keys": {**KEYS, "departure": "0013-10-01T12:00:00Z"}, "label": True}, "labels[0].keys.departure"),
        ({"keys": KEYS, "row": 1, "label": True}, "labels[0].row"),
        ([], "labels[0]"),
        (None, "labels[0]"),
    ],
)
def test_what_is_wrong_with_a_label_is_named(endpoint: ExampleEndpoint, item: Any, field: str) -> None:
    assert_refused(label(endpoint, item), 400, field)


def test_a_request_is_about_so_many_days_and_none_to_come(endpoint: ExampleEndpoint) -> None:
    """Each day is a file on shared storage."""
    start = datetime(2013, 1, 1, tzinfo=UTC)
    days = [(start + timedelta(days=day)).isoformat() for day in range(101)]
    by_keys = [{"keys": {**KEYS, "departure": day}, "label": True} for day in days]
    moments = [round((start + timedelta(days=day)).timestamp() * 1000) for day in range(101)]
    by_request = [{"request_id": uuid7_at(moment), "label": True} for moment in moments]
    for labels in (by_keys, by_request, by_keys[:51] + by_request[:50]):
        answer = label(endpoint, *labels)
        assert_refused(answer, 400, "labels")
        assert "about 101 days; the limit of a request is 100" in answer.json()["error"]
        assert label(endpoint, *labels[:100]).status_code == 200
    late = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    refused = label(endpoint, {"keys": {**KEYS, "departure": late}, "label": True})
    assert_refused(refused, 400, "labels[0].keys.departure")
    assert "lies ahead" in refused.json()["error"]
    long = {"keys": {**KEYS, "carrier": "x" * 10_001}, "label": "t"}
    assert_refused(label(endpoint, long), 400, "labels[0].keys.carrier")


@pytest.mark.parametrize("id", CALLERS_IDS.values(), ids=list(CALLERS_IDS))
def test_an_answer_is_found_and_labelled_whatever_moment_its_id_spells(tmp_path: Path, id: str) -> None:
    with example_endpoint(tmp_path) as endpoint:
        assert predict(endpoint, {"features": VECTOR}, **{"x-request-id": id}).json()["request_id"] == id
        told = label(endpoint, {"request_id": id.upper(), "label": True})
        assert told.status_code == 200, told.text
        assert stored(endpoint)["label"].to_list() == [True]
        ledger, artifacts, now = (
            Ledger(endpoint.settings, NAME),
            Artifacts(endpoint.settings.artifacts),
            datetime.now(UTC),
        )
        assert ledger.find(id)["request_id"].to_list() == [id]
        compact(artifacts, NAME, lambda segment: True)
        assert ledger.find(id)["request_id"].to_list() == [id]
        for days, kept in ((0, [True]), (364, [True]), (367, [])):  # as long as the prediction, and no longer
            retain(artifacts, NAME, timedelta(days=365), now + timedelta(days=days))
            assert (ledger.frame().height, labels_in(endpoint.settings, id)) == (len(kept), kept)


def test_a_label_in_other_words_is_read_as_in_a_file(endpoint: ExampleEndpoint) -> None:
    said = ["yes", 0, " TRUE ", "f", "1.0", ""]
    ids = sorted(str(uuid6.uuid7()) for _ in said)
    items = [{"request_id": one, "label": label, "row": "0"} for one, label in zip(ids, said, strict=True)]
    assert label(endpoint, *items).json()["withdrawn"] == 1
    moment = {"keys": {**KEYS, "carrier": " UA", "departure": "2013-10-01 12:00:00+00"}, "label": "t", "known_at": None}
    assert label(endpoint, moment).json()["by_keys"] == 1
    stored(endpoint)
    asked = pl.DataFrame({"request_id": ids}).with_columns(row=pl.lit(0, pl.Int32))
    found = labels_of(NAME, asked, endpoint.settings).sort("request_id")
    assert found["label"].to_list() == [True, False, True, False, True, None]


def test_bodies_that_are_no_labels_are_refused(endpoint: ExampleEndpoint) -> None:
    assert_refused(send(endpoint, "POST", "/labels", json={"labels": []}), 400, "labels")
    assert_refused(send(endpoint, "POST", "/labels", json={}), 400, "labels")
    many = [{"request_id": REQUEST, "label": True}] * 1001
    assert_refused(label(endpoint, *many), 400, "labels")
    text = {"content-type": "text/plain"}
    assert_refused(send(endpoint, "POST", "/labels", content=b"{}", headers=text), 415, "content-type")
    assert_refused(label(endpoint, {"request_id": REQUEST, "label": True}, more=1), 400, "more")


def test_labels_of_unknown_requests_are_kept(endpoint: ExampleEndpoint) -> None:
    unknown = str(uuid6.uuid7())
    assert label(endpoint, {"request_id": unknown, "label": True}).json()["accepted"] == 1
    stored(endpoint)
    about = pl.DataFrame({"request_id": [unknown], "row": [0]}, schema={"request_id": pl.String, "row": pl.Int32})
    assert labels_of(NAME, about, endpoint.settings)["label"].to_list() == [True]


def test_a_full_disk_confirms_nothing(endpoint: ExampleEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(WalFile, "append", full)
    refused = label(endpoint, {"request_id": REQUEST, "label": True})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_clients_send_any_number_of_labels(asynchronous: bool) -> None:
    bodies: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/v2/models/departures/labels"
        bodies.append(json.loads(request.content)["labels"])
        return httpx.Response(200, json={"accepted": len(bodies[-1])})

    labels = [{"request_id": REQUEST, "label": None, "known_at": NOW}] * 2500
    transport = httpx.MockTransport(answer)
    if asynchronous:

        async def send_all() -> int:
            async with AsyncClient("http://test", api_key="k") as client:
                client._http = httpx.AsyncClient(base_url="http://test", transport=transport)
                return await client.send_labels(NAME, labels)

        sent = asyncio.run(send_all())
    else:
        with Client("http://test", api_key="k") as client:
            client._http = httpx.Client(base_url="http://test", transport=transport)
            sent = client.send_labels(NAME, labels)
    assert (sent, [len(body) for body in bodies]) == (2500, [1000, 1000, 500])
    assert bodies[0][0] == {"request_id": REQUEST, "label": None, "known_at": NOW.isoformat()}


def test_clients_send_labels_of_many_days_in_requests_that_are_taken() -> None:
    days = [NOW - timedelta(days=day) for day in range(120)]
    by_keys = [{"keys": {**KEYS, "departure": day}, "label": True} for day in days]
    by_request = [{"request_id": uuid7_at(round(day.timestamp() * 1000)), "label": True} for day in days for _ in "ab"]
    for labels, sizes in ((by_keys, [50, 50, 20]), (by_request, [100, 100, 40]), ([], [])):
        steps, bodies = labels_sent(NAME, labels), []
        with suppress(StopIteration):
            call = next(steps)
            while True:
                bodies.append(call.body["labels"])
                call = steps.send({"accepted": len(bodies[-1])})
        assert [len(body) for body in bodies] == sizes


# Kept


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state=str(tmp_path), data=str(tmp_path))


def about(*request_ids: str) -> pl.DataFrame:
    return pl.DataFrame({"request_id": request_ids}).with_columns(row=pl.lit(0, pl.Int32))


def labels_in(settings: Settings, *request_ids: str) -> list[bool | None]:
    found = Labels(Artifacts(settings.artifacts), NAME).of(about(*request_ids))
    return found.sort("request_id")["label"].to_list()


def test_killed_after_it_was_told_nothing_is_lost(settings: Settings) -> None:
    script = (
        "import sys, time; from mlops_ray.config import Settings; from mlops_ray.predictions.labels import Label\n"
        "from mlops_ray.predictions.label_writer import LabelWriter\n"
        f"writer = LabelWriter(Settings(state={settings.state!r}, data='/'), {NAME!r}); writer.start()\n"
        "writer.append([Label(True, request_id=one) for one in sys.argv[1:]])\n"
        "print('kept', flush=True); time.sleep(60)"
    )
    ids = [str(uuid6.uuid7()) for _ in range(5)]
    process = subprocess.Popen([sys.executable, "-c", script, *ids], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "kept\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    LabelWriter(settings, NAME).collect()
    LabelWriter(settings, NAME).collect()
    assert labels_in(settings, *ids) == [True] * 5


def test_labels_and_predictions_of_a_node_do_not_get_into_each_others_way(settings: Settings) -> None:
    with LedgerWriter(settings, NAME) as ledger, LabelWriter(settings, NAME) as labels:
        ledger.add_version("1", example_schema())
        request_id = append(ledger, str(uuid6.uuid7()))
        labels.append([Label(True, request_id=request_id)])
    assert Ledger(settings, NAME).frame()["request_id"].to_list() == [request_id]
    assert labels_in(settings, request_id) == [True]


def test_files_are_moved_by_time_while_labels_come(settings: Settings) -> None:
    now = [time.time()]
    writer = LabelWriter(settings, NAME, rotate_s=10, clock=lambda: now[0])
    first, second = str(uuid6.uuid7()), str(uuid6.uuid7())
    writer.append([Label(True, request_id=first)])
    writer.collect()
    assert labels_in(settings, first) == []
    now[0] += 11
    writer.append([Label(False, request_id=second)])
    writer.collect()
    assert labels_in(settings, first, second) == [True]
    writer.close()
    assert labels_in(settings, first, second) == [True, False]


def test_storage_that_is_away_keeps_labels_on_the_node(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = LabelWriter(settings, NAME)
    request_id = str(uuid6.uuid7())
    writer.append([Label(True, request_id=request_id)])
    writer.rotate()
    with monkeypatch.context() as patched:

        def away(*given: Any) -> None:
            raise OSError("away")

        patched.setattr(Artifacts, "write_table", away)
        assert "away" in str(writer.collect().problem)
    assert writer.collect().rows == 1
    assert labels_in(settings, request_id) == [True]


def test_labels_of_two_types_in_a_file_are_both_moved(settings: Settings) -> None:
    """The model's task has changed while labels came, by keys and by request id."""
    writer, keys = LabelWriter(settings, NAME), LabelKeys(example_schema(), None)
    writer.append([Label(True, keys={**KEYS, "departure": NOW})], keys)
    writer.append([Label(1.5, request_id=REQUEST)], keys, "number")
    writer.rotate()
    done = writer.collect()
    assert (done.rows, done.problem) == (2, None)
    assert labels_in(settings, REQUEST) == [1.5]
    assert len(Labels(Artifacts(settings.artifacts), NAME).segments()) == 2


@pytest.mark.parametrize("sync", [False, True])
def test_what_describes_the_keys_is_taken_back_with_labels_that_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: bool
) -> None:
    settings = Settings(state=str(tmp_path), data=str(tmp_path), ledger_sync=sync)
    writer, keys = LabelWriter(settings, NAME), LabelKeys(example_schema(), None)
    by_keys, real = [Label(True, keys={**KEYS, "departure": NOW})], os.write
    writer.append([Label(True, request_id=REQUEST)], keys)
    (path,) = Path(settings.ledger_wal).rglob("*.wal")
    before = path.read_bytes()

    def refused(*given: Any) -> Any:
        raise OSError(28, "No space left on device")

    def full(descriptor: int, content: bytes) -> int:
        return real(descriptor, content[:-5]) if len(content) > 5 else refused()

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync" if sync else "write", refused if sync else full)
        with pytest.raises(UnavailableError, match="No space left"):
            writer.append(by_keys, keys)
    assert path.read_bytes() == before
    writer.append(by_keys, keys)
    writer.rotate()
    done = writer.collect()
    assert (done.rows, done.damaged_frames, done.problem) == (2, 0, None)


def test_ids_without_a_time_are_found_too(settings: Settings) -> None:
    odd = ["6f9619ff-8b86-4d01-b42d-00cf4fc964ff", "ffffffff-ffff-7fff-bfff-ffffffffffff", "019cab00-0000-7000-8000-0"]
    with LabelWriter(settings, NAME) as writer:
        writer.append([Label(True, request_id=one) for one in odd])
    assert labels_in(settings, *odd) == [True] * 3


def test_personal_keys_are_stored_as_hashes_and_still_join(settings: Settings) -> None:
    schema = example_schema()
    hashed = tuple(
        replace(column, personal="hash" if column.name == "carrier" else None) for column in schema.request_columns
    )
    schema = replace(schema, request_columns=hashed)
    personal = PersonalHash(b"0123456789abcdef" * 2)
    keys = LabelKeys(schema, personal)
    with LabelWriter(settings, NAME) as writer:
        moment = datetime(2013, 10, 1, 12, tzinfo=UTC)
        writer.append([Label(True, keys={"carrier": "AA", "origin": "JFK", "departure": moment})], keys)
    predictions = about("a").with_columns(
        pl.lit(personal.hash("AA", "text")).alias("key.carrier"),
        pl.lit("JFK").alias("key.origin"),
        pl.lit(moment).dt.cast_time_unit("us").alias("key.departure"),
    )
    artifacts = Artifacts(settings.artifacts)
    assert Labels(artifacts, NAME).of(predictions)["label"].to_list() == [True]
    assert "AA" not in str(artifacts.read_table("labels", NAME).rows())
    with pytest.raises(ConfigurationError, match="no secret"):
        LabelKeys(schema, None)
    omitted = replace(schema, request_columns=tuple(replace(column, personal="omit") for column in hashed))
    assert key_columns(omitted) == ()


def test_repeated_corrected_and_reordered_labels_end_the_same(settings: Settings) -> None:
    said = [Label(False, NOW), Label(True, NOW + timedelta(hours=1)), Label(True, NOW + timedelta(hours=1))]
    for number, order in enumerate(([0, 1, 2], [2, 0, 1], [1, 2, 0])):
        with LabelWriter(settings, f"{NAME}_{number}") as writer:
            for position in order:
                writer.append([replace(said[position], request_id=REQUEST)])
        found = Labels(Artifacts(settings.artifacts), f"{NAME}_{number}").of(about(REQUEST))
        assert len(found) == 3
        assert join_labels(about(REQUEST), found)["label"].to_list() == [True]


# From files


def test_a_file_of_labels_is_kept_row_by_row_and_again_changes_nothing(settings: Settings, tmp_path: Path) -> None:
    good = [str(uuid6.uuid7()) for _ in range(4)]
    file = tmp_path / "labels.csv"
    rows = [f"{good[0]},true,2026-03-01T00:00:00Z", f"{good[1].upper()},0,", f"{good[2]},,", f"{good[3]},no,"]
    bad = ["no uuid,true,", f"{good[0]},perhaps,", f"{good[0]},true,yesterday"]
    file.write_text("\n".join(["request_id,label,known_at", *rows, *bad]))
    done = import_labels(str(file), NAME, settings)
    assert (done.rows, done.accepted, done.refused) == (7, 4, 3)
    assert done.reasons == {"known_at:not_timestamp": 1, "label:not_boolean": 1, "request_id:pattern": 1}
    import_labels(str(file), NAME, settings)
    assert labels_in(settings, *good) == [True, False, None, False]


def test_a_parquet_file_with_rows_and_numbers_as_labels_is_understood(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "labels.parquet"
    pl.DataFrame({"request_id": [REQUEST] * 3, "row": [0, 1, 2], "label": [1, 0, 7]}).write_parquet(file)
    assert import_labels(str(file), NAME, settings).reasons == {"label:not_boolean": 1}
    found = Artifacts(settings.artifacts).read_table("labels", NAME)
    assert found.sort("row").select("row", "label").rows() == [(0, True), (1, False)]
    assert found.schema == BY_REQUEST


@pytest.mark.parametrize("labels", [[1.0, 0.0, -1.0, float("nan"), 2.0], ["1", "f", "-1", "NaN", "maybe"]])
def test_what_is_no_label_is_refused_whatever_its_type(settings: Settings, tmp_path: Path, labels: list[Any]) -> None:
    rows = pl.DataFrame({"request_id": [REQUEST] * 5, "row": range(5), "label": labels})
    rows.write_parquet(tmp_path / "labels.parquet")
    rows.write_csv(tmp_path / "labels.csv")
    for name in ("labels.parquet", "labels.csv"):
        done = import_labels(str(tmp_path / name), NAME, settings)
        assert (done.accepted, done.reasons) == (2, {"label:not_boolean": 3})


def test_a_label_that_is_known_next_week_is_refused_from_a_file_too(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(f"request_id,label,known_at\n{REQUEST},1,2199-01-01T00:00:00Z\n")
    assert import_labels(str(file), NAME, settings).reasons == {"known_after_as_of": 1}


def test_a_label_of_an_event_to_come_is_refused_from_a_file_too(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_labels, "_champion", lambda *given: example_schema())
    file, soon = tmp_path / "labels.csv", datetime.now(UTC) + timedelta(hours=20)  # clocks differ
    rows = [f"AA,JFK,{departure},1" for departure in ("2199-01-01T00:00:00Z", soon.isoformat(), KEYS["departure"])]
    file.write_text("\n".join(["carrier,origin,departure,label", *rows]))
    assert import_labels(str(file), NAME, settings).reasons == {"rule:event_lies_ahead": 1}
    parts = Labels(Artifacts(settings.artifacts), NAME).parts()
    assert parts == ["keys-2013-10-01", f"keys-{soon.date().isoformat()}"]


def test_python_objects_are_no_labels(settings: Settings, tmp_path: Path) -> None:
    objects = ArrowPythonObjectArray.from_objects([object])
    pq.write_table(pa.table({"request_id": [REQUEST], "label": objects}), tmp_path / "labels.parquet")
    with pytest.raises(DataError, match="column label has the extension type"):
        import_labels(str(tmp_path / "labels.parquet"), NAME, settings)


def test_a_file_without_what_is_needed_is_refused_in_words(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("request_id\nx\n")
    with pytest.raises(DataError, match="label is missing"):
        import_labels(str(file), NAME, settings)
    file.write_text("carrier,label\nAA,true\n")
    with pytest.raises(ConfigurationError, match="no champion"):
        import_labels(str(file), NAME, settings)
    with pytest.raises(DataError, match="there is no file"):
        import_labels(str(tmp_path / "nothing.parquet"), NAME, settings)
    pl.DataFrame({"request_id": [REQUEST]}).write_parquet(tmp_path / "labels.parquet")
    with pytest.raises(DataError, match="label is missing"):  # rather than that it is withdrawn
        import_labels(str(tmp_path / "labels.parquet"), NAME, settings)
    (tmp_path / "labels.xlsx").write_bytes(b"")
    with pytest.raises(DataError, match="Known endings"):
        import_labels(str(tmp_path / "labels.xlsx"), NAME, settings)


@pytest.mark.parametrize(
    ("content", "reasons", "first"),
    [
        (b"request_id,row,label\r%s,0,1\r%s,0,1\r", {}, {}),
        (b"request_id,row,label\n%s,0,1\n%s,0", {"malformed": 1}, {"malformed": "labels.csv, line 3"}),
        (b"request_id,row,label\n%s,0,1\n%s,0,1,x\n", {"malformed": 1}, {"malformed": "labels.csv, line 3"}),
        (b'request_id,row,label\n%s,0,1\n%s,0,"a"b\n', {"malformed": 1}, {"malformed": "labels.csv, line 3"}),
        (b"request_id,label,note\n%s,1,\n%s,1,M\xfcller\n", {"malformed": 1}, {"malformed": "labels.csv, line 3"}),
        (b"request_id,label\n%s,1\n%s,x\n", {"label:not_boolean": 1}, {"label:not_boolean": "labels.csv, line 3"}),
    ],
)
def test_a_line_that_is_no_label_costs_itself_alone(
    settings: Settings, tmp_path: Path, content: bytes, reasons: dict[str, int], first: dict[str, str]
) -> None:
    ids = [str(uuid6.uuid7()) for _ in range(2)]
    (tmp_path / "labels.csv").write_bytes(content % tuple(one.encode() for one in ids))
    done = import_labels(str(tmp_path / "labels.csv"), NAME, settings)
    assert (done.rows, done.reasons, done.first) == (2, reasons, first)
    assert labels_in(settings, *ids) == [True] * done.accepted


def test_a_header_that_names_a_column_of_labels_twice_is_refused(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(f"request_id,label,label\n{REQUEST},1,0\n")
    with pytest.raises(DataError, match="names a column twice: label"):
        import_labels(str(tmp_path / "labels.csv"), NAME, settings)


@pytest.mark.parametrize("name", ["labels.CSV", "labels.tsv", "labels.txt", "labels.csv.gz", "labels.TSV.GZ"])
def test_delimited_labels_are_read_by_their_ending(settings: Settings, tmp_path: Path, name: str) -> None:
    sign = "\t" if ".tsv" in name.lower() else ","
    content = f"request_id{sign}label\n{REQUEST}{sign}1\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.lower().endswith(".gz") else content)
    assert import_labels(str(tmp_path / name), NAME, settings).accepted == 1


def test_files_of_a_glob_may_differ_in_their_columns_and_all_are_judged_first(
    settings: Settings, tmp_path: Path
) -> None:
    ids = [str(uuid6.uuid7()) for _ in range(3)]
    days = tmp_path / "days"
    days.mkdir()
    (days / "day_1.csv").write_text(f"request_id,label\n{ids[0]},1\n")
    (days / "day_2.csv").write_text(f"label,known_at,request_id\n0,2026-03-01T00:00:00Z,{ids[1]}\n")
    (days / "day_3.csv").write_text(f"request_id,answer\n{ids[2]},1\n")
    with pytest.raises(DataError, match="label is missing"):
        import_labels(str(days / "day_*.csv"), NAME, settings)
    assert not Artifacts(settings.artifacts).entries("labels", NAME)
    assert import_labels(str(days / "day_[12].csv"), NAME, settings).accepted == 2
    assert labels_in(settings, *ids) == [True, False]
    (days / "day_3.csv").unlink()
    assert import_labels(str(days), NAME, settings).accepted == 2
