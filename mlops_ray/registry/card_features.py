"""What the model card says of features: how much each matters, and what the answer is by its values."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlops_ray.show.effects import Point, bars, curve

_SHOWN = 15
Bound = float | None


@dataclass(frozen=True)
class FeaturePart:
    """A heading with a text, a table, and charts of the same numbers as SVG."""

    heading: str
    text: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    charts: Sequence[str]


def feature_parts(evaluation: Mapping[str, Any]) -> Iterator[FeaturePart]:
    """Of a version's evaluation; nothing of versions that were sealed before there was any."""
    if intervals := evaluation.get("importance", {}).get("intervals"):
        yield _importance(evaluation["importance"], intervals)
    for name, known in evaluation.get("dependence", {}).items():
        yield _dependence(name, known)


def _importance(known: Mapping[str, Any], intervals: Mapping[str, Sequence[Bound]]) -> FeaturePart:
    first = sorted(known["features"].items(), key=lambda item: (-item[1], item[0]))
    points = [Point(name, value, *intervals[name]) for name, value in first[:_SHOWN]]
    rest = first[_SHOWN:]
    text = (
        f"How much the mean loss on the test period grows ({known['measure']}) when a feature's values are dealt out "
        f"to other rows; what two features say together counts for neither. Intervals are over days."
    )
    if rest:
        text = f"{text} {len(rest)} more features have at most {rest[0][1]:.4g}."
    rows = [[one.name, f"{one.value:.4g}", _interval(one.low, one.high)] for one in points]
    heading = "Importance of features"
    return FeaturePart(heading, text, ["feature", "loss grows by", "95 % interval"], rows, [bars(heading, points)])


def _dependence(feature: str, known: Mapping[str, Any]) -> FeaturePart:
    values, is_number = known["values"], known["kind"] == "number"
    names = [f"{value:.6g}" if is_number else str(value) for value in values]
    head, columns, charts = [feature], [names], list[str]()
    for part, by_value in known["curves"].items():
        shown = zip(by_value["mean"], by_value["low"], by_value["high"], strict=True)
        points = [
            Point(name, *bounds, at=value if is_number else None)
            for name, value, bounds in zip(names, values, shown, strict=True)
        ]
        columns += [[f"{one.value:.4g}" for one in points], [_interval(one.low, one.high) for one in points]]
        head += [part or "mean answer", "95 % interval"]
        charts.append(curve(f"{part or 'Mean answer'} by {feature}", points))
    text = (
        f"The mean answer to rows of the test period if {feature} had this value in all of them. Where features go "
        f"together, such rows need not exist. Intervals are over days, with the model as it is."
    )
    rows = [list(row) for row in zip(*columns, strict=True)]
    return FeaturePart(f"Answers by {feature}", text, head, rows, charts)


def _interval(low: Bound, high: Bound) -> str:
    return "" if low is None or high is None else f"{low:.4g} to {high:.4g}"
