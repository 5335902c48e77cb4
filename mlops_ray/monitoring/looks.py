"""Windows that are too short to be judged are judged together, once they cover enough time.

At a thousand predictions a second a window of 5,000 rows covers five seconds. There are half a million of them in a
month, and of a promise about a month nothing is left for one; nor is a moment like any day of the reference.
"""

from dataclasses import dataclass
from datetime import timedelta

from mlops_ray.monitoring.coverage import TOLERANCE
from mlops_ray.monitoring.verdicts import Question, Verdict, not_judged
from mlops_ray.monitoring.windows import Window
from mlops_ray.use_case.window_spec import WindowSpec


@dataclass(frozen=True)
class Gathered:
    """window: those that wait to be judged, together. covered: how much time they cover without what lies between."""

    window: Window
    covered: timedelta


@dataclass(frozen=True)
class Look:
    """window: what is judged now, None while there is not enough. waiting: what the next look begins with."""

    window: Window | None
    waiting: Gathered | None = None


def look(waiting: Gathered | None, window: Window, spec: WindowSpec, shortest: timedelta) -> Look:
    """Take the next window of a stream; shortest: how much time a look must cover (see `Monitored.shortest`).

    Windows by time are each a look. Of windows that overlap, only those that do not are put together.
    """
    if spec.length is not None:
        return Look(window)
    if waiting is not None and window.panes[0] <= waiting.window.panes[1]:
        return Look(None, waiting)
    covered = window.end - window.start + (timedelta(0) if waiting is None else waiting.covered)
    together = window if waiting is None else waiting.window.plus(window)
    if covered * TOLERANCE >= shortest:
        return Look(together)
    return Look(None, Gathered(together, covered))


def not_yet(question: Question, window: Window, shortest: timedelta) -> Verdict:
    """What is said of a window that is judged later, together with others."""
    covers = _words(window.end - window.start)
    reason = (
        f"The window covers {covers}. It is judged together with the next ones, once they cover {_words(shortest)}."
    )
    return not_judged(question, window.start, window.end, window.rows, reason)


def _words(span: timedelta) -> str:
    hours = span / timedelta(hours=1)
    return f"{hours:.3g} hours" if hours >= 1 else f"{span.total_seconds():.3g} seconds"
