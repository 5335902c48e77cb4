"""The report of an evaluation: metrics with their intervals, charts by the kind of label, slices and importance."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import polars as pl

from mlops_ray.show.charts import bars
from mlops_ray.show.document import table
from mlops_ray.show.evaluation import STYLE, calibration, confusion
from mlops_ray.show.shown import Shown
from mlops_ray.show.text import columns, printable
from mlops_ray.tasks.evaluation import ReliabilityBin, metric_words
from mlops_ray.tasks.stored import task_from_json

_FEATURES, _SLICES = 15, 20


@dataclass(frozen=True, repr=False)
class EvaluationReport(Shown):
    """How a model did on the test period, which neither the search nor the last fit has seen.

    content: the evaluation as it is sealed with the model. metric: what was searched by. `frame` has the metrics.
    """

    use_case: str
    candidate: str
    metric: str
    content: Mapping[str, Any]
    _style = STYLE

    @property
    def title(self) -> str:
        return f"{self.use_case}: {self.candidate} on the test period"

    @property
    def frame(self) -> pl.DataFrame:
        """A row for each metric: metric, value, low and high of the 95 % interval (null where days are too few)."""
        rows = [(name, one["value"], one["low"], one["high"]) for name, one in self._metrics()]
        schema = {"metric": pl.Utf8, "value": pl.Float64, "low": pl.Float64, "high": pl.Float64}
        return pl.DataFrame(rows, schema, orient="row")

    def __getitem__(self, metric: str) -> float:
        """The value of a metric."""
        return float(dict(self._metrics())[metric]["value"])

    def _metrics(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The one that was searched by first."""
        names = task_from_json(self.content.get("task")).metrics
        found = [(name, self.content[name]) for name in names if name in self.content]
        yield from sorted(found, key=lambda one: one[0] != self.metric)

    def _said(self) -> str:
        content, task = self.content, task_from_json(self.content.get("task"))
        said = ""
        if {"rows", "days"} <= content.keys():
            said = f"{content['rows']:,} rows of {content['days']} days; {task.described(content)}."
        if decision := content.get("decision"):
            said += f" {task.decisions_described(decision)}"
        return said

    def _beside(self) -> list[tuple[str, str, str]]:
        """What the model is better by than answers without one: against what, which metric, difference."""
        return [
            (name, metric_words(one["metric"]), f"{one['difference']['value']:+.4f}{_interval(one['difference'])}")
            for name, one in (self.content.get("baselines") or {}).items()
        ]

    def _html(self) -> str:
        metrics = [(metric_words(name), f"{one['value']:.4f}", _ends(one)) for name, one in self._metrics()]
        parts = [f"<h1>{escape(self.title)}</h1><p>{escape(self._said())}</p>"]
        parts.append(table(("metric", "value", "95 % interval"), metrics))
        if beside := self._beside():
            rows = [tuple(map(escape, one)) for one in beside]
            parts.append(f"<h2>Beside answers without a model</h2>{table(('beside', 'metric', 'better by'), rows)}")
        parts.append(charts(self.content))
        if grown := _importance(self.content):
            what = escape(str(self.content["importance"]["measure"]))
            parts.append(f"<h2>Importance</h2><p><small>How much worse: {what}.</small></p>{grown}")
        if judged := _slices(self.content, self.metric):
            head = ("slice", "rows", metric_words(self.metric), "95 % interval")
            parts.append(f"<h2>Slices, the worst first</h2>{table(head, [tuple(map(escape, row)) for row in judged])}")
        return "".join(parts)

    def _text(self) -> str:
        rows = [(metric_words(name), f"{one['value']:.4f}", _ends(one)) for name, one in self._metrics()]
        lines = [printable(self.title), printable(self._said()), columns(("metric", "value", "95 % interval"), rows)]
        lines += [printable(f"Beside {name}: {metric} better by {by}") for name, metric, by in self._beside()]
        if counted := self.content.get("confusion"):
            names, cells = counted["names"], [[f"{one:,}" for one in row] for row in counted["rows"]]
            table_ = [[name, *row] for name, row in zip(names, cells, strict=True)]
            lines += ["", columns(("label \\ predicted", *map(printable, names)), table_)]
        return "\n".join(lines)


def charts(content: Mapping[str, Any]) -> str:
    """Calibration, and confusion where predictions are of a few names, of an evaluation as it is stored."""
    task = task_from_json(content.get("task"))
    bins = [ReliabilityBin(**one) for one in content.get("reliability", ())]
    drawn = []
    if chart := calibration(bins, task.reliability_axes):
        drawn.append((chart, "Calibration: on the dashed line, answers are right on average."))
    if counted := content.get("confusion"):
        said = "Predictions by label: a row adds up to all that have the label."
        drawn.append((confusion(counted["names"], counted["rows"]), said))
    figures = "".join(f"<figure>{chart}<figcaption>{escape(said)}</figcaption></figure>" for chart, said in drawn)
    return f'<div class="charts">{figures}</div>' if figures else ""


def _importance(content: Mapping[str, Any]) -> str:
    grown = (content.get("importance") or {}).get("features") or {}
    named = sorted(grown.items(), key=lambda one: -one[1])[:_FEATURES]
    most = max((value for _, value in named), default=0.0)
    return bars([(name, max(0.0, value), f"{value:.3g}") for name, value in named], most) if most > 0 else ""


def _slices(content: Mapping[str, Any], metric: str) -> list[Sequence[str]]:
    task = task_from_json(content.get("task"))
    judged = [one for one in (content.get("slices") or {}).get("judged", ()) if metric in one["evaluation"]]
    judged.sort(key=lambda one: task.metrics[metric].gain(one["evaluation"][metric]["value"]))
    return [
        (
            f"{one['column']} = {one['value'] or '(missing)'}",
            f"{one['evaluation']['rows']:,}",
            f"{one['evaluation'][metric]['value']:.4f}",
            _ends(one["evaluation"][metric]),
        )
        for one in judged[:_SLICES]
    ]


def _ends(estimate: Mapping[str, Any]) -> str:
    return "" if estimate.get("low") is None else f"{estimate['low']:.4f} to {estimate['high']:.4f}"


def _interval(estimate: Mapping[str, Any]) -> str:
    return f" ({ends})" if (ends := _ends(estimate)) else ""
