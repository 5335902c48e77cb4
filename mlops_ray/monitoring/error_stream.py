"""The errors of a version as a stream, in the order of its predictions, watched by ADWIN and Page-Hinkley.

A window is judged by its own labels alone, so a model that gets a little worse from window to window is never far from
the last one. What follows the stream adds it up.

Both detectors are functions of the errors since the last change, and that is what is kept and committed: a restart
plays them again. Nothing of river's own objects is stored, so no file has to be trusted with code.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.monitoring.detectors.contract import StreamDetector
from mlops_ray.monitoring.reliability import Reliability, calibrated
from mlops_ray.use_case import ErrorDetector

_Float = NDArray[np.float64]
# Of a stream without a change the newest errors are kept. To play them again takes a tenth of a second.
KEPT_ERRORS = 50_000
# Errors are kept in steps of 1 / 32,767.
_SCALE = 32_767
_LOOSEST = {"adwin": 0.002, "page_hinkley": 50.0}
_STEP = {"adwin": 0.1, "page_hinkley": 1.25}
_MOST_STEPS = 40


@dataclass(frozen=True)
class ErrorStream:
    """kept: the errors since the last change, little-endian int16, oldest first. taken: how many there ever were."""

    kept: bytes = b""
    taken: int = 0


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


def take_errors(stream: ErrorStream, errors: _Float, limits: Mapping[ErrorDetector, float]) -> Taken:
    """Add `errors` in order. limits: of each detector in use (see `calm_limit`).

    After a change, up or down, the stream begins anew: what was before says nothing about what is normal now.
    """
    steps = np.rint(np.clip(errors, -1, 1) * _SCALE).astype("<i2")
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
    return Taken(ErrorStream(kept[-KEPT_ERRORS:].tobytes(), stream.taken + len(errors)), tuple(changes))


def calm_limit(name: ErrorDetector, errors: _Float) -> float:
    """The loosest setting with which a detector finds no change in the reference's own `errors`, which are in order.

    ADWIN's bound and Page-Hinkley's customary threshold take values for independent; those of one day resemble each
    other, and the published settings alarm all the time. A stretch as long as the reference is then as unlikely to
    alarm as one of its windows is to be the worst of all.
    """
    steps, limit = np.rint(np.clip(errors, -1, 1) * _SCALE).astype("<i2"), _LOOSEST[name]
    for _ in range(_MOST_STEPS):
        if _first(name, limit, steps, 0) is None:
            break
        limit *= _STEP[name]
    return limit


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
