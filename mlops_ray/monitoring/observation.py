"""What predictions say of a version: counted, their windows judged, and alarms stepped.

    seen = observe(watch, watched, rows, ...)       # the watch afterwards, and alarms to announce

Nothing here reads a clock, a file or a database: the drift actor does that, and a backtest with simulated time.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.monitoring.alarm_change import AlarmChange, drifted_rows
from mlops_ray.monitoring.beside_champion import Rollout, record_beside
from mlops_ray.monitoring.input_segments import with_segments
from mlops_ray.monitoring.judging import judge
from mlops_ray.monitoring.looks import look, not_yet
from mlops_ray.monitoring.recalibration import UNTAUGHT, Lived
from mlops_ray.monitoring.sketches import NumericSketch
from mlops_ray.monitoring.verdicts import Question
from mlops_ray.monitoring.version_alarms import NewId, take_verdict
from mlops_ray.monitoring.version_watch import Observed, Stream, VersionWatch, Watched, fresh_stream
from mlops_ray.monitoring.window_record import WindowRecord, shortened
from mlops_ray.monitoring.windows import Added, Window, add

_MICROS = "datetime64[us]"


def observe(
    watch: VersionWatch,
    watched: Watched,
    rows: pl.DataFrame,
    moment: NDArray[np.datetime64],
    answered: NDArray[np.datetime64],
    read_up_to: datetime,
    new_id: NewId,
    rollout: Rollout | None = None,
) -> Observed:
    """Count `rows` in order, judge the windows that they finish, and step the alarms.

    rows: a column for each feature, and those that `Reference.with_answers` adds; request_id and row, if there, go into
    the examples of alarms.
    moment [rows], read_up_to: see `windows.add`. answered [rows]: when they were answered, which is later where past
    moments are asked about. new_id: makes the id of a new alarm. rollout: where a version is rolled out.
    """
    watch, rows = replace(watch, rows=watch.rows + len(rows)), with_segments(rows, watched.reference.segments.values())
    records: list[tuple[WindowRecord, Window]] = []
    judged: list[tuple[WindowRecord, Window]] = []
    panes: dict[str, NDArray[np.int64]] = {}
    for name, monitored in watched.reference.windows.items():
        stream = watch.streams.get(name) or fresh_stream(monitored.spec, watched.reference)
        added = add(stream.state, rows, moment, read_up_to, answered)
        panes[name] = added.panes
        made, stream = _judged(stream, added, watched, name, rollout)
        watch = replace(watch, streams={**watch.streams, name: stream})
        records += ((record, window) for (record, _), window in zip(made, added.finished, strict=True))
        judged += ((record, looked) for record, looked in made if looked is not None)
    changes: list[AlarmChange] = []
    # All kinds in turn, or an alarm would be told for each.
    for record, window in sorted(records, key=lambda one: one[0].end):
        for verdict in (record.data, record.prediction):
            drifted = verdict.answer == "drift"
            examples = drifted_rows(window.sample.values(), verdict, watched.reference) if drifted else ()
            watch, changed = take_verdict(watch, record.spec, verdict, examples, new_id)
            changes += changed
    return Observed(watch, tuple(changes), panes, tuple(judged))


def _judged(
    stream: Stream, added: Added, watched: Watched, name: str, rollout: Rollout | None
) -> tuple[list[tuple[WindowRecord, Window | None]], Stream]:
    """The records of the windows that were finished, each with what was judged then, and the stream with them."""
    monitored, made = watched.reference.windows[name], list[tuple[WindowRecord, Window | None]]()
    waiting, last = stream.waiting, None if rollout is None else stream.last
    for index, window in enumerate(added.finished):
        number = stream.finished + index
        looked = look(waiting, window, monitored.spec, monitored.shortest)
        waiting = looked.waiting
        record = _record(window, looked.window, watched, name, number, stream.lived)
        if rollout is not None and looked.window is not None:
            last = looked.window if rollout.champion is None else None
            record = record_beside(record, looked.window, rollout.champion)
        made.append((record, looked.window))
    return made, replace(
        stream, state=added.state, finished=stream.finished + len(made), waiting=waiting, last=last,
        records=(*stream.records, *(record for record, _ in made)),
    )  # fmt: skip


def _record(
    window: Window, looked: Window | None, watched: Watched, name: str, number: int, lived: Mapping[Question, Lived]
) -> WindowRecord:
    """looked: what is judged now, with the windows that waited for it; None while the window waits itself."""
    reference = watched.reference
    if looked is None:
        shortest = reference.windows[name].shortest
        data, prediction = (not_yet(question, window, shortest) for question in ("data", "prediction"))
    else:
        data = judge(looked, reference, name, "data", watched.importance, lived=lived.get("data", UNTAUGHT))
        prediction = judge(looked, reference, name, "prediction", lived=lived.get("prediction", UNTAUGHT))
    estimated = None
    sketch = None if reference.estimator is None else window.columns.get(reference.estimator.column)
    if reference.estimator is not None and isinstance(sketch, NumericSketch) and sketch.values:
        enough = sketch.values >= reference.windows[name].spec.minimum_rows
        estimated = reference.estimator.estimate(sketch) if enough else None
    return WindowRecord(
        name, number, window.start, window.end, window.rows, window.misdated,
        *(window.answered or (window.start, window.end)), shortened(data), shortened(prediction), estimated,
        whole=window.whole, panes=window.panes, revision=watched.revision,
    )  # fmt: skip


def moments_of(values: pl.Series) -> NDArray[np.datetime64]:
    """Moments as `observe` takes them: UTC in microseconds."""
    return values.cast(pl.Datetime("us")).to_physical().to_numpy().astype(_MICROS)
