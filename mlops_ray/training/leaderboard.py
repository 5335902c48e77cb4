"""The leaderboard of a search: what the quality of each finished trial costs in latency and size."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlops_ray.tasks.evaluation import Metric
from mlops_ray.training.trial import SearchResult, Trial

# Medians of so few calls differ by this part of themselves from one measurement to the next.
_SAME_LATENCY = 0.1


@dataclass(frozen=True)
class Standing:
    """value: the metric on the validation part. size_bytes, row_ms, batch_ms: see trial.Footprint, None where the model
    could not be exported. pareto: no other is as good in quality, latency of a row and size, and better in one of them.
    chosen: whether it is what the search has found."""

    trial_id: str
    candidate: str
    value: float
    size_bytes: int | None
    row_ms: float | None
    batch_ms: float | None
    pareto: bool
    chosen: bool


def leaderboard(result: SearchResult, metric: Metric) -> tuple[Standing, ...]:
    """The finished trials, the best first. Latencies that are within a tenth of each other are the same."""
    finished = [trial for trial in result.trials if trial.status == "finished"]
    finished.sort(key=lambda trial: -metric.gain(trial.value or 0.0))
    return tuple(_standing(trial, finished, metric, result.best) for trial in finished)


def table(standings: Sequence[Standing]) -> dict[str, Any]:
    """As MLflow keeps a table: names of columns, and rows."""
    rows = [asdict(one) for one in standings]
    return {"columns": list(Standing.__dataclass_fields__), "data": [list(row.values()) for row in rows]}


def _standing(trial: Trial, others: Sequence[Trial], metric: Metric, best: Trial) -> Standing:
    costs = trial.footprint
    dominated = costs is None or any(_dominates(other, trial, metric) for other in others)
    return Standing(
        trial.trial_id,
        trial.candidate,
        trial.value or 0.0,
        costs.size_bytes if costs else None,
        costs.row_ms if costs else None,
        costs.batch_ms if costs else None,
        not dominated,
        trial.trial_id == best.trial_id,
    )


def _dominates(one: Trial, other: Trial, metric: Metric) -> bool:
    if one.footprint is None or other.footprint is None:
        return False
    quality = metric.gain(one.value or 0.0) - metric.gain(other.value or 0.0)
    smaller = other.footprint.size_bytes - one.footprint.size_bytes
    slower = one.footprint.row_ms > other.footprint.row_ms * (1 + _SAME_LATENCY)
    faster = other.footprint.row_ms > one.footprint.row_ms * (1 + _SAME_LATENCY)
    return quality >= 0 and smaller >= 0 and not slower and (quality > 0 or smaller > 0 or faster)


def lines(rows: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    """The leaderboard as text, a line for each trial below one for the columns."""
    shown = [("", "trial", metric, "row", "1,000 rows", "size"), *map(_cells, rows)]
    widths = [max(len(row[at]) for row in shown) for at in range(len(shown[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    marks = ("*" if row["pareto"] else " ") + (">" if row["chosen"] else " ")
    if row["size_bytes"] is None:
        return marks, row["trial_id"], f"{row['value']:.4f}", "not exported", "", ""
    times = f"{row['row_ms']:.3f} ms", f"{row['batch_ms']:.1f} ms"
    return marks, row["trial_id"], f"{row['value']:.4f}", *times, f"{row['size_bytes'] / 1e6:.2f} MB"
