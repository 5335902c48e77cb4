"""One policy on the past, in simulated time: day by day predict, watch, decide, train, with the code of production.

What differs: a challenger that is better is champion at once, as if approved that moment, and retrainings fit the
recorded candidate with its parameters, without a search.
"""

import time
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.errors import DataError
from mlops_ray.evaluation.comparison import compare, unseen
from mlops_ray.features.columns import LABEL, LABEL_KNOWN_AT, PREDICTION_TIME
from mlops_ray.monitoring.alarm_change import AlarmChange
from mlops_ray.monitoring.answers import EXPECTED, answer_columns
from mlops_ray.monitoring.blind_spots import blind_spots
from mlops_ray.monitoring.error_tree import foretell
from mlops_ray.monitoring.labelling import Labelled, awaiting_labels, take_labels
from mlops_ray.monitoring.observation import moments_of, observe
from mlops_ray.monitoring.quality import quality_of
from mlops_ray.monitoring.redefinition import retire
from mlops_ray.monitoring.sealed_reference import wanted_reference
from mlops_ray.monitoring.slices import ALL_ROWS
from mlops_ray.monitoring.version_watch import VersionWatch, Watched
from mlops_ray.monitoring.window_record import WindowRecord
from mlops_ray.retraining.challenger import judge_challenger
from mlops_ray.retraining.policy import Decision, OpenAlarm, PastRetraining, State, decide
from mlops_ray.tasks.days import days_of
from mlops_ray.training.fit import Fitted, fit_chosen
from mlops_ray.training.trial import Trial
from mlops_ray.use_case import Feature, Question, Retraining, Split, UseCase

DAY = timedelta(days=1)
# While there is little data, the test part is at most this part of it.
_TEST_SHARE = 3


@dataclass(frozen=True)
class Scenario:
    """What is replayed. trial: what every training fits. start, end: of the predictions."""

    use_case: UseCase
    features: tuple[Feature, ...]
    trial: Trial
    start: datetime
    end: datetime


@dataclass(frozen=True)
class Retrained:
    """A simulated retraining. gain: of the challenger on the recent window, challenger minus champion."""

    at: datetime
    cause: str
    reason: str
    outcome: str
    gain: float
    cpu_s: float


@dataclass(frozen=True)
class Raised:
    """An alarm. resolved: when it was over, or its version; None where it was open at the end."""

    question: Question
    raised: datetime
    resolved: datetime | None
    title: str


@dataclass(frozen=True)
class BlindSpot:
    """A question about which no alarm can be raised with a version that took traffic at `since`, and why."""

    since: datetime
    version: str
    question: Question
    why: str


@dataclass(frozen=True)
class Simulated:
    """What a policy did. answers: float32, to each row predicted in start..end, by time, [rows] or [rows, width] as the
    task has them. decisions: those whose cause differs from the one before. cpu_s: of all trainings after the first.
    blind: of each champion."""

    policy: str
    answers: NDArray[np.float32]
    retrainings: tuple[Retrained, ...]
    alarms: tuple[Raised, ...]
    decisions: tuple[tuple[datetime, Decision], ...]
    cpu_s: float
    blind: tuple[BlindSpot, ...] = ()


def simulate(frame: pl.DataFrame, scenario: Scenario, name: str, policy: Retraining) -> Simulated:
    """Replay one policy. frame: a training set; nothing of a row is used before the moment at which it became known."""
    return _Simulation(frame, scenario, policy).run(name)


@dataclass
class _Champion:
    """A model with what watches it. first_row: the first that it answered. trained_until: see `Split`."""

    fitted: Fitted
    watched: Watched
    watch: VersionWatch
    first_row: int
    trained_until: datetime


class _Simulation:
    def __init__(self, frame: pl.DataFrame, scenario: Scenario, policy: Retraining):
        self._all = frame.sort(PREDICTION_TIME, maintain_order=True)
        self._scenario, self._policy = scenario, policy
        moment = pl.col(PREDICTION_TIME)
        self._rows = self._all.filter((moment >= scenario.start) & (moment < scenario.end))
        if self._rows.is_empty():
            raise DataError(f"There is nothing to predict from {scenario.start} to {scenario.end}.")
        self._moment, self._known_at = moments_of(self._rows[PREDICTION_TIME]), moments_of(self._rows[LABEL_KNOWN_AT])
        case = scenario.use_case
        self._slices = case.slices if case.monitoring.slices is None else case.monitoring.slices
        if lacking := [name for name in self._slices if name not in frame.columns]:
            raise DataError(
                f"Monitoring of {case.name} has slices by {', '.join(lacking)}, which the training set does not have. "
                f"Leave them out, or train a version with them first."
            )
        task = case.label.task
        shape = (len(self._rows),) if task.width == 1 else (len(self._rows), task.width)
        self._answers = np.full(shape, np.nan, dtype=np.float32)
        self._raised: dict[str, Raised] = {}
        self._past: list[PastRetraining] = []
        self._retrained: list[Retrained] = []
        self._decisions: list[tuple[datetime, Decision]] = []
        self._blind: list[BlindSpot] = []
        self._losses, self._versions = 0, 0
        self._trained = scenario.start

    def run(self, name: str) -> Simulated:
        now, end = self._scenario.start, self._scenario.end
        split = self._split(now)
        self._champion = self._watched(self._fit(now, split), now, split)
        while now < end:
            first, last = (int(at) for at in np.searchsorted(self._moment, [_micros(now), _micros(now + DAY)]))
            now = min(now + DAY, end)
            if last > first:
                self._answers[first:last] = _ask(self._champion.fitted, self._rows[first:last])
            self._observe(first, last, now)
            self._govern(now)
        cpu_s = sum(one.cpu_s for one in self._retrained)
        found = tuple(self._retrained), tuple(self._raised.values()), tuple(self._decisions)
        return Simulated(name, self._answers, *found, cpu_s, tuple(self._blind))

    def _observe(self, first: int, last: int, now: datetime) -> None:
        """The day's predictions, then the labels that have come by its end."""
        champion = self._champion
        rows = champion.watched.reference.with_answers(self._answered(first, last))
        moment = self._moment[first:last]
        seen = observe(champion.watch, champion.watched, rows, moment, moment, now, self._new_id)
        self._note(seen.changes, now)
        awaiting = awaiting_labels(seen.watch, champion.watched)
        labelled = {(record.spec, record.number): self._labelled(record.spec, record, now) for record in awaiting}
        seen = take_labels(seen.watch, champion.watched, labelled, self._new_id)
        self._note(seen.changes, now)
        champion.watch = seen.watch

    def _labelled(self, name: str, record: WindowRecord, now: datetime) -> Labelled:
        """What the labels known by now say of a window."""
        first, last = self._rows_of(name, record)
        wanted, known_at = self._scenario.use_case.monitoring, self._known_at[first:last]
        in_time = known_at <= self._moment[first:last] + np.timedelta64(wanted.labels_count_for)
        known = pl.Series(in_time & (known_at <= _micros(now)))
        reference, slices = self._champion.watched.reference, self._champion.watched.slices
        fit, whole = reference.label_fit, reference.reliability[ALL_ROWS]
        answered = reference.with_answers(self._answered(first, last))
        rows = answered.select(
            pl.lit("").alias("request_id"),
            pl.int_range(pl.len()).alias("row"),
            pl.col(PREDICTION_TIME).alias("time"),
            *reference.task.ledger_types,
            *(() if fit.errors is None else (EXPECTED,)),
            pl.when(known).then(pl.col(LABEL)).alias("label"),
            *self._slices,
        )
        qualities = quality_of(rows, record.start, record.end, whole.edges, slices, fit)
        grown_up = record.end + (wanted.labels_complete_after or wanted.labels_count_for) <= now
        return Labelled(qualities, errors=fit.stream(rows.drop_nulls("label"), whole), grown_up=grown_up)

    def _answered(self, first: int, last: int) -> pl.DataFrame:
        """Rows with what was answered to them, as the ledger has it."""
        task = self._scenario.use_case.label.task
        return self._rows[first:last].with_columns(answer_columns(self._answers[first:last], task))

    def _rows_of(self, name: str, record: WindowRecord) -> tuple[int, int]:
        spec = self._champion.watched.reference.windows[name].spec
        if spec.rows is not None:
            first = self._champion.first_row + record.number * (spec.rows // spec.panes)
            return first, first + spec.rows
        ends = np.searchsorted(self._moment, [_micros(record.start), _micros(record.end)])
        return max(int(ends[0]), self._champion.first_row), int(ends[1])

    def _note(self, changes: tuple[AlarmChange, ...], now: datetime) -> None:
        for change in changes:
            if change.kind == "raised":
                self._raised[change.id] = Raised(change.question, now, None, change.title)
            elif change.kind == "resolved":
                self._raised[change.id] = replace(self._raised[change.id], resolved=now)

    def _new_id(self) -> str:
        return str(len(self._raised))

    def _govern(self, now: datetime) -> None:
        standing = self._champion.watch.raised
        severities = self._champion.watch.severities
        alarms = tuple(
            OpenAlarm(id, question, self._raised[id].title)
            for question, id in standing.items()
            if severities.get(question) != "info"
        )
        new = int(((self._known_at > _micros(self._trained)) & (self._known_at <= _micros(now))).sum())
        blind = {one.question: one.why for one in self._blind if one.version == self._champion.watched.version}
        state = State(alarms, tuple(self._past), self._losses, None, self._trained, new, blind)
        decision = decide(self._policy, state, now)
        last = self._decisions[-1][1] if self._decisions else None
        if last is None or (last.action, last.cause) != (decision.action, decision.cause):
            self._decisions.append((now, decision))
        if decision.action == "retrain":
            self._retrain(decision, now)

    def _retrain(self, decision: Decision, now: datetime) -> None:
        started, case, split = time.process_time(), self._scenario.use_case, self._split(now)
        challenger = self._fit(now, split)
        recent = unseen(_known(self._all, now), self._champion.trained_until, split.test_start(now))
        ours, theirs = (_ask(fitted, recent).astype(np.float64) for fitted in (challenger, self._champion.fitted))
        task = case.label.task
        rows = task.encoded(recent[LABEL]), ours, theirs, days_of(recent[PREDICTION_TIME], case.zone())
        compared = compare((task, task), *rows, case.metric)
        outcome, reason = judge_challenger(compared, self._policy.margin)
        if outcome == "better":
            self._note(retire(self._champion.watch, now).changes, now)
            self._champion = self._watched(challenger, now, split)
        self._losses = 0 if outcome == "better" else self._losses + 1
        self._trained = now
        cpu_s, gain = time.process_time() - started, compared.difference.value
        id = f"retraining {len(self._past) + 1}"
        self._past.append(PastRetraining(id, now, now, outcome, cpu_s / 3600))
        self._retrained.append(Retrained(now, decision.cause, f"{decision.reason} {reason}", outcome, gain, cpu_s))

    def _fit(self, now: datetime, split: Split) -> Fitted:
        case = replace(self._scenario.use_case, split=split)
        return fit_chosen(case, self._all, now, self._scenario.features, self._scenario.trial)

    def _watched(self, fitted: Fitted, now: datetime, split: Split) -> _Champion:
        """With a reference as sealing makes it: inputs from the rows of the fit, answers from the later ones."""
        held_out, known = now - split.test, _known(self._all, now)
        scored = known.filter(pl.col(PREDICTION_TIME) >= held_out)
        task = self._scenario.use_case.label.task
        answered = scored.with_columns(*answer_columns(_ask(fitted, scored).astype(np.float64), task), label=LABEL)
        foretold = foretell(answered, task, fitted.encoder.features)
        reference = wanted_reference(
            self._scenario.use_case.monitoring,
            self._slices,
            known.filter((pl.col(PREDICTION_TIME) < held_out) & (pl.col(LABEL_KNOWN_AT) <= held_out)),
            PREDICTION_TIME,
            fitted.encoder.features,
            foretold.scored,
            task,
            foretold.tree,
        )
        self._versions += 1
        version, first_row = str(self._versions), int(np.searchsorted(self._moment, _micros(now)))
        self._blind += [BlindSpot(now, version, question, why) for question, why in blind_spots(reference).items()]
        return _Champion(
            fitted, Watched(version, reference), VersionWatch(version), first_row, split.trained_until(now)
        )

    def _split(self, now: datetime) -> Split:
        """The policy's, with a shorter test part while there is little data before `now`."""
        split, begin = self._policy.split, self._all[PREDICTION_TIME][0]
        return replace(split, test=min(split.test, (now - begin) / _TEST_SHARE))


def _ask(fitted: Fitted, rows: pl.DataFrame) -> NDArray[np.float32]:
    return fitted.model.predict(fitted.encoder.encode(rows)).astype(np.float32)


def _known(rows: pl.DataFrame, now: datetime) -> pl.DataFrame:
    return rows.filter((pl.col(PREDICTION_TIME) < now) & (pl.col(LABEL_KNOWN_AT) <= now))


def _micros(moment: datetime) -> np.datetime64:
    return np.datetime64(moment.replace(tzinfo=None), "us")
