"""What labels say of windows: quality measured, concept drift judged, errors followed.

    seen = take_labels(watch, watched, ...)     # the watch afterwards, and alarms to announce

Nothing here reads a clock, a file or a database.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_ray.monitoring.alarm_change import AlarmChange
from mlops_ray.monitoring.beside_champion import Rollout, concept_beside
from mlops_ray.monitoring.error_stream import take_errors
from mlops_ray.monitoring.judging import judge_concept, with_error_changes
from mlops_ray.monitoring.missing_labels import at_best
from mlops_ray.monitoring.quality import Quality
from mlops_ray.monitoring.recalibration import UNTAUGHT, Lived
from mlops_ray.monitoring.slices import ALL_ROWS
from mlops_ray.monitoring.verdicts import Question, Verdict, not_judged
from mlops_ray.monitoring.version_alarms import NewId, take_verdict
from mlops_ray.monitoring.version_watch import Observed, VersionWatch, Watched
from mlops_ray.monitoring.window_record import SliceQuality, WindowRecord, shortened

# A window says "no drift" once so many of its labels have come, or once it is so old that no more will.
LABELLED_SHARE = 0.8
# Its errors are followed beyond it with so many: those of the first labels are not like the rest.
FOLLOWED_SHARE = 0.99


@dataclass(frozen=True)
class Labelled:
    """What the labels of one window say. qualities: of all rows and of each slice. examples: rows that went wrong.

    errors: of the rows with labels, in the order of their predictions (see `LabelFit.stream`). grown_up: the
    window is so old that labels that are missing are missing at random (see `LabelTimes.complete_after`). unreadable:
    labels of a value that is none for this version, such as a class that only another has: they count as missing.
    """

    qualities: tuple[Quality, ...]
    examples: tuple[Mapping[str, Any], ...] = ()
    errors: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    grown_up: bool = False
    unreadable: int = 0


_NOTHING_TOLD = Labelled(())


def take_labels(
    watch: VersionWatch,
    watched: Watched,
    labelled: Mapping[tuple[str, int], Labelled],
    new_id: NewId,
    rollout: Rollout | None = None,
) -> Observed:
    """Take what labels say of windows, by kind and number, and let concept drift be judged where enough have come.

    While labels are missing, a window is judged by what no missing one could contradict (see `missing_labels`): which
    come first alarms nobody. It has its say when 80 % have come or it has grown up, and if labels that come later
    make drift of it, again.
    """
    changes: list[AlarmChange] = []
    for name, stream in watch.streams.items():
        if name not in watched.reference.windows:
            continue
        found = {number: one for (spec, number), one in labelled.items() if spec == name}
        records = tuple(
            _with_labels(record, found[record.number], watched, stream.lived) if record.number in found else record
            for record in stream.records
        )
        watch = replace(watch, streams={**watch.streams, name: replace(stream, records=records)})
        before = {record.number: record for record in stream.records}
        for record in records:
            if _has_say(record, before[record.number]):
                assert record.concept is not None
                told = found.get(record.number, _NOTHING_TOLD)
                watch = _marked(watch, name, record.number, settled=True)
                verdict = concept_beside(record.concept, rollout)
                watch, changed = take_verdict(watch, name, verdict, told.examples, new_id)
                changes += changed
        if name == next(iter(watched.reference.windows)):
            watch, changed = _follow_errors(watch, watched, name, found, new_id, rollout)
            changes += changed
    return Observed(watch, tuple(changes))


def awaiting_labels(watch: VersionWatch, watched: Watched) -> list[WindowRecord]:
    """The windows whose labels have not said all that is expected of them."""
    followed = next(iter(watched.reference.windows)) if watched.reference.errors.limits else ""
    return [
        record
        for name, stream in watch.streams.items()
        for record in stream.records
        if name in watched.reference.windows
        if not record.settled or (name == followed and not record.followed)
    ]


def _with_labels(
    record: WindowRecord, labelled: Labelled, watched: Watched, lived: Mapping[Question, Lived]
) -> WindowRecord:
    qualities = labelled.qualities
    concept = _concept(record, qualities, watched, labelled.grown_up, lived.get("concept", UNTAUGHT))
    kept = tuple(SliceQuality(q.slice, q.rows, q.predictions, q.about, q.metrics) for q in qualities)
    return replace(
        record, labelled=kept[0].rows if kept else 0, concept=concept and shortened(concept), quality=kept,
        grown_up=labelled.grown_up, concept_revision=watched.revision, unreadable=labelled.unreadable,
    )  # fmt: skip


def _concept(
    record: WindowRecord, qualities: Sequence[Quality], watched: Watched, grown_up: bool, lived: Lived
) -> Verdict | None:
    """The verdict on the labels that have come; of a window that has not grown up what no missing one can change."""
    known = watched.reference.reliability
    if not qualities or ALL_ROWS not in known:
        return None
    ends = (record.start, record.end, watched.reference, record.spec, record.whole, lived)
    found = {quality.slice: quality.reliability for quality in qualities}
    missing = qualities[0].missing.rows.sum()
    if grown_up or not missing:
        return judge_concept(found, *ends)
    best = {q.slice: at_best(q.reliability, q.missing, known[q.slice]) for q in qualities if q.slice in known}
    verdict, whole = judge_concept(best, *ends), qualities[0]
    # Of the other statistics it is not certain that missing labels can only make them larger.
    certain = tuple(one for one in verdict.findings if one.detector == "miscalibration")
    if verdict.answer == "drift" and certain:
        return replace(verdict, findings=certain, rows=whole.rows)
    reason = f"Of {whole.predictions:,} labels {whole.rows:,} have come: the others may say otherwise."
    if verdict.answer == "no drift" and whole.rows >= LABELLED_SHARE * whole.predictions:
        return replace(verdict, rows=whole.rows, reason=reason)
    reason = verdict.reason if verdict.answer == "not enough data" else reason
    return replace(verdict, answer="not enough data", rows=whole.rows, findings=(), importance=nan, reason=reason)


def _has_say(record: WindowRecord, before: WindowRecord) -> bool:
    """Whether a window's labels have something to say that they have not said."""
    answer = record.concept and record.concept.answer
    if not record.settled:
        return answer in ("drift", "no drift")
    return answer == "drift" and (before.concept is None or before.concept.answer != "drift")


def _follow_errors(
    watch: VersionWatch,
    watched: Watched,
    spec: str,
    found: Mapping[int, Labelled],
    new_id: NewId,
    rollout: Rollout | None,
) -> tuple[VersionWatch, list[AlarmChange]]:
    """Take the errors of windows into the stream, in their order: of those whose labels have all but come.

    Of all kinds of windows the first is followed, and of windows that overlap those that do not, so that each error
    counts once. A rise makes drift of the window that brought it: it does not need the window's labels to be enough for
    a judgement of their own.
    """
    calm, changes = watched.reference.errors, list[AlarmChange]()
    if not calm.limits:
        return watch, changes
    for record in watch.streams[spec].records:
        if record.followed:
            continue
        overlaps = record.panes[0] <= watch.errors.pane
        if record.rows and not overlaps and not _has_come(record):
            break
        watch = _marked(watch, spec, record.number, followed=True)
        if overlaps:
            continue
        told = found.get(record.number, _NOTHING_TOLD)
        joined = calm.joined(len(told.errors), record.end - record.start)
        taken = take_errors(watch.errors, told.errors, calm.limits, joined)
        watch = replace(watch, errors=replace(taken.stream, pane=record.panes[1]))
        if taken.changes:
            verdict = record.concept or not_judged("concept", record.start, record.end, record.labelled)
            verdict = concept_beside(with_error_changes(verdict, taken.changes), rollout)
            watch, changed = take_verdict(watch, spec, verdict, told.examples, new_id)
            changes += changed
    return watch, changes


def _has_come(record: WindowRecord) -> bool:
    """Whether its labels are as many as are to be waited for."""
    predictions = record.quality[0].predictions if record.quality else record.rows
    return record.grown_up or record.labelled >= FOLLOWED_SHARE * predictions


def _marked(watch: VersionWatch, spec: str, number: int, **marks: bool) -> VersionWatch:
    stream = watch.streams[spec]
    records = tuple(
        replace(one, **marks) if one.number == number else one  # type: ignore[arg-type]
        for one in stream.records
    )
    return replace(watch, streams={**watch.streams, spec: replace(stream, records=records)})
