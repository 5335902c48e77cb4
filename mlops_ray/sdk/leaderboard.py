"""Leaderboard: the trials of a search, the best first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import polars as pl

from mlops_ray.show.charts import bars, sparkline
from mlops_ray.show.document import table, unbroken
from mlops_ray.show.shown import Shown
from mlops_ray.show.text import columns
from mlops_ray.tasks.evaluation import metric_words
from mlops_ray.tasks.stored import metric_named
from mlops_ray.training.trial import Trial

_SHOWN = 30


@dataclass(frozen=True, repr=False)
class Leaderboard(Shown):
    """trials: those that finished, the best first, then the others. metric: on the validation period."""

    use_case: str
    metric: str
    trials: tuple[Trial, ...]

    @classmethod
    def of(cls, use_case: str, trained: Mapping[str, Any]) -> "Leaderboard":
        """trained: the result of the step `train`."""
        metric, gain = str(trained["metric"]), metric_named(str(trained["metric"])).gain
        trials = [Trial.from_json(one) for one in trained["trials"]]

        def place(one: Trial) -> tuple[bool, float]:
            return one.status != "finished", 0.0 if one.value is None else -gain(one.value)

        return cls(use_case, metric, tuple(sorted(trials, key=place)))

    @property
    def frame(self) -> pl.DataFrame:
        """A row for each trial: trial, candidate, status, the metric, seconds, row_ms and size_bytes (what its model
        costs to serve, None where it was not exported), and a column for each parameter."""
        rows = [
            {
                "trial": one.trial_id, "candidate": one.candidate, "status": one.status, self.metric: one.value,
                "seconds": one.seconds, "row_ms": one.footprint and one.footprint.row_ms,
                "size_bytes": one.footprint and one.footprint.size_bytes,
                **{name: _plain(value) for name, value in one.parameters.items()},
            }
            for one in self.trials
        ]  # fmt: skip
        return pl.DataFrame(rows, infer_schema_length=None, strict=False)

    @property
    def title(self) -> str:
        return f"{self.use_case}: leaderboard"

    def _rows(self) -> Sequence[tuple[str, ...]]:
        return [
            (
                one.trial_id,
                "" if one.value is None else f"{one.value:.4f}",
                one.status if one.status != "failed" else f"failed: {one.message[:120]}",
                f"{one.seconds:.1f} s",
                f"{one.footprint.row_ms:.3f} ms" if one.footprint else "",
                f"{one.footprint.size_bytes / 1e6:.2f} MB" if one.footprint else "",
                ", ".join(f"{name} {_short(value)}" for name, value in one.parameters.items()),
            )
            for one in self.trials[:_SHOWN]
        ]

    def _html(self) -> str:
        metric = metric_words(self.metric)
        rows = [
            (
                unbroken(row[0]),
                row[1],
                sparkline([step.value for step in one.steps], f"{metric} while it was fitted"),
                unbroken(row[2]) if one.status != "failed" else escape(row[2]),
                *map(unbroken, row[3:6]),
                escape(row[6]),
            )
            for one, row in zip(self.trials, self._rows(), strict=False)
        ]
        more = f"<p>{len(self.trials) - _SHOWN} more in frame.</p>" if len(self.trials) > _SHOWN else ""
        head = ("trial", metric, "", "status", "took", "a row", "size", "parameters")
        said = f"<p><small>{metric} on the validation period; more is better unless it is an error.</small></p>"
        return f"<h1>{escape(self.title)}</h1>{said}{self._by_candidate()}{table(head, rows)}{more}"

    def _by_candidate(self) -> str:
        """The best value of each candidate, as bars where more is better and all are above 0."""
        if metric_named(self.metric).lower_is_better:
            return ""
        best: dict[str, float] = {}
        for one in self.trials:
            if one.status == "finished" and one.value is not None:
                best.setdefault(one.candidate, one.value)
        if not best or min(best.values()) < 0:
            return ""
        return bars([(name, value, f"{value:.4f}") for name, value in best.items()], max(best.values()))

    def _text(self) -> str:
        heads = ("trial", metric_words(self.metric), "status", "took", "a row", "size", "parameters")
        more = [f"{len(self.trials) - _SHOWN} more in frame"] if len(self.trials) > _SHOWN else []
        return "\n".join([columns(heads, self._rows()), *more])


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | None) else str(value)
