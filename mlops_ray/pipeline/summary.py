"""The summary of a pipeline: what a person reads at its end, and `summary.json` in the state folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from mlops_ray.config import Settings
from mlops_ray.pipeline.steps.step import StepFinished, StepName
from mlops_ray.tasks.stored import task_from_json


def summarize(
    done: Mapping[StepName, StepFinished], prediction: Mapping[str, Any] | None, serve_s: float
) -> dict[str, Any]:
    """The figures of a whole pipeline. `prediction`: the request sent and its answer, None if nothing was asked."""
    counts = list(done["ingest"].result["counts"].values())
    trials = done["train"].result["trials"]
    evaluation = done["evaluate"].result["evaluation"]
    return {
        **{f"rows_{kind}": sum(c[name] for c in counts) for kind, name in _COUNTS.items()},
        "training_rows": done["training_set"].result["rows"],
        "trials": len(trials),
        "candidates": _candidates(trials, done["train"].result["metric"]),
        "best_candidate": done["evaluate"].result["candidate"],
        "metrics": evaluation,
        "metric": (metric := done["train"].result["metric"]),
        metric: evaluation[metric]["value"],
        "version": done["register"].result["version"],
        "digest": done["register"].result["digest"],
        "gates": done["register"].result["gates"],
        "approval": done["register"].result["approval"],
        "champion": done["register"].result["champion"],
        "standing": done["register"].result["standing"],
        "doubts": done["register"].result["doubts"],
        "prediction": prediction,
        "steps_s": {**{step: round(end.seconds, 2) for step, end in done.items()}, "serve": round(serve_s, 2)},
        "reused": [step for step, end in done.items() if end.reused],
    }


_OUTCOMES = ("accepted", "repaired", "quarantined", "not_yet_known")
_COUNTS = {"in": "rows_in", **{outcome: outcome for outcome in _OUTCOMES}}


def _candidates(trials: list[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """For each candidate its trials and its best value of the search metric on the validation period."""
    table: dict[str, Any] = {}
    for trial in trials:
        row = table.setdefault(trial["candidate"], {"trials": 0, "stopped_early": 0, "failed": 0, metric: None})
        row["trials"] += 1
        row["stopped_early"] += trial["status"] == "stopped"
        row["failed"] += trial["status"] == "failed"
        if trial["status"] == "finished" and (row[metric] is None or trial["value"] > row[metric]):
            row[metric] = trial["value"]
    return table


def write_summary(summary: Mapping[str, Any], settings: Settings) -> Path:
    """Write `summary.json` into the state folder and return its path."""
    path = Path(settings.state) / "summary.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(summary, indent=2))
    return path


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """Print the figures as `name  value` lines, none of them folded."""
    rows = " + ".join(f"{summary[f'rows_{kind}']:,} {kind.replace('_', ' ')}" for kind in _OUTCOMES)
    lines = [
        ("rows in", f"{summary['rows_in']:,} = {rows}"),
        ("training rows", f"{summary['training_rows']:,}"),
        ("trials", str(summary["trials"])),
        *((f"  {name}", _row(row)) for name, row in summary["candidates"].items()),
        ("best candidate", summary["best_candidate"]),
        *(
            (f"  test {name}", _estimate(summary["metrics"][name]))
            for name in task_from_json(summary["metrics"].get("task")).metrics
            if _is_estimate(summary["metrics"].get(name))
        ),
        ("version", f"{summary['version']} (sealed {summary['digest'][:12]})"),
        *(("gate" if gate["passed"] else "gate FAILED", gate["sentence"]) for gate in summary["gates"]),
    ]
    if summary["approval"]:
        lines.append(("approval", _approval(summary["approval"])))
    lines += [("standing", summary["standing"]), *(("doubt", doubt) for doubt in summary["doubts"])]
    if summary["prediction"]:
        lines.append(("asked over HTTP", json.dumps(summary["prediction"]["request"])))
        lines.append(("answer", json.dumps(summary["prediction"]["answer"])))
    lines.append(("seconds", "  ".join(f"{step} {seconds:g}" for step, seconds in summary["steps_s"].items())))
    console.print()
    width = max(26, *(len(name) + 1 for name, _ in lines))
    for name, value in lines:
        console.print(f"{name:{width}}{value}", highlight=False, markup=False, soft_wrap=True)


def _row(row: Mapping[str, Any]) -> str:
    return "  ".join(
        f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
    )


def _approval(value: Mapping[str, Any]) -> str:
    assents = value.get("assents", ())  # a result that was kept from before there were several
    conditions = "".join(f"; on condition: {one['condition']}" for one in assents if one["condition"])
    if value["state"] != "approved":
        others = f", beside {', '.join(one['name'] for one in assents)}," if assents else ""
        return f"{value['state']}: somebody other than {value['author']}{others} has to approve it{conditions}"
    who = ", ".join(one["name"] for one in assents) or value["decided_by"]
    return f"by {who}, author {value['author']} ({value['reason'] or 'no reason given'}){conditions}"


def _is_estimate(value: Any) -> bool:
    return isinstance(value, Mapping) and "low" in value


def _estimate(value: Mapping[str, Any]) -> str:
    if value["low"] is None:
        return f"{value['value']:.4f}"
    return f"{value['value']:.4f}  (95 % interval {value['low']:.4f} to {value['high']:.4f})"
