"""The ledger: what was appended is found, once, whoever is killed when; personal values stay out of it."""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import uuid6
from hypothesis import given
from hypothesis import strategies as st

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, UnavailableError
from mlops_ray.predictions.collect import collect_leftovers
from mlops_ray.predictions.ids import moment_of, uuid7_at
from mlops_ray.predictions.personal import personal_hash
from mlops_ray.predictions.reader import LONGEST_RETRY, Ledger
from mlops_ray.predictions.segments import delete_before, named_for, read_segment, segments, write_segment
from mlops_ray.predictions.wal import FrameReader, WalFile
from mlops_ray.predictions.writer import LedgerWriter
from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.testing.example_model import example_schema
from tests.raw_ledger import raw_rows

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
KEY = {"carrier": "AA", "origin": "JFK", "departure": datetime(2026, 3, 1, 14, tzinfo=UTC), "distance": 500.0}


class Clock:
    """Stands still until it is set."""

    def __init__(self, moment: datetime = NOW):
        self.moment = moment

    def __call__(self) -> float:
        return self.moment.timestamp()


def settings_in(folder: Path, **others: Any) -> Settings:
    return Settings(state=str(folder), data=str(folder), **others)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make_writer(settings: Settings, clock: Callable[[], float], schema: ModelSchema | None = None) -> LedgerWriter:
    writer = LedgerWriter(settings, "departures", clock=clock)
    writer.add_version("1", schema or example_schema())
    return writer


def append(writer: LedgerWriter, request_id: str = "", **others: Any) -> str:
    """One row, with what the test does not care about filled in."""
    request_id = request_id or str(uuid6.uuid7())
    numbers = others.pop("numbers", [[500.0, 8.0, np.nan]])
    values = {
        "route": "champion",
        "keys": [KEY],
        "numbers": np.array(numbers, dtype=np.float32),
        "categories": np.array([["JFK", ""]] * len(numbers), dtype=object),
        "answer": np.full(len(numbers), 0.25, dtype=np.float32),
        "latency_s": 0.001,
        "as_of": NOW - timedelta(hours=2),
    }
    writer.append(others.pop("version", "1"), request_id=request_id, **{**values, **others})
    return request_id


def open_wal_files() -> int:
    folder = Path("/proc/self/fd")
    return sum(os.readlink(path).endswith(".wal") for path in folder.iterdir() if path.is_symlink())


def wal_files(settings: Settings) -> list[Path]:
    return sorted(Path(settings.ledger_wal, "departures").glob("*.wal*"))


def test_a_record_comes_back_as_it_was_answered(settings: Settings, clock: Clock) -> None:
    writer = make_writer(settings, clock)
    reasons = {"scale": "log odds", "base": -1.0, "contributions": {"hour": 0.5, "distance": -0.25}, "error": 0.01}
    request_id = append(writer, caller="somebody", question=b"question", reasons=[reasons])
    writer.close()
    assert Ledger(settings, "departures").frame().to_dicts() == [
        {
            "request_id": request_id,
            "row": 0,
            "time": NOW,
            "as_of": NOW - timedelta(hours=2),
            "version": "1",
            "route": "champion",
            "latency_s": pytest.approx(0.001),
            "caller": "somebody",
            "question": int.from_bytes(b"question", "big"),
            "reasons": json.dumps(reasons, separators=(",", ":")),
            **{f"key.{name}": value for name, value in KEY.items()},
            "feature.distance": 500.0,
            "feature.hour": 8.0,
            "feature.recent_delay": None,
            "feature.origin": "JFK",
            "feature.carrier": None,
            "probability": 0.25,
        }
    ]


def test_rows_of_a_request_by_features_have_no_keys(settings: Settings, clock: Clock) -> None:
    writer = make_writer(settings, clock)
    append(writer, numbers=[[1, 2, 3], [4, 5, 6]], keys=None, as_of=None)
    append(writer)
    writer.close()
    frame = Ledger(settings, "departures").frame()
    assert frame["row"].to_list() == [0, 1, 0]
    assert frame["key.origin"].to_list() == [None, None, "JFK"]
    assert frame["feature.hour"].to_list() == [2.0, 5.0, 8.0]
    assert frame["as_of"].to_list() == [NOW, NOW, NOW - timedelta(hours=2)]


floats = st.floats(width=32, allow_infinity=False)
texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8)
moments = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
rows_of_requests = st.lists(st.tuples(floats, texts, texts, moments, st.none() | floats), min_size=1, max_size=4)


@given(requests=st.lists(rows_of_requests, min_size=1, max_size=6))
def test_any_values_survive(requests: list[list[tuple[Any, ...]]], tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = settings_in(tmp_path_factory.mktemp("ledger"))
    writer = make_writer(settings, time.time)
    for rows in requests:
        append(
            writer,
            keys=[{"carrier": c, "origin": o, "departure": at, "distance": d} for _, c, o, at, d in rows],
            numbers=[[number, 0.0, np.nan] for number, *_ in rows],
            categories=np.array([[origin, carrier] for _, carrier, origin, *_ in rows], dtype=object),
        )
    writer.close()
    found = Ledger(settings, "departures").frame()
    given_rows = [row for rows in requests for row in rows]
    assert found["feature.distance"].to_list() == [None if np.isnan(number) else number for number, *_ in given_rows]
    assert found["feature.carrier"].to_list() == [carrier or None for _, carrier, *_ in given_rows]
    assert found["key.carrier"].to_list() == [carrier for _, carrier, *_ in given_rows]
    assert found["key.departure"].to_list() == [at for *_, at, _ in given_rows]
    np.testing.assert_array_equal(
        found["key.distance"].to_numpy(), [np.nan if d is None else d for *_, d in given_rows]
    )


@given(frames=st.lists(st.binary(max_size=40), max_size=6), cut=st.integers(0, 60))
def test_a_torn_end_takes_only_the_last_frames(
    frames: list[bytes], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("wal")
    file = WalFile.create(folder, 1_700_000_000_000_000)
    ends = [0]
    for frame in frames:
        file.append(frame)
        ends.append(file.size)
    file.close()
    content = next(folder.glob("*.wal")).read_bytes()[: max(0, file.size - cut)]
    reader = FrameReader(content)
    whole = sum(end <= len(content) for end in ends[1:])
    assert list(reader) == frames[:whole]
    assert reader.damaged == 0
    assert reader.torn_bytes == len(content) - ends[whole]


@given(frames=st.lists(st.binary(min_size=1, max_size=40), min_size=2, max_size=6), at=st.data())
def test_a_damaged_frame_costs_no_other(
    frames: list[bytes], at: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("wal")
    file = WalFile.create(folder, 1_700_000_000_000_000)
    first = 12 + len(frames[0])
    for frame in frames:
        file.append(frame)
    file.close()
    content = bytearray(next(folder.glob("*.wal")).read_bytes())
    content[at.draw(st.integers(0, first - 1))] ^= at.draw(st.integers(1, 255))
    reader = FrameReader(bytes(content))
    assert list(reader) == frames[1:]
    assert reader.damaged == 1


def test_damaged_files_are_converted_counted_and_kept(settings: Settings, clock: Clock) -> None:
    writer = make_writer(settings, clock)
    ids = [append(writer) for _ in range(3)]
    writer.rotate()
    (path,) = wal_files(settings)
    content = bytearray(path.read_bytes())
    content[content.index(ids[1].encode())] ^= 1
    path.write_bytes(content)
    done = writer.collect_leftovers()
    assert (done.files, done.rows, done.damaged_frames, writer.damaged_frames) == (1, 2, 1, 1)
    assert Ledger(settings, "departures").frame()["request_id"].to_list() == [ids[0], ids[2]]
    assert [path.suffix for path in wal_files(settings)] == [".damaged"]
    assert writer.lag().files == 0


def test_a_repeated_request_counts_once(settings: Settings, clock: Clock) -> None:
    writer = make_writer(settings, clock)
    first = append(writer, uuid7_at(int(clock() * 1000)), answer=np.array([0.125], np.float32))
    clock.moment += timedelta(minutes=2)
    append(writer, first, version="1", route="canary")
    append(writer, first, route="shadow")
    writer.add_version("2", example_schema())
    append(writer, first, route="shadow", version="2")
    append(writer, first, route="shadow", version="2")
    writer.close()
    ledger = Ledger(settings, "departures")
    assert ledger.frame().select("version", "route", "probability").rows() == [
        ("1", "champion", 0.125),
        ("1", "shadow", 0.25),
        ("2", "shadow", 0.25),
    ]
    # Also where the first lies just before what is asked for.
    assert ledger.frame(start=NOW + timedelta(minutes=1), columns=["route"])["route"].to_list() == ["shadow", "shadow"]
    assert ledger.find(first).height == 5


def test_other_questions_under_one_id_are_other_predictions(settings: Settings, clock: Clock) -> None:
    writer = make_writer(settings, clock)
    request_id = uuid7_at(int(clock() * 1000))
    for number, question in enumerate([b"one", b"two", b"one", b"three"]):
        append(writer, request_id, question=question, answer=np.array([number / 4], np.float32))
    append(writer, request_id)  # as segments have it that are older than the question's digest
    append(writer, request_id)
    writer.close()
    assert raw_rows(settings, "departures").height == 6
    ledger = Ledger(settings, "departures")
    assert sorted(ledger.frame()["probability"]) == [0.0, 0.25, 0.25, 0.75]
    assert ledger.find(request_id).height == 6  # all that was answered


def test_of_a_question_with_personal_values_nothing_can_be_guessed(settings: Settings, clock: Clock) -> None:
    for rules in ({"carrier": "hash"}, {"origin": "omit"}):
        writer = make_writer(settings, clock, personal_schema(rules))
        append(writer, question=b"question")
        writer.close()
    digest = personal_hash(settings).digest(b"question")
    expected = int.from_bytes(digest[:8], "big", signed=True)
    assert raw_rows(settings, "departures")["question"].to_list() == [expected, expected]


def test_records_written_before_an_upgrade_are_read(settings: Settings, clock: Clock) -> None:
    writer = make_writer(settings, clock)
    request_id = append(writer)
    writer.rotate()
    (path,) = wal_files(settings)
    schema, record = (msgspec.msgpack.decode(frame) for frame in FrameReader(path.read_bytes()))
    path.unlink()
    older = WalFile.create(path.parent, int(clock() * 1e6))
    older.append(msgspec.msgpack.encode(schema))
    older.append(msgspec.msgpack.encode(record[:-3]))
    older.close()
    writer.close()
    assert raw_rows(settings, "departures").select("request_id", "caller", "question", "reasons").rows() == [
        (request_id, None, None, None)
    ]


def test_each_row_has_its_own_reasons_or_none(settings: Settings, clock: Clock) -> None:
    some = [{"contributions": {"hour": float(row)}} for row in range(3)]
    three = {"keys": [KEY] * 3, "numbers": [[500.0, 8.0, np.nan]] * 3}
    writer = make_writer(settings, clock)
    for reasons in ((), (some[0], None, some[2]), (None, None, None), some):
        append(writer, reasons=reasons, **three)
    writer.close()
    texts = [json.dumps(one, separators=(",", ":")) for one in some]
    expected = [*[None] * 3, texts[0], None, texts[2], *[None] * 3, *texts]
    assert raw_rows(settings, "departures")["reasons"].to_list() == expected


def test_reasons_say_nothing_of_what_the_record_leaves_out_or_hashes(settings: Settings, clock: Clock) -> None:
    writer = make_writer(settings, clock, personal_schema({"carrier": "hash", "origin": "omit", "distance": "hash"}))
    names = ("carrier", "origin", "distance", "hour", "recent_delay")
    append(writer, reasons=[{"base": 1.0, "contributions": dict.fromkeys(names, 2.0)}])
    writer.close()
    (said,) = map(json.loads, raw_rows(settings, "departures")["reasons"])
    assert said == {"base": 1.0, "contributions": {"hour": 2.0, "recent_delay": 2.0}}


def test_two_stretches_make_the_whole(settings: Settings, clock: Clock) -> None:
    writer = make_writer(settings, clock)
    ids = []
    for _ in range(20):
        clock.moment += timedelta(seconds=50)
        ids.append(append(writer))
        clock.moment += timedelta(seconds=5)
        append(writer, ids[-1])
    writer.close()
    ledger = Ledger(settings, "departures")
    middle = NOW + timedelta(seconds=52)
    parts = [ledger.frame(end=middle), ledger.frame(middle)]
    assert [part.height for part in parts] == [1, 19]
    assert pl.concat(parts)["request_id"].to_list() == ids == ledger.frame()["request_id"].to_list()
    assert timedelta(minutes=1) < LONGEST_RETRY


def test_files_rotate_by_time_size_and_a_clock_set_back(settings: Settings, clock: Clock) -> None:
    writer = make_writer(settings, clock)
    for moment in (NOW, NOW + timedelta(seconds=59), NOW + timedelta(seconds=60), NOW - timedelta(hours=1)):
        clock.moment = moment
        append(writer)
    assert len(wal_files(settings)) == 3
    assert open_wal_files() == 1
    small = LedgerWriter(settings, "departures", rotate_bytes=1000, clock=clock)
    small.add_version("1", example_schema())
    for _ in range(8):
        append(small)
    assert len(wal_files(settings)) > 4
    small.close()
    writer.close()
    found = segments(Artifacts(settings.artifacts), "departures")
    assert [segment.time for segment in found] == sorted(segment.time for segment in found)
    for segment in found:
        assert read_segment(segment.url, ["time"])["time"].min() >= segment.time  # type: ignore[operator]
    assert Ledger(settings, "departures").frame().height == 12


def test_an_idle_writer_hands_its_records_on(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, ledger_rotate_s=0.05)
    with make_writer(settings, time.time) as writer:
        append(writer)
        deadline = time.monotonic() + 10
        while writer.lag().files and time.monotonic() < deadline:
            time.sleep(0.01)
        assert Ledger(settings, "departures").frame().height == 1


def test_a_clock_that_is_set_back_holds_up_no_record(tmp_path: Path, clock: Clock) -> None:
    settings = settings_in(tmp_path, ledger_rotate_s=0.05)
    with make_writer(settings, clock) as writer:
        append(writer)
        clock.moment -= timedelta(hours=1)
        deadline = time.monotonic() + 10
        while writer.lag().files and time.monotonic() < deadline:
            time.sleep(0.01)
        assert Ledger(settings, "departures").frame().height == 1


def test_versions_with_other_columns_share_a_file(settings: Settings, clock: Clock) -> None:
    schema = example_schema()
    writer = make_writer(settings, clock)
    writer.add_version("2", replace(schema, features=schema.features[:2]))
    append(writer)
    append(writer, version="2", numbers=[[700.0]], categories=np.array([["LGA"]], dtype=object))
    append(writer)
    writer.close()
    frame = Ledger(settings, "departures").frame().sort("feature.distance")
    assert frame["feature.hour"].to_list() == [8.0, 8.0, None]
    assert frame["feature.distance"].to_list() == [500.0, 500.0, 700.0]
    assert len(segments(Artifacts(settings.artifacts), "departures")) == 2


def personal_schema(rules: Mapping[str, str]) -> ModelSchema:
    schema = example_schema()
    columns = tuple(replace(c, personal=rules.get(c.name)) for c in schema.request_columns)  # type: ignore[arg-type]
    return replace(schema, request_columns=columns)


def test_personal_columns_are_hashed_or_left_out_before_the_disk(settings: Settings, clock: Clock) -> None:
    writer = make_writer(settings, clock, personal_schema({"carrier": "hash", "origin": "omit", "distance": "hash"}))
    key = {"carrier": "Ada Lovelace", "origin": "Marylebone", "departure": NOW, "distance": 4711.0}
    for _ in range(2):
        append(
            writer,
            keys=[key],
            numbers=[[4711.0, 8.0, 1.0]],
            categories=np.array([["Marylebone", "Ada Lovelace"]], dtype=object),
        )
    (wal,) = wal_files(settings)
    content = wal.read_bytes()
    for secret in (b"Ada", b"Marylebone", np.float32(4711).tobytes(), np.float64(4711).tobytes()):
        assert secret not in content
    writer.close()
    frame = Ledger(settings, "departures").frame()
    hashed = personal_hash(settings)
    ada = hashed.hash("Ada Lovelace", "text")
    assert frame["key.carrier"].to_list() == frame["feature.carrier"].to_list() == [ada, ada]
    assert frame["key.distance"].to_list() == [hashed.hash(4711, "number")] * 2
    assert not {"key.origin", "feature.origin", "feature.distance"} & set(frame.columns)
    assert frame["feature.hour"].to_list() == [8.0, 8.0]


def test_the_secret_is_made_once_and_for_its_owner(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, ledger_secret_file=str(tmp_path / "state" / "secret"))
    file = Path(settings.ledger_secret_file)
    with ThreadPoolExecutor(8) as pool:
        hashes = set(pool.map(lambda _: personal_hash(settings).digest(b""), range(16)))
    assert len(hashes) == 1
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["secret"]
    file.write_text("short")
    with pytest.raises(ConfigurationError, match="holds 5 bytes"):
        personal_hash(settings)


@pytest.mark.parametrize("artifacts", ["s3://lake/artifacts", "/mnt/shared/artifacts", "file:///mnt/shared"])
def test_no_secret_is_made_where_artifacts_are_shared(tmp_path: Path, artifacts: str) -> None:
    settings = settings_in(tmp_path, artifacts=artifacts)
    with pytest.raises(ConfigurationError, match=r"does not exist, and others may share .* Copy the file from a node"):
        personal_hash(settings)
    assert not Path(settings.ledger_secret_file).exists()
    Path(settings.ledger_secret_file).write_text("as on every other node")
    assert personal_hash(settings).digest(b"") == personal_hash(settings).digest(b"")


def test_storage_away_keeps_files_and_shows_the_lag(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_in(tmp_path)
    artifacts = Path(settings.artifacts)
    artifacts.write_text("a file where the folder should be")
    writer = make_writer(settings, clock)
    append(writer)
    writer.rotate()
    clock.moment += timedelta(seconds=90)
    assert writer.collect_leftovers().problem is not None
    assert writer.collect_leftovers().problem is not None
    assert len(caplog.records) == 1
    lag = writer.lag()
    assert (lag.files, lag.oldest_age_s) == (1, 90)
    assert lag.bytes > 100
    artifacts.unlink()
    assert writer.collect_leftovers().rows == 1
    assert writer.lag().files == 0
    assert Ledger(settings, "departures").frame().height == 1


def test_a_file_over_which_a_library_panics_keeps_no_other(
    settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = write_segment

    def panics_once(*args: Any) -> str:
        monkeypatch.setattr("mlops_ray.predictions.collect.write_segment", real)
        raise pl.exceptions.PanicException("out of range")

    writer = make_writer(settings, clock)
    for _ in range(2):
        append(writer)
        writer.rotate()
        clock.moment += timedelta(seconds=1)
    monkeypatch.setattr("mlops_ray.predictions.collect.write_segment", panics_once)
    done = writer.collect_leftovers()
    assert (done.rows, "out of range" in (done.problem or "")) == (1, True)
    assert writer.collect_leftovers().rows == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_replica_whose_ledger_is_not_moved_any_more_says_so(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exits(*args: Any) -> Any:
        raise SystemExit

    with make_writer(settings_in(tmp_path, ledger_rotate_s=0.05), clock) as writer:
        writer.expect_alive()
        with monkeypatch.context() as patch:
            patch.setattr(writer._spool, "_collect", exits)
            thread = writer._spool._thread
            assert thread is not None
            thread.join(10)
            with pytest.raises(RuntimeError, match="has ended"):
                writer.expect_alive()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_collector_killed_around_its_write_leaves_each_record_once(
    moment: str, settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = write_segment

    def killed(*args: Any) -> None:
        if moment == "after":
            real(*args)
        raise KeyboardInterrupt

    writer = make_writer(settings, clock)
    append(writer)
    writer.rotate()
    with monkeypatch.context() as patch:
        patch.setattr("mlops_ray.predictions.collect.write_segment", killed)
        with pytest.raises(KeyboardInterrupt):
            writer.collect_leftovers()
    assert writer.collect_leftovers().rows == 1
    assert raw_rows(settings, "departures").height == 1


def test_of_two_collectors_one_converts(settings: Settings, clock: Clock) -> None:
    writer = make_writer(settings, clock)
    for _ in range(20):
        append(writer)
        writer.rotate()
    with ThreadPoolExecutor(4) as pool:
        root, artifacts = Path(settings.ledger_wal), Artifacts(settings.artifacts)
        done = list(pool.map(lambda _: collect_leftovers(root, artifacts), range(4)))
    assert sum(part.rows for part in done) == 20
    assert raw_rows(settings, "departures").height == 20
    assert [part.problem for part in done] == [None] * 4


def test_a_file_in_use_is_left_alone(settings: Settings, clock: Clock) -> None:
    writer = make_writer(settings, clock)
    append(writer)
    other = LedgerWriter(settings, "departures", clock=clock)
    assert other.collect_leftovers().files == 0
    append(writer)
    writer.close()
    assert Ledger(settings, "departures").frame().height == 2


APPEND_FOREVER = """
import sys
from pathlib import Path
from tests.unit.test_ledger import append, make_writer, settings_in
import time
with make_writer(settings_in(Path(sys.argv[1]), ledger_rotate_s=0.05), time.time) as writer:
    while True:
        request_id = append(writer)
        sys.stdout.write(request_id + "\\n")
        sys.stdout.flush()
"""


def test_kill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", APPEND_FOREVER, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert process.stdout is not None
        acknowledged += [process.stdout.readline().strip() for _ in range(2000)]
        process.send_signal(signal.SIGKILL)
        acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
        process.wait()
        process.stdout.close()
    settings = settings_in(tmp_path)
    LedgerWriter(settings, "departures").close()
    found = raw_rows(settings, "departures")["request_id"].to_list()
    assert len(found) == len(set(found))
    assert set(acknowledged) <= set(found)
    assert len(found) - len(acknowledged) <= 2
    assert wal_files(settings) == []


FILL_THE_DISK = """
import json, resource, sys
from pathlib import Path
from mlops_ray.errors import UnavailableError
from tests.unit.test_ledger import Clock, append, make_writer, settings_in
writer = make_writer(settings_in(Path(sys.argv[1])), Clock())
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
kept, refused = [], []
for _ in range(20):
    try:
        kept.append(append(writer))
    except UnavailableError as error:
        refused.append(str(error))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
kept.append(append(writer))
writer.close()
print(json.dumps([kept, refused]))
"""


def test_a_full_disk_refuses_the_record_and_spoils_none(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    command = [sys.executable, "-c", FILL_THE_DISK, str(tmp_path)]
    output = subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2]).stdout
    kept, refused = json.loads(output)
    assert len(kept) > 3
    assert len(refused) > 3
    assert "cannot write to" in refused[0]
    assert Ledger(settings_in(tmp_path), "departures").frame()["request_id"].to_list() == kept


def test_with_ledger_sync_a_record_is_on_the_disk_before_the_answer(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that the disk did not confirm is not kept, as its answer is refused."""
    synced: list[int] = []
    real = os.fdatasync

    def counted(descriptor: int) -> None:
        real(descriptor)
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fdatasync", counted)
    settings = settings_in(tmp_path, ledger_sync=True)
    writer = make_writer(settings, clock)
    kept = [append(writer), append(writer)]
    assert synced[-1] == wal_files(settings)[0].stat().st_size
    assert len(synced) == 2

    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(UnavailableError, match="Input/output error"):
            append(writer)
    kept.append(append(writer))
    writer.close()
    assert raw_rows(settings, "departures")["request_id"].to_list() == kept
    plain = make_writer(settings_in(tmp_path), clock)
    append(plain)
    assert len(synced) == 3


def test_a_disk_that_takes_no_file_is_one_sentence(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "wal").write_text("a file where the folder should be")
    writer = make_writer(settings_in(tmp_path, ledger_wal=str(tmp_path / "wal")), clock)
    with pytest.raises(UnavailableError, match=r"cannot write to .*wal/departures"):
        append(writer)


def test_retention_takes_whole_segments(settings: Settings, clock: Clock) -> None:
    writer = make_writer(settings, clock)
    for days in range(4):
        clock.moment = NOW + timedelta(days=days)
        append(writer)
    writer.close()
    artifacts = Artifacts(settings.artifacts)
    for days, kept in ((1, 3), (2.1, 1), (3, 1)):
        delete_before(artifacts, "departures", NOW + timedelta(days=days))
        assert len(segments(artifacts, "departures")) == kept
    assert [segment.time for segment in segments(artifacts, "departures")] == [NOW + timedelta(days=3)]
    assert [entry.name for entry in artifacts.entries("ledger", "departures")] == ["2026-03-04"]


def test_spans_and_ids_beyond_all_years_hold_nothing(settings: Settings, clock: Clock) -> None:
    writer, ledger = make_writer(settings, clock), Ledger(settings, "departures")
    append(writer)
    writer.close()
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    assert ledger.frame(first, last).height == 1
    assert ledger.frame(end=first).is_empty()
    assert ledger.frame(last).is_empty()
    for day in (datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)):
        assert ledger.find(uuid7_at(int(day.timestamp()) * 1000)).is_empty()


def test_a_column_that_is_asked_for_twice_comes_once(settings: Settings, clock: Clock) -> None:
    writer = make_writer(settings, clock)
    append(writer)
    writer.close()
    found = Ledger(settings, "departures").frame(columns=["version", "time", "version", "nothing", "nothing"])
    assert (found.columns, found.height) == (["version", "time", "nothing"], 1)


def test_only_the_segments_of_the_stretch_are_read(settings: Settings, clock: Clock) -> None:
    writer = make_writer(settings, clock)
    for hours in range(0, 48, 6):
        clock.moment = NOW + timedelta(hours=hours)
        append(writer)
    writer.close()
    artifacts = Artifacts(settings.artifacts)
    found = segments(artifacts, "departures", NOW + timedelta(hours=6), NOW + timedelta(hours=18))
    assert [segment.time for segment in found] == [NOW + timedelta(hours=6), NOW + timedelta(hours=12)]
    assert segments(artifacts, "never_served") == []


@given(st.lists(st.tuples(st.integers(0, 3_000), st.integers(0, 899)), min_size=1, max_size=12), st.integers(-5, 4_000))
def test_a_name_tells_until_when_its_records_are(spans: list[tuple[int, int]], at_s: int) -> None:
    """A reader finds every record of a stretch, and looks into no segment that ended before it."""
    with tempfile.TemporaryDirectory() as folder:
        artifacts, start = Artifacts(folder), NOW + timedelta(seconds=at_s, microseconds=1)
        written = []
        for number, (begin_s, length_s) in enumerate(spans):
            first, last = (NOW + timedelta(seconds=s, microseconds=s) for s in (begin_s, begin_s + length_s))
            rows = pl.DataFrame({"request_id": [uuid7_at(0), "order"], "time": [first, last]})
            id, is_named = uuid7_at(int(first.timestamp() * 1000)), number % 4 > 0
            write_segment(artifacts, "departures", named_for(id, rows) if is_named else id, rows)
            written.append((id, last, is_named))
        found = {segment.id[:36] for segment in segments(artifacts, "departures", start)}
        assert found >= {id for id, last, _ in written if last >= start}
        assert found.isdisjoint(id for id, last, is_named in written if is_named and last < start - MILLISECOND)


def test_a_request_is_found_by_its_id(settings: Settings) -> None:
    writer = make_writer(settings, time.time)
    wanted, *_ = [append(writer) for _ in range(3)]
    other = append(writer, "0d6e0cf2-5e9c-4c4f-9c39-9c4d2f5f2d10")
    writer.close()
    ledger = Ledger(settings, "departures")
    assert ledger.find(wanted)["request_id"].to_list() == [wanted]
    assert ledger.find(wanted.upper())["request_id"].to_list() == [wanted]
    assert ledger.find(str(uuid6.uuid7())).height == 0
    assert ledger.find(other)["request_id"].to_list() == [other]
    assert ledger.find(other, datetime.now(UTC) - timedelta(minutes=1)).height == 1


def test_a_request_is_looked_for_only_in_segments_whose_names_allow_it(
    settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many replicas' segments of an hour one end is read."""
    writer, ids = make_writer(settings, clock), []
    for _ in range(60):
        for _ in range(3):
            clock.moment += timedelta(seconds=20)
            ids.append(append(writer, uuid7_at(int(clock() * 1000))))
        writer.rotate()
    writer.close()
    read: list[str] = []
    real = pq.ParquetFile

    def opened(path: str, **options: Any) -> Any:
        read.append(path)
        return real(path, **options)

    monkeypatch.setattr(pq, "ParquetFile", opened)
    for position in (0, 92, 179):
        assert Ledger(settings, "departures").find(ids[position]).height == 1
    assert len(read) == 3


def test_half_made_files_are_removed_and_make_no_harm(settings: Settings, clock: Clock) -> None:
    folder = Path(settings.ledger_wal, "departures")
    folder.mkdir(parents=True)
    (folder / f"{uuid7_at(0)}.new").touch()
    (folder / f"{uuid7_at(0)}.wal").touch()
    writer = make_writer(settings, clock)
    append(writer)
    writer.close()
    assert list(folder.iterdir()) == []
    assert Ledger(settings, "departures").frame().height == 1


@given(st.integers(0, 2**47), st.binary(min_size=10, max_size=20))
def test_ids_carry_their_moment(moment_ms: int, seed: bytes) -> None:
    name = uuid7_at(moment_ms, seed)
    assert name == uuid7_at(moment_ms, seed)
    if moment_ms < 253_402_300_800_000:
        moment = moment_of(name)
        assert moment is not None
        assert round(moment.timestamp() * 1000) == moment_ms
        assert uuid6.UUID(name).version == 7
    assert moment_of(name.replace("-", "_")) is None
