"""The errors of a version as a stream, in the order of its predictions, watched by ADWIN and Page-Hinkley.

A window is judged by its own labels alone, so a model that gets a little worse from window to window is never far from
the last one. What follows the stream adds it up.

Both detectors are functions of the errors since the last change, and that is what is kept and committed: a restart
plays them again. Nothing of river's own objects is stored, so no file has to be trusted with code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.monitoring.calibration import Promise
from mlops_ray.monitoring.detectors.contract import StreamDetector
from mlops_ray.monitoring.reliability import Reliability, calibrated
from mlops_ray.use_case import ErrorDetector

_Float = NDArray[np.float64]
# Of a stream without a change the newest errors are kept. To play them again takes a tenth of a second.
KEPT_ERRORS = 50_000
# Errors are kept in steps of 1 / 32,767.
_SCALE = 32_767
_LOOSEST = {"adwin": 0.002, "page_hinkley": 50.0}
# ADWIN's delta becomes smaller by this factor, at most so often.
_STEP, _MOST_STEPS = 0.1, 60
# With fewer errors than this there is nothing to learn from.
_FEWEST_ERRORS = 200
# The promise's days are learned with so many values, in so many streams; ADWIN, which is slow, with some of them.
_STREAM_VALUES, _STREAMS, _ADWIN_STREAMS, _BLOCK_DAYS = 20_000, 60, 16, 7.0
_MARGIN = 2.0
# As `detectors.page_hinkley` has them: what a value may be above the mean, and where it begins to judge.
_DELTA, _PAGE_HINKLEY_BEGINS = 0.005, 29
_SEED = 0
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class ErrorStream:
    """kept: the errors since the last change, little-endian int16, oldest first. taken: how many there ever were.

    pane: the last of the windows from which they were taken; -1 before any.
    """

    kept: bytes = b""
    taken: int = 0
    pane: int = -1


@dataclass(frozen=True)
class Change:
    """A rise that a detector found. before, after: the mean excess error on each side of it."""

    detector: ErrorDetector
    before: float
    after: float


@dataclass(frozen=True)
class Taken:
    """The stream with more errors, and the rises that they brought."""

    stream: ErrorStream
    changes: tuple[Change, ...] = ()


def excess_errors(labelled: pl.DataFrame, reference: Reliability) -> _Float:
    """|label - probability| less what the calibrated probability lets expect, in -1..1, in the order of the rows.

    labelled: rows with `label` and `probability`. With y the label, p the answer and q the calibrated probability, the
    expectation of |y - p| is q (1 - p) + (1 - q) p. So the mean stays 0 while P(Y|X) does, whatever becomes of P(X):
    inputs that are hard to judge make larger errors, but none that were not expected.
    """
    guess, label = (labelled[name].cast(pl.Float64).to_numpy() for name in ("probability", "label"))
    share = calibrated(reference, guess)
    return np.asarray(np.abs(label - guess) - share * (1 - guess) - (1 - share) * guess, dtype=np.float64)


def take_errors(stream: ErrorStream, errors: _Float, limits: Mapping[ErrorDetector, float], joined: int = 1) -> Taken:
    """Add `errors` in order. limits: of each detector in use. joined: so many make one value (see `CalmErrors`).

    After a change, up or down, the stream begins anew: what was before says nothing about what is normal now.
    """
    steps = _steps(_joined(errors, joined))
    kept, changes = np.frombuffer(stream.kept, "<i2"), []
    while len(steps):
        known = len(kept)
        kept, steps = np.concatenate([kept, steps]), steps[:0]
        found = [(at, name) for name, limit in limits.items() if (at := _first(name, limit, kept, known)) is not None]
        if found:
            at, name = min(found)
            change = _change(name, kept[: at + 1] / _SCALE)
            changes += [change] if change.after > change.before else []
            kept, steps = kept[:0], kept[at + 1 :]
    taken = stream.taken + len(errors)
    return Taken(replace(stream, kept=kept[-KEPT_ERRORS:].tobytes(), taken=taken), tuple(changes))


@dataclass(frozen=True)
class CalmErrors:
    """What leaves calm errors calm. limits: of each detector. per_day: how many values a day they were learned with."""

    limits: Mapping[ErrorDetector, float] = field(default_factory=dict)
    per_day: float = 0.0

    def joined(self, errors: int, span: timedelta) -> int:
        """How many errors make one value, where so many came in this time: no more values a day than were learned.

        Errors of a day share what the day is like, so more of them say no more about a change; taken one by one they
        would count it as often as there is traffic.
        """
        if not self.per_day or span <= timedelta(0):
            return 1
        return max(1, round(errors / (span / _DAY) / self.per_day))


def calm_limits(
    names: Sequence[ErrorDetector], errors: _Float, moment: NDArray[np.datetime64], promise: Promise
) -> CalmErrors:
    """The loosest setting with which each detector keeps its share of the promise; errors, moment [rows] in order.

    ADWIN's bound and Page-Hinkley's customary threshold take values for independent; those of one day resemble each
    other, and the published settings alarm all the time. So streams of the promise's length are put together from
    weeks of the reference (circular block bootstrap: Politis and Romano, "A circular block-resampling procedure for
    stationary data", 1992), and at most their share of them may show a change.
    """
    if not names or len(errors) < _FEWEST_ERRORS:
        return CalmErrors()
    days = max(1.0, float((moment[-1] - moment[0]).astype("timedelta64[us]").astype(np.int64)) / 86_400e6)
    every = max(1, round(len(errors) / days * promise.days / _STREAM_VALUES))
    values = _steps(_joined(errors, every))
    per_day = len(values) / days
    block, wanted = max(1, round(per_day * min(_BLOCK_DAYS, days / 4))), max(1, round(per_day * promise.days))
    random = np.random.default_rng(_SEED)
    begins = random.integers(0, len(values), (_STREAMS, -(-wanted // block)))
    places = (begins[:, :, None] + np.arange(block)).reshape(_STREAMS, -1)[:, :wanted] % len(values)
    streams = values[places]
    # What so few days cannot have shown.
    margin = 1 + _MARGIN / np.sqrt(days)
    alarms = int(_STREAMS / promise.shares)
    limits = {name: _limit(name, streams, alarms, float(margin)) for name in names}
    return CalmErrors(limits, per_day)


def _limit(name: ErrorDetector, streams: NDArray[np.int16], alarms: int, margin: float) -> float:
    if name == "page_hinkley":
        peaks = np.sort([_peak(stream / _SCALE) for stream in streams])
        return max(_LOOSEST[name], margin * float(peaks[-1 - min(alarms, len(peaks) - 1)]))
    some = streams[: min(len(streams), _ADWIN_STREAMS)]
    allowed = alarms * len(some) // len(streams)
    low, high = 0, _MOST_STEPS
    while low < high:  # the fewest steps that leave the streams calm
        middle = (low + high) // 2
        limit = _LOOSEST[name] * _STEP**middle
        calm = sum(_first(name, limit, stream, 0) is not None for stream in some) <= allowed
        low, high = (low, middle) if calm else (middle + 1, high)
    return float(_LOOSEST[name] * _STEP ** (low if not low else min(_MOST_STEPS, round(low * margin))))


def _peak(values: _Float) -> float:
    """The largest value of the statistic of `detectors.page_hinkley` on a stream."""
    mean = np.cumsum(values) / np.arange(1, len(values) + 1)
    walk = np.cumsum(values - mean - _DELTA)
    return float((walk - np.minimum(0.0, np.minimum.accumulate(walk)))[_PAGE_HINKLEY_BEGINS:].max(initial=0.0))


def _steps(errors: _Float) -> NDArray[np.int16]:
    return np.rint(np.clip(errors, -1, 1) * _SCALE).astype("<i2")


def _joined(errors: _Float, every: int) -> _Float:
    """Means of so many errors in turn; of fewer at the end."""
    if every <= 1 or not len(errors):
        return errors
    starts = np.arange(0, len(errors), every)
    return np.add.reduceat(errors, starts) / np.diff(np.append(starts, len(errors)))


def _first(name: ErrorDetector, limit: float, steps: NDArray[np.int16], known: int) -> int | None:
    """Where the first change is found, among those that come after the `known` errors."""
    found = (at for at in _detector(name, limit).update(_values(name, steps)) if at >= known)
    return next(found, None)


def _detector(name: ErrorDetector, limit: float) -> StreamDetector:
    if name == "adwin":
        from mlops_ray.monitoring.detectors.adwin import Adwin

        return Adwin(delta=limit)
    from mlops_ray.monitoring.detectors.page_hinkley import PageHinkley

    return PageHinkley(threshold=limit)


def _values(name: ErrorDetector, steps: NDArray[np.int16]) -> _Float:
    """ADWIN takes numbers in 0..1."""
    values = steps / _SCALE
    return (values + 1) / 2 if name == "adwin" else values


def _change(name: ErrorDetector, errors: _Float) -> Change:
    """The errors up to where a change was found, parted where their two means are furthest apart."""
    rows = np.arange(1, len(errors))
    below, total = np.cumsum(errors)[:-1], errors.sum()
    before, after = below / rows, (total - below) / (len(errors) - rows)
    at = int(np.argmax(np.abs(after - before) * np.sqrt(rows * (len(errors) - rows))))
    return Change(name, float(before[at]), float(after[at]))
