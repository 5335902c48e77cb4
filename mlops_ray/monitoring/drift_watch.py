"""DriftWatch: follows the ledger and the labels of one endpoint, and commits what it has seen. It knows no Ray.

A round reads, decides, commits, and then announces. What stands in a commit is announced until that is known to have
worked, and announcing knows what it was told before; so a watch that dies anywhere in a round, and begins again,
counts each prediction once and raises each alarm once.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.errors import ConflictError
from mlops_ray.governance.requests import Requests
from mlops_ray.monitoring.alarm_change import AlarmChange
from mlops_ray.monitoring.beside_champion import Rollout
from mlops_ray.monitoring.label_times import label_times
from mlops_ray.monitoring.labelling import take_labels
from mlops_ray.monitoring.ledger_feed import LATEST, SETTLED, Batch, LedgerFeed, moment
from mlops_ray.monitoring.members import FOLDER as MEMBERS
from mlops_ray.monitoring.members import IDENTITY, Members
from mlops_ray.monitoring.observation import moments_of, observe
from mlops_ray.monitoring.redefinition import redefine
from mlops_ray.monitoring.redefinition import retire as retired
from mlops_ray.monitoring.reference import without_values
from mlops_ray.monitoring.stream_clock import date_rows
from mlops_ray.monitoring.version_watch import Observed, VersionWatch, Watched
from mlops_ray.monitoring.watch_state import KEPT_COMMITS, Commits, WatchState
from mlops_ray.monitoring.window_archive import FOLDER as WINDOWS
from mlops_ray.monitoring.window_archive import WindowArchive
from mlops_ray.monitoring.window_history import WindowHistory
from mlops_ray.monitoring.window_labels import WindowLabels
from mlops_ray.predictions.ids import uuid7_at
from mlops_ray.predictions.segments import COLUMNS, FEATURE
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.stored import ANSWER_COLUMNS
from mlops_ray.tasks.task import Task

# A window by time ends so long after its end: files of several replicas come in any order. And where predictions are
# of now, it ends by the clock, though nothing comes any more.
SETTLE = timedelta(minutes=5)
_LIVE = timedelta(minutes=15)
_LOOK_AT_CLOCK = timedelta(minutes=1)
_PREDICTIONS_S, _LABELS_S = 10.0, 2.0
_KEPT_VERSIONS = 4
_BLOCKS_AT_HAND = 4

_logger = logging.getLogger(__name__)

FindReference = Callable[[str], Watched | str]
_File = tuple[str, str]
Announce = Callable[[AlarmChange], None]


@dataclass(frozen=True)
class Round:
    """What a round did. rows: predictions counted. windows: finished. measured: windows whose labels were looked at.

    behind: there was more to read than one round's share, and others are to have their turn.
    """

    segments: int = 0
    rows: int = 0
    windows: int = 0
    measured: int = 0
    announced: int = 0
    behind: bool = False


class DriftWatch:
    """The watch of one use case. `state` is what was committed last."""

    def __init__(self, artifacts: Artifacts, use_case: str, find: FindReference, announce: Announce):
        """find: what a version is judged by, or in words why it cannot be; raises UnavailableError to be asked again.

        announce: records an alarm's change, and knows what it has recorded; raises to be asked again.
        """
        self._find, self._announce = find, announce
        self._artifacts, self._use_case = artifacts, use_case
        self._commits = Commits(artifacts, use_case)
        self._feed = LedgerFeed(artifacts, use_case)
        self._members = Members(artifacts, use_case)
        # Files that the last commits name, and those that they may have ceased to name.
        self._named: deque[frozenset[_File]] = deque(maxlen=KEPT_COMMITS)
        self._outdated: frozenset[_File] = frozenset()
        self._archive = WindowArchive(artifacts, use_case)
        self._history = WindowHistory(artifacts, use_case)
        self._known: dict[str, Watched | str] = {}
        self._live: tuple[str, ...] = ()
        self._let_passed = datetime.min.replace(tzinfo=UTC)
        self.revision = 0
        self.state = WatchState()
        self._begin()

    def define(self, revision: int) -> None:
        """From the next round on, `find` has what versions are judged by under another revision."""
        self.revision = revision
        self._known.clear()

    def round(
        self, now: datetime, live: Sequence[str] | None = None, requests: Mapping[str, Requests] | None = None
    ) -> Round:
        """Take what is new in the ledger and among the labels. now: by the clock that all share. live: versions that
        take traffic, the champion first; None: not known. requests: what each replica reports; None: nobody asked.

        Raises UnavailableError, or what storage raises, if something is away: nothing is lost, call it again.
        """
        self._live = tuple(live or ())
        try:
            announced = self._announce_waiting()
            self._redefine(now)
            before = self._finished()
            segments, rows, behind = self._take_predictions(now)
            if not behind and (segments or now - self._let_passed >= _LOOK_AT_CLOCK):
                self._let_time_pass(now)
                self._let_passed = now
            if live is not None:
                self._retire(live, now)
            measured = self._take_labels(now)
            if (heard := self.state.requests.after(requests or {}, now)) is not self.state.requests:
                self._commit(replace(self.state, requests=heard))
            announced += self._announce_waiting()
        except ConflictError as error:
            _logger.warning("%s Going on from there.", error)
            self._begin()
            return Round()
        return Round(segments, rows, self._finished() - before, measured, announced, behind)

    def importance(self, version: str) -> Mapping[str, float]:
        """Of the features of a version that is watched and of their segments; empty where it is not known."""
        found = self._known.get(version)
        return found.reference.shares(found.importance) if isinstance(found, Watched) else {}

    def segments(self, version: str) -> Collection[str]:
        """The columns of a version that are segments of its inputs."""
        found = self._known.get(version)
        return found.reference.segments.keys() if isinstance(found, Watched) else ()

    def task(self, version: str) -> Task:
        """The kind of label of a version that is watched."""
        found = self._known.get(version)
        return found.reference.task if isinstance(found, Watched) else BINARY

    def _begin(self) -> None:
        self.state = self._commits.read()
        self._labels = WindowLabels(self._artifacts, self._use_case, self.state.label_parts)
        # What the labels say of these may have been lost with the process before; of the others it is committed.
        self._labels.renew(
            (version, spec, record.number)
            for version, watch in self.state.watches.items()
            for spec, stream in watch.streams.items()
            for record in stream.records
            if not record.quality
        )

    def _take_predictions(self, now: datetime) -> tuple[int, int, bool]:
        """How many segments and rows were read, and whether more are waiting: a round reads for a few seconds."""
        begun, segments, rows = time.monotonic(), 0, 0
        for batch in self._feed.batches(self.state.newest, self.state.segments):
            if segments and time.monotonic() - begun > _PREDICTIONS_S:
                return segments, rows, True
            read = self._feed.read(batch, self.state.segments, self._features_of)
            self._commit(self._with_batch(self.state, read, now))
            segments, rows = segments + len(batch), rows + len(read.rows)
        return segments, rows, False

    def _with_batch(self, state: WatchState, batch: Batch, now: datetime) -> WatchState:
        state = _without_old(state, now - label_times(self._artifacts, self._use_case).count_for)
        rows = batch.rows.with_columns(moment().alias("moment"))
        dated = date_rows(state.clock, moments_of(rows["time"]), moments_of(rows["moment"]), now)
        state = replace(
            _with_segments(state, batch, now, self._feed.listed), clock=dated.clock, aside=state.aside.plus(dated.aside)
        )
        found = {**state.unwatched, **{version: self._judge(version) for version in rows["version"].unique()}}
        state = replace(state, unwatched={version: why for version, why in found.items() if isinstance(why, str)})
        return self._observed(state, rows.filter(pl.Series(dated.kept)))

    def _observed(self, state: WatchState, rows: pl.DataFrame) -> WatchState:
        """Count `rows` of each version, and let the windows of the others end by the time that has passed."""
        if state.clock.read_up_to is None:
            return state
        ended = state.clock.read_up_to - SETTLE
        here = rows["version"].unique() if len(rows) else ()
        # The champion first: another version is judged beside it.
        for version in sorted({*here, *state.watches}, key=lambda one: (one not in self._live[:1], one)):
            watched = self._judge(version)
            if isinstance(watched, str):
                continue
            own = rows.filter(pl.col("version") == version) if len(rows) else rows.clear()
            moments, answered = (moments_of(own[name]) for name in ("moment", "time"))
            before = state.watches.get(version, VersionWatch(version, revision=watched.revision))
            rollout = self._rollout(state, version)
            named = without_values(watched.reference.with_answers(_named(own)), watched.reference.rates_only)
            seen = observe(before, watched, named, moments, answered, ended, _new_id, rollout)
            self._history.keep(watched, seen.judged, {name: one.lived for name, one in before.streams.items()})
            members = self._members.add(seen.watch.members, own.select(IDENTITY), seen.panes)
            watch = self._archive.put_away(replace(seen.watch, members=members))
            state = _with(state, replace(seen, watch=watch))
        return state

    def _rollout(self, state: WatchState, version: str) -> Rollout | None:
        """Whether a version is rolled out, and beside what."""
        if len(self._live) < 2 or version not in self._live:
            return None
        champion = self._live[0]
        return Rollout(None if version == champion else state.watches.get(champion, VersionWatch(champion)))

    def _redefine(self, now: datetime) -> None:
        """Let versions that are judged by another revision than before begin anew."""
        state = self.state
        for version, watch in self.state.watches.items():
            watched = self._watched(version)
            if watched is not None and watched.revision != watch.revision:
                state = _with(state, redefine(watch, watched, now))
        if state is not self.state:
            self._commit(state)

    def _let_time_pass(self, now: datetime) -> None:
        """Where predictions are of now, and none come any more, windows by time end all the same."""
        state = self.state
        if state.clock.read_up_to is None or now <= state.clock.read_up_to or state.clock.usual_lag > _LIVE:
            return
        nothing = pl.DataFrame(schema={**COLUMNS, "moment": COLUMNS["time"]})
        passed = self._observed(replace(state, clock=replace(state.clock, read_up_to=now)), nothing)
        if _finished(passed) > _finished(state):
            self._commit(passed)

    def _take_labels(self, now: datetime) -> int:
        labels = self._labels
        labels.look(self.state.watches.values(), now)
        state = self._with_late_labels(self.state)
        state = replace(state, watches={version: self._at_hand(watch) for version, watch in state.watches.items()})
        measured = labels.measure(dict(state.watches), self._watched, now, _LABELS_S)
        for version in {name[0] for name in measured}:
            watched = self._watched(version)
            assert watched is not None
            own = {(spec, number): one for (other, spec, number), one in measured.items() if other == version}
            rollout = self._rollout(state, version)
            seen = take_labels(state.watches[version], watched, own, _new_id, rollout)
            state = _with(state, replace(seen, watch=self._archive.put_away(seen.watch)))
        if measured or state.late_labels > self.state.late_labels:
            all_seen = labels.due.keys() <= measured.keys()
            self._commit(replace(state, label_parts=dict(labels.parts)) if all_seen else state)
        labels.settle(measured)
        return len(measured)

    def _at_hand(self, watch: VersionWatch) -> VersionWatch:
        """With the windows that are due, of a few files at a time."""
        for spec, stream in watch.streams.items():
            due = [number for version, kind, number in self._labels.due if (version, kind) == (watch.version, spec)]
            if stream.archive and due:
                taken = self._archive.taken_out(stream, due, _BLOCKS_AT_HAND)
                watch = replace(watch, streams={**watch.streams, spec: taken})
        return watch

    def _with_late_labels(self, state: WatchState) -> WatchState:
        new = [at for at in self._labels.late if state.late_labels_to is None or at > state.late_labels_to]
        self._labels.late.clear()
        if not new:
            return state
        return replace(state, late_labels=state.late_labels + len(new), late_labels_to=max(new))

    def _retire(self, live: Collection[str], now: datetime) -> None:
        state = self.state
        gone = [version for version in state.watches if version not in live]
        for version in gone:
            if state.watches[version].raised:
                state = _with(state, retired(state.watches[version], now))
        oldest = sorted(gone, key=lambda version: (len(version), version))[: max(0, len(gone) - _KEPT_VERSIONS)]
        if oldest:
            kept = {version: watch for version, watch in state.watches.items() if version not in oldest}
            state = replace(state, watches=kept)
        if state is not self.state:
            self._commit(state)
        for version in oldest:
            self._history.forget(version)

    def _commit(self, state: WatchState) -> None:
        self._commits.write(state)
        before, self.state = self.state, state
        self._tidy()
        self._labels.renew(
            (version, spec, number)
            for version, watch in state.watches.items()
            for spec, stream in watch.streams.items()
            for number in range(_count(before, version, spec), stream.finished)
        )

    def _announce_waiting(self) -> int:
        """Record what is decided, in its order. That it is recorded stands in the next commit."""
        announced = 0
        while self.state.waiting:
            self._announce(self.state.waiting[0])
            self.state = replace(self.state, waiting=self.state.waiting[1:])
            announced += 1
        return announced

    def _tidy(self) -> None:
        """Remove files that none of the kept commits names any more: a damaged one is passed over."""
        self._named.append(_files_of(self.state))
        gone = self._outdated - frozenset().union(*self._named)
        for folder, name in gone:
            (self._members if folder == MEMBERS else self._archive).remove(name)
        self._outdated = (self._outdated | self._named[0]) - gone - self._named[-1]

    def _judge(self, version: str) -> Watched | str:
        if version not in self._known:
            self._known[version] = self._find(version)
        return self._known[version]

    def _watched(self, version: str) -> Watched | None:
        found = self._judge(version)
        return None if isinstance(found, str) else found

    def _features_of(self, version: str) -> Collection[str]:
        found = self._judge(version)
        return () if isinstance(found, str) else list(found.reference.inputs)

    def _finished(self) -> int:
        return _finished(self.state)


def _named(rows: pl.DataFrame) -> pl.DataFrame:
    """Predictions with their answers, and with their features by name, as references have them."""
    features = {name.removeprefix(FEATURE): name for name in rows.columns if name.startswith(FEATURE)}
    kept = [name for name in ("request_id", "row", *ANSWER_COLUMNS) if name in rows.columns and name not in features]
    return rows.select(*kept, **features)


def _with_segments(state: WatchState, batch: Batch, now: datetime, listed: Collection[str]) -> WatchState:
    """The position: a clock that runs ahead does not move it beyond now.

    What is done and not `listed` any more was moved to the table, where its rows are known, and need not be named.
    """
    times = [min(segment.time, now) for segment in batch.segments]
    newest = max([*times, *([state.newest] if state.newest else [])])
    known = {**dict.fromkeys(state.segments), **dict.fromkeys(segment.id for segment in batch.segments)}
    oldest, settled = _first_id(newest - LATEST), _first_id(newest - SETTLED)
    counted: Mapping[str, int] = dict(batch.rows.group_by("version").len().iter_rows())
    rows = {version: state.rows.get(version, 0) + counted.get(version, 0) for version in {*state.rows, *counted}}
    named = sorted(id for id in known if id >= settled or (id >= oldest and id in listed))
    return replace(
        state, newest=newest, segments=tuple(named), rows=dict(sorted(rows.items())),
        repeated=state.repeated + batch.repeated,
    )  # fmt: skip


def _first_id(moment: datetime) -> str:
    """Not greater than the id of any segment of the moment or later."""
    return uuid7_at(int((moment - timedelta(milliseconds=1)).timestamp() * 1000), bytes(10))


def _without_old(state: WatchState, horizon: datetime) -> WatchState:
    """Without windows, and members, whose predictions are so old that no label counts any more."""
    watches = {}
    for version, watch in state.watches.items():
        streams = {
            name: replace(stream, archive=tuple(block for block in stream.archive if block.answered_to >= horizon))
            for name, stream in watch.streams.items()
        }
        members = tuple(file for file in watch.members if file.last >= horizon)
        watches[version] = replace(watch, streams=streams, members=members)
    return replace(state, watches=watches)


def _with(state: WatchState, seen: Observed) -> WatchState:
    watches = {**state.watches, seen.watch.version: seen.watch}
    return replace(state, watches=watches, waiting=(*state.waiting, *seen.changes))


def _count(state: WatchState, version: str, spec: str) -> int:
    watch = state.watches.get(version)
    return watch.streams[spec].finished if watch and spec in watch.streams else 0


def _finished(state: WatchState) -> int:
    return sum(stream.finished for watch in state.watches.values() for stream in watch.streams.values())


def _new_id() -> str:
    return uuid7_at(int(datetime.now(UTC).timestamp() * 1000))


def _files_of(state: WatchState) -> frozenset[_File]:
    """All that it names, by folder."""
    watches = state.watches.values()
    members = ((MEMBERS, file.name) for watch in watches for file in watch.members)
    blocks = ((WINDOWS, one.name) for watch in watches for stream in watch.streams.values() for one in stream.archive)
    return frozenset((*members, *blocks))
