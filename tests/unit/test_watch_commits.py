"""Commits of the watch: of two writers one wins, whoever is killed counts nothing twice, and older formats are read."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from mlops_ray.artifacts import Artifacts, Entry
from mlops_ray.errors import ConflictError, DataError
from mlops_ray.monitoring.drift_watch import DriftWatch
from mlops_ray.monitoring.watch_state import KEPT_COMMITS, Commits, WatchState, read_state
from mlops_ray.testing.example_stream import BY_COUNT, BY_TIME, START, write_example_segments
from tests.unit.test_drift_watch import CALM, END, NAME, WATCHED, Killed, Mortal, said, tell

WRITES = 40


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(str(tmp_path / "artifacts"))


def test_of_writers_at_once_each_commit_follows_the_one_that_was_read(artifacts: Artifacts) -> None:
    def write(_: int) -> None:
        commits, written = Commits(artifacts, NAME), 0
        while written < WRITES // 4:
            with suppress(ConflictError):
                state = commits.read()
                commits.write(replace(state, repeated=state.repeated + 1))
                written += 1

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    last = int(artifacts.entries("monitoring", NAME, "state")[-1].name)
    assert read_state(artifacts, NAME).repeated == last >= WRITES
    assert len(artifacts.entries("monitoring", NAME, "state")) <= KEPT_COMMITS + 3


def test_a_writer_that_was_paused_until_its_number_was_deleted_again_changes_nothing(artifacts: Artifacts) -> None:
    paused, other = Commits(artifacts, NAME), Commits(artifacts, NAME)
    paused.read()
    for number in range(1, KEPT_COMMITS + 3):
        other.write(WatchState(repeated=number))
    assert "000000000001" not in {entry.name for entry in artifacts.entries("monitoring", NAME, "state")}
    with pytest.raises(ConflictError, match="000000000005"):
        paused.write(WatchState(repeated=100))
    assert read_state(artifacts, NAME).repeated == KEPT_COMMITS + 2
    assert paused.read().repeated == KEPT_COMMITS + 2
    paused.write(WatchState(repeated=101))
    with pytest.raises(ConflictError):
        other.write(WatchState(repeated=102))


class Replaced(Artifacts):
    """A listing during which every file that is kept was replaced by a newer one: it finds none."""

    missed = 0

    def entries(self, *parts: str) -> list[Entry]:
        self.missed -= 1
        return [] if self.missed >= 0 else super().entries(*parts)


def test_a_listing_that_misses_all_is_no_beginning(artifacts: Artifacts) -> None:
    Commits(artifacts, NAME).write(WatchState(repeated=1))
    replaced = Replaced(artifacts.root)
    replaced.missed = 1
    commits = Commits(replaced, NAME)
    assert commits.read().repeated == 1
    replaced.missed = 2
    with pytest.raises(ConflictError, match="commit 3 or a later one"):
        commits.write(WatchState(repeated=2))
    assert Commits(artifacts, NAME).read().repeated == 1


def test_the_format_before_is_read_and_its_alarms_are_resolved() -> None:
    plain = {
        "newest": START, "segments": ["a"], "rows": {"7": 12}, "repeated": 3, "recent": [5, 6], "read_up_to": START,
        "unwatched": {}, "waiting": [],
    }  # fmt: skip
    watch = {"version": "7", "rows": 12, "streams": {"of a form": "of before"}, "raised": {"data": "a1"}, "errors": {}}
    encode = msgspec.msgpack.encode
    state = WatchState.from_bytes(encode([2, encode(plain), {"7": encode(watch)}]))
    assert (state.newest, state.segments, dict(state.rows), state.repeated) == (START, ("a",), {"7": 12}, 3)
    assert (state.clock.recent, state.clock.read_up_to, state.watches["7"].rows) == ((5, 6), START, 12)
    (change,) = state.waiting
    assert (change.kind, change.id, change.version, change.question) == ("resolved", "a1", "7", "data")
    assert WatchState.from_bytes(state.to_bytes()) == state


def test_an_unknown_format_is_refused_with_what_to_do() -> None:
    with pytest.raises(DataError, match=r"format 9; this code reads 2 and 3. Run the code that wrote it, or delete"):
        WatchState.from_bytes(msgspec.msgpack.encode([9, b"", {}]))


def steps(artifacts: Artifacts, ids: list[str], rows: pl.DataFrame = CALM) -> Any:
    """What happens one after the other: predictions of two files at a time, labels late, double and reordered."""
    labels = said(rows, ids)
    wrong = labels[100:300].with_columns(~pl.col("label"), known_at=pl.col("known_at") - pl.duration(hours=1))
    yield lambda: write_example_segments(artifacts, NAME, rows.head(500), size=100)
    yield lambda: tell(artifacts, pl.concat([wrong, labels[200:500].reverse()]), 1)
    yield lambda: write_example_segments(artifacts, NAME, rows[500:1000], size=100)
    yield lambda: tell(artifacts, pl.concat([labels[:400], labels[300:900]]), 2)
    yield lambda: write_example_segments(artifacts, NAME, rows[300:1600], size=100)
    yield lambda: tell(artifacts, labels[850:], 3)


def seen(state: WatchState) -> list[str]:
    """All counts and verdicts, as text, in which NaN equals NaN and floats are equal in all bits."""
    watch = state.watches["7"]
    streams = [watch.streams[spec.name] for spec in (BY_COUNT, BY_TIME)]
    counted = [state.rows, state.repeated, state.aside, watch.rows, [stream.finished for stream in streams]]
    return [repr(counted), *(repr(record) for stream in streams for record in stream.records)]


def run(root: Path, ids: list[str], dies_at: int, after: bool) -> tuple[list[str], set[str], bool]:
    """Two watches take turns; one dies once, at its write number `dies_at`. What was seen, and raised, and who died."""
    artifacts, announced, died = Artifacts(str(root)), dict[str, str](), False

    def announce(change: Any) -> None:
        announced.setdefault(change.id, f"{change.kind} {change.question}")

    def living() -> DriftWatch:
        return DriftWatch(artifacts, NAME, lambda version: WATCHED, announce)

    mortal = DriftWatch(Mortal(str(root), dies_at, after), NAME, lambda version: WATCHED, announce)
    watches = [mortal, living()]
    for number, step in enumerate(steps(artifacts, ids)):
        step()
        for turn in (number % 2, 1 - number % 2, number % 2):
            try:
                watches[turn].round(END)
            except Killed:
                died, watches[turn] = True, living()
    for _ in range(3):
        watches[1].round(END)
    return seen(read_state(artifacts, NAME)), set(announced.values()), died


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_write_with_labels_in_any_order_and_two_writers_all_bits_are_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    monkeypatch.setattr("mlops_ray.monitoring.drift_watch._LABELS_S", 60.0)
    ids = write_example_segments(Artifacts(str(tmp_path / "ids")), NAME, CALM)
    clean, raised, _ = run(tmp_path / "clean", ids, 0, after)
    assert len(clean) > 5
    deaths = 0
    for dies_at in range(1, 60, 3 if after else 2):
        found, told, died = run(tmp_path / str(dies_at), ids, dies_at, after)
        assert found == clean
        assert told == raised
        deaths += died
        if not died:
            break
    assert deaths >= 5
