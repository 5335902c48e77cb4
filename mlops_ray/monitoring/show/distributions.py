"""The distribution of a column in the last window beside the reference's: what is drawn of their sketches."""

from collections.abc import Sequence

import numpy as np

from mlops_ray.monitoring.sketches import CategoricalSketch, NumericSketch, Sketch
from mlops_ray.show.beside import MOST_NAMED, no_value, outline, pairs

_BINS = 24


def beside(reference: Sketch | None, now: Sketch | None, label: str) -> str:
    """The distribution of the reference as bars, and of the last window as an outline (numbers) or bars below."""
    if isinstance(now, NumericSketch):
        return _numbers(reference if isinstance(reference, NumericSketch) else None, now, label)
    if isinstance(now, CategoricalSketch):
        return pairs(_categories(reference if isinstance(reference, CategoricalSketch) else None, now), label)
    return ""


def _numbers(reference: NumericSketch | None, now: NumericSketch, label: str) -> str:
    edges = _edges([one for one in (reference, now) if one is not None and one.values])
    if edges is None:
        return no_value(label)
    was, is_ = (None if one is None or not one.values else _in(one, edges).tolist() for one in (reference, now))
    return outline(edges.tolist(), was, is_, label)


def _edges(sketches: Sequence[NumericSketch]) -> np.ndarray | None:
    """Bins of equal width from the 1 % to the 99 % quantile of all; None without values."""
    if not sketches:
        return None
    lows, highs = zip(*(_central(one) for one in sketches), strict=True)
    low, high = min(lows), max(highs)
    if not high > low:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, _BINS + 1)


def _central(sketch: NumericSketch) -> tuple[float, float]:
    """Between which edges about 98 % of the values lie."""
    uppers = np.append(sketch.edges.astype(np.float64), sketch.maximum)
    below = np.cumsum(sketch.counts) / sketch.values
    low, high = (float(uppers[min(int(np.searchsorted(below, rank)), len(uppers) - 1)]) for rank in (0.01, 0.99))
    return max(sketch.minimum, min(low, high)), min(sketch.maximum, high)


def _in(sketch: NumericSketch, edges: np.ndarray) -> np.ndarray:
    """The shares of the values in bins; those outside are in the first and the last."""
    counts = sketch.like(NumericSketch.with_edges(edges)).counts / sketch.values
    inner = counts[1:-1].astype(np.float64)
    inner[0] += counts[0]
    inner[-1] += counts[-1]
    return np.asarray(inner)


def _categories(reference: CategoricalSketch | None, now: CategoricalSketch) -> list[tuple[str, float, float]]:
    """The categories with the largest shares: their name, what was, what is."""
    names = now.categories
    same = reference is not None and reference.categories == names and reference.values > 0
    new = now.counts / now.values if now.values else np.zeros(len(names))
    old = reference.counts / reference.values if same and reference is not None else np.zeros(len(names))
    order = sorted(range(len(names)), key=lambda at: (-max(old[at], new[at]), names[at]))[:MOST_NAMED]
    rows = [(names[at], float(old[at]), float(new[at])) for at in order]
    if now.unseen:
        rows = [*rows[: MOST_NAMED - 1], ("(new)", 0.0, float(now.unseen / now.values))]
    return rows
