"""The size of a change, in words."""

from math import nan

import numpy as np

from mlops_ray.monitoring.detectors.cells import bins, single_values
from mlops_ray.monitoring.sketches import CategoricalSketch, NumericSketch, Sketch

# A mean that moved less, in standard deviations, does not tell the story.
_CLEAR_SHIFT = 0.2


def describe_shift(old: Sketch, new: Sketch) -> str:
    """The size of the change, in words: of the mean in standard deviations, of the largest share, of what is missing.

    Of these the one that stands out most is named.
    """
    missing = (old.missing / old.rows if old.rows else 0.0, new.missing / new.rows if new.rows else 0.0)
    gaps = f"missing {percent(missing[0])} -> {percent(missing[1])}"
    if not new.values or not old.values:
        return gaps
    if isinstance(old, NumericSketch) and isinstance(new, NumericSketch):
        deviation = old.deviation
        size = (new.mean - old.mean) / deviation if deviation > 0 else nan
        text = f"mean {old.mean:.5g} -> {new.mean:.5g}"
        text += f" ({size:+.2f} standard deviations)" if deviation > 0 else ""
        text += "" if abs(size) >= _CLEAR_SHIFT else f", {_widest_gap(old, new)}"
        return f"{text}, {gaps}" if abs(missing[1] - missing[0]) > 0.01 else text
    assert isinstance(old, CategoricalSketch)
    assert isinstance(new, CategoricalSketch)
    changes = new.counts / new.values - old.counts / old.values
    parts = []
    if new.unseen:
        values = ", ".join(value for value, _ in new.frequent_unseen(3))
        parts.append(f"never seen before {percent(new.unseen / new.values)} ({values})")
    if len(changes):
        at = int(np.argmax(np.abs(changes)))
        shares = (sketch.counts[at] / sketch.values for sketch in (old, new))
        parts.append(f"{old.categories[at]} {' -> '.join(map(percent, shares))}")
    return ", ".join([*parts, *([gaps] if abs(missing[1] - missing[0]) > 0.01 else [])])


def _widest_gap(old: NumericSketch, new: NumericSketch) -> str:
    """Where the distribution functions are furthest apart."""
    both = bins(old, new)
    if not len(both.edges):
        return "the same single value"
    below = [np.cumsum(part)[:-1] for part in both.shares()]
    at = int(np.argmax(np.abs(below[1] - below[0])))
    just_before = single_values(both.edges)[at : at + 1].any()  # in five digits they are the same number
    place = f"below {both.edges[at + 1]:.5g}" if just_before else f"up to {both.edges[at]:.5g}"
    return f"{place}: {percent(below[0][at])} -> {percent(below[1][at])}"


def percent(share: float) -> str:
    """Such as "12.5 %"."""
    return f"{100 * share:.3g} %"
