"""The compacted ledger: every row is there once, whoever is killed when, and found as before."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import ConflictError
from mlops_ray.predictions import compaction
from mlops_ray.predictions import table as predictions_table
from mlops_ray.predictions.compaction import compact
from mlops_ray.predictions.ids import uuid7_at
from mlops_ray.predictions.reader import Ledger, rows_between
from mlops_ray.predictions.segments import COLUMNS, FEATURE, KEY, Segment, read_segment, segments, write_segment
from mlops_ray.predictions.table import LedgerTable

NAME = "departures"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def every(segment: Segment) -> bool:
    return True


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(str(tmp_path / "artifacts"))


def ledger_of(artifacts: Artifacts) -> Ledger:
    folder = str(Path(artifacts.root).parent)
    return Ledger(Settings(state=folder, data=folder), NAME)


def write(artifacts: Artifacts, moment: datetime = NOON, rows: int = 50, **others: Any) -> list[str]:
    """A segment with a row each second; the ids of its requests."""
    moments = [moment + timedelta(seconds=number) for number in range(rows)]
    ids = [uuid7_at(int(one.timestamp() * 1000)) for one in moments]
    frame = pl.DataFrame({"request_id": ids, "time": moments}, schema_overrides={"time": COLUMNS["time"]}).with_columns(
        pl.col("time").alias("as_of"),
        row=pl.lit(0, pl.Int32),
        route=pl.lit("champion"),
        latency_s=pl.lit(0.001, pl.Float32),
        caller=pl.lit("somebody"),
        question=pl.lit(1, pl.Int64),
        probability=pl.Series(np.linspace(0, 1, rows), dtype=pl.Float32),
        **{"version": pl.lit("7"), f"{KEY}carrier": pl.lit("AA"), f"{FEATURE}hour": pl.lit(8.0, pl.Float32), **others},
    )
    write_segment(artifacts, NAME, ids[0], frame)
    return ids


def in_table(artifacts: Artifacts) -> pl.DataFrame:
    """The table as any tool reads it."""
    return pl.read_delta(artifacts.url("ledger", NAME, "table"))


def test_compacted_rows_are_read_as_before_and_by_other_tools(artifacts: Artifacts) -> None:
    ids = [one for hours in range(0, 30, 6) for one in write(artifacts, NOON + timedelta(hours=hours))]
    ledger = ledger_of(artifacts)
    before = ledger.frame()
    done = compact(artifacts, NAME, lambda segment: segment.time < NOON + timedelta(hours=20))
    assert (done.segments, done.rows) == (4, 200)
    assert len(segments(artifacts, NAME)) == 1
    assert ledger.frame().equals(before)
    start, end = NOON + timedelta(hours=6, seconds=20), NOON + timedelta(hours=24, seconds=3)
    inside = before.filter(pl.col("time").is_between(start, end, closed="left"))
    assert ledger.frame(start, end).equals(inside)
    assert ledger.frame(start, end, ["request_id"])["request_id"].to_list() == inside["request_id"].to_list()
    for request_id in (ids[0], ids[77], ids[249]):
        assert ledger.find(request_id)["request_id"].to_list() == [request_id]
    assert ledger.find(uuid7_at(int(NOON.timestamp() * 1000))).is_empty()
    table = in_table(artifacts)
    assert sorted(table["request_id"]) == ids[:200]
    assert set(table["day"]) == {NOON.date(), (NOON + timedelta(days=1)).date()}


def test_a_segment_over_midnight_and_one_that_comes_again_are_in_the_table_once(artifacts: Artifacts) -> None:
    midnight = datetime(2026, 3, 1, 23, 59, 40, tzinfo=UTC)
    ids = write(artifacts, midnight)
    (segment,) = segments(artifacts, NAME)
    content = Path(segment.url).read_bytes()
    assert compact(artifacts, NAME, every).rows == 50
    Path(segment.url).write_bytes(content)  # a collector that was killed before it removed its file
    assert ledger_of(artifacts).frame()["request_id"].to_list() == ids
    others = write(artifacts, midnight + timedelta(seconds=10))
    done = compact(artifacts, NAME, every)
    assert (done.segments, done.rows) == (2, 50)
    assert sorted(in_table(artifacts)["request_id"]) == sorted(ids + others)
    assert segments(artifacts, NAME) == []


class Killed(BaseException):
    pass


class Kill:
    """Counts the steps of a compaction and kills it before or after one of them."""

    def __init__(self, at: int | None):
        self.at, self.steps = at, 0

    def around(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*args: Any, **named: Any) -> Any:
            self._pass()
            done = step(*args, **named)
            self._pass()
            return done

        return stepped

    def _pass(self) -> None:
        self.steps += 1
        if self.steps - 1 == self.at:
            raise Killed


def run(artifacts: Artifacts, kill: Kill, patch: pytest.MonkeyPatch) -> None:
    with patch.context() as patched:
        for place, name in ((LedgerTable, "append"), (LedgerTable, "_write"), (LedgerTable, "tidy")):
            patched.setattr(place, name, kill.around(getattr(place, name)))
        for name in ("delete_segment", "read_segment"):
            patched.setattr(compaction, name, kill.around(getattr(compaction, name)))
        compact(artifacts, NAME, every, batch_bytes=1)


def test_killed_at_any_step_a_compaction_leaves_each_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def filled(name: str) -> tuple[Artifacts, list[str]]:
        artifacts = Artifacts(str(tmp_path / name / "artifacts"))
        return artifacts, write(artifacts) + write(artifacts, NOON + timedelta(seconds=7))

    count = Kill(None)
    run(filled("count")[0], count, monkeypatch)
    assert count.steps > 12
    for at in range(count.steps):
        artifacts, ids = filled(str(at))
        with pytest.raises(Killed):
            run(artifacts, Kill(at), monkeypatch)
        assert sorted(ledger_of(artifacts).frame()["request_id"]) == sorted(ids), at
        assert ledger_of(artifacts).find(ids[3]).height == 1, at
        compact(artifacts, NAME, every)
        assert sorted(in_table(artifacts)["request_id"]) == sorted(ids), at
        assert segments(artifacts, NAME) == [], at


def test_of_two_compactions_at_once_one_gives_way(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = write(artifacts)
    compact(artifacts, NAME, every)
    ids += write(artifacts, NOON + timedelta(minutes=5))
    real = LedgerTable._write

    def late(self: LedgerTable, table: Any, rows: pl.DataFrame) -> None:
        monkeypatch.setattr(LedgerTable, "_write", real)
        compact(artifacts, NAME, every)  # another, which is done before we commit
        real(self, table, rows)

    monkeypatch.setattr(LedgerTable, "_write", late)
    with pytest.raises(ConflictError, match="Others are changing the table of the ledger of departures"):
        compact(artifacts, NAME, every)
    assert sorted(in_table(artifacts)["request_id"]) == sorted(ids)


def test_many_compactions_readers_and_writers_at_once(artifacts: Artifacts) -> None:
    """Whatever a reader sees while segments come and are moved: no row is missing, none is double."""
    wanted = list(write(artifacts))

    def compact_or_give_way(_: int) -> None:
        with suppress(ConflictError):
            compact(artifacts, NAME, every, batch_bytes=1)

    def look(_: int) -> None:
        known = list(wanted)
        seen = ledger_of(artifacts).frame()["request_id"].to_list()
        assert len(seen) == len(set(seen))
        assert set(known) <= set(seen)
        assert ledger_of(artifacts).find(known[0]).height == 1

    with ThreadPoolExecutor(6) as pool:
        for number in range(8):
            wanted += write(artifacts, NOON + timedelta(minutes=number + 1))
            both = [pool.submit(compact_or_give_way, number) for _ in range(2)]
            both += [pool.submit(look, number) for _ in range(3)]
            for future in both:
                future.result()
    compact(artifacts, NAME, every)
    assert sorted(in_table(artifacts)["request_id"]) == sorted(wanted)


def test_a_column_that_changes_its_type_keeps_every_value(artifacts: Artifacts) -> None:
    write(artifacts)
    compact(artifacts, NAME, every)
    hour, extra = f"{FEATURE}hour", f"{FEATURE}extra"
    write(artifacts, NOON + timedelta(hours=1), **{hour: pl.lit("noon"), extra: pl.lit("x")})
    compact(artifacts, NAME, every)
    found = ledger_of(artifacts).frame()
    assert found[hour].to_list() == ["8.0"] * 50 + ["noon"] * 50
    assert found[extra].to_list() == [None] * 50 + ["x"] * 50
    assert ledger_of(artifacts).frame(end=NOON + timedelta(minutes=30))[hour].to_list() == [8.0] * 50


ORDERS = [
    ((pl.lit("AA"), pl.lit(5)), ["AA", "5"]),
    ((pl.lit(5), pl.lit("AA"), pl.lit(1.5)), ["5", "AA", "1.5"]),
    ((pl.lit(5), pl.lit(6, pl.Int64), pl.lit(1.5)), [5.0, 6.0, 1.5]),
    ((pl.lit(5), pl.lit(NOON).cast(COLUMNS["time"])), ["5", "2026-03-01 12:00:00.000000+00:00"]),
    ((pl.lit(NOON).cast(COLUMNS["time"]), pl.lit(True)), ["2026-03-01 12:00:00.000000+00:00", "true"]),
]


@pytest.mark.parametrize("values", [
    (pl.lit(5), pl.lit("AA"), pl.lit(None, pl.String)),
    (pl.lit(5), pl.lit(None, pl.String), pl.lit(1.5)),
    (pl.lit(True), pl.lit(NOON).cast(COLUMNS["time"]), pl.lit(None, pl.Int32)),
])  # fmt: skip
def test_an_answer_looks_the_same_before_and_after_it_is_moved(
    artifacts: Artifacts, values: tuple[pl.Expr, ...]
) -> None:
    """A value is of the type that it came in, unless others of what is read are of another."""
    column, ledger = f"{KEY}seat", ledger_of(artifacts)
    moments = [NOON + timedelta(hours=number) for number, _ in enumerate(values)]
    ids = [write(artifacts, at, rows=1, **{column: one})[0] for at, one in zip(moments, values, strict=True)]

    def looks() -> list[list[Any]]:
        spans = [ledger.frame(start, end) for start in moments for end in moments if start < end]
        return [[repr(value) for value in rows[column]] for rows in (*map(ledger.find, ids), *spans, ledger.frame())]

    before = looks()
    compact(artifacts, NAME, every)
    assert looks() == before


@pytest.mark.parametrize(("values", "found"), ORDERS)
@pytest.mark.parametrize("at_once", [False, True])
def test_a_file_with_a_column_of_several_types_is_read(
    artifacts: Artifacts, values: tuple[pl.Expr, ...], found: list[Any], at_once: bool
) -> None:
    """Values of several types lie in one file where rows were merged, or rewritten by an erasure."""
    column, table = f"{KEY}seat", LedgerTable(artifacts, NAME)
    for number in range(10):
        value = values[min(number, len(values) - 1)]
        write(artifacts, NOON + timedelta(minutes=number), rows=1, **{column: value})
    before = ledger_of(artifacts).frame()[column].to_list()
    assert list(dict.fromkeys(before)) == found
    compact(artifacts, NAME, every, batch_bytes=1 << 30 if at_once else 1)
    assert len(table.files()) == 1
    assert ledger_of(artifacts).frame()[column].to_list() == before
    assert ledger_of(artifacts).frame(columns=[column])[column].to_list() == before


def test_a_moment_within_a_millisecond_is_found_and_moved_once(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table's log has the times of a file in whole milliseconds."""
    moment = NOON + timedelta(microseconds=123_900)
    write(artifacts, moment, rows=1)
    with monkeypatch.context() as patched:
        patched.setattr(compaction, "delete_segment", Kill(0).around(compaction.delete_segment))
        with pytest.raises(Killed):
            compact(artifacts, NAME, every)
    assert compact(artifacts, NAME, every).rows == 0
    assert in_table(artifacts).height == 1
    assert ledger_of(artifacts).frame(moment, moment + timedelta(microseconds=1)).height == 1
    assert ledger_of(artifacts).frame(moment + timedelta(microseconds=1)).is_empty()
    found = rows_between(artifacts, NAME, moment - timedelta(microseconds=100), moment + timedelta(hours=1))
    assert [len(rows) for rows in found] == [1]
    (file,) = LedgerTable(artifacts, NAME).files()
    assert file.first <= moment <= file.last


def test_a_lookup_reads_few_bytes_of_a_large_table(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = write(artifacts, NOON.replace(hour=1), rows=60_000)
    compact(artifacts, NAME, every)
    (file,) = LedgerTable(artifacts, NAME).files()
    read: list[int] = []
    real = pq.ParquetFile.read_row_groups

    def counted(self: Any, groups: list[int], **named: Any) -> Any:
        read.append(len(groups))
        return real(self, groups, **named)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", counted)
    assert ledger_of(artifacts).find(ids[30_000]).height == 1
    assert read == [1]
    assert pq.ParquetFile(file.url).num_row_groups == 3


def test_small_files_of_a_day_that_is_over_become_one(artifacts: Artifacts) -> None:
    ids = []
    for minute in range(10):
        ids += write(artifacts, NOON + timedelta(minutes=minute))
        rows = read_segment(segments(artifacts, NAME)[-1].url).with_columns(segment=pl.lit(str(minute)))
        table = LedgerTable(artifacts, NAME)
        table.append(table.begin(), [rows], [str(minute)])
    assert len(table.files()) == 10
    table.tidy(NOON.date())
    assert len(table.files()) == 10
    table.tidy(NOON.date() + timedelta(days=1))
    assert len(table.files()) == 1
    assert sorted(in_table(artifacts)["request_id"]) == sorted(ids)
    files = Path(artifacts.url("ledger", NAME, "table")).glob("day=*/*.parquet")
    assert len(list(files)) == 1  # what was merged is gone at once
    assert read_segment(table.files()[0].url)["request_id"].is_sorted()


def test_more_answers_are_erased_than_one_condition_lists(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions_table, "_LISTED", 7)
    people = pl.Series(["ada", "it's bob", "it's bob"] * 10)
    write(artifacts, rows=30, **{f"{KEY}person": people, "version": pl.Series([None, "it's 7"] * 15, dtype=pl.String)})
    compact(artifacts, NAME, every)
    erased = LedgerTable(artifacts, NAME).erase(lambda name, kind: name == f"{KEY}person", "it's bob")
    assert erased.height == 20
    assert in_table(artifacts)[f"{KEY}person"].to_list() == ["ada"] * 10
    logs = Path(artifacts.url("ledger", NAME, "table", "_delta_log")).glob("*.json")
    assert not any("bob" in log.read_text() for log in logs)
