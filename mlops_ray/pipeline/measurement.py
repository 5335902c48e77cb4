"""Measurement: what the gates of a version need to know, and what of it people approve."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mlops_ray.artifacts import Artifacts, digest_json
from mlops_ray.config import Settings
from mlops_ray.errors import DataError
from mlops_ray.evaluation.comparison import Comparison
from mlops_ray.evaluation.fairness import GroupCounts
from mlops_ray.evaluation.gates import Finding, Measured
from mlops_ray.evaluation.slices import SliceEvaluation
from mlops_ray.features.training_set import TrainingSet
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.decisions import KEY as TEST_PERIOD
from mlops_ray.governance.decisions import Period, decisions_on
from mlops_ray.governance.live import live
from mlops_ray.governance.measurements import RULES
from mlops_ray.governance.versions import Evidence, VersionRef
from mlops_ray.pipeline.champion import compare_with_champion
from mlops_ray.pipeline.export_version import COMPARED_WITH, Origin
from mlops_ray.registry.sealed_model import SealedModel, load
from mlops_ray.tasks.evaluation import Evaluation
from mlops_ray.tasks.task import Task
from mlops_ray.use_case import BetterThanChampion, Gate, Latency, NoVulnerability, Plausible, UseCase

_TIMED_ROWS = 200


@dataclass(frozen=True)
class Registered:
    """What the steps before hand over about a version.

    evaluation: as the sealed model holds it. payload: for the event `version.registered`. materials: the digest of the
    bill of materials, and findings of the scan for vulnerabilities; None where none was made. origin: of a version
    that was made in another environment, where its training set may have stayed, what it was there.
    """

    version: VersionRef
    evaluation: Mapping[str, Any]
    training_set: TrainingSet
    payload: Mapping[str, Any]
    materials: str = ""
    findings: Sequence[Finding] | None = None
    origin: Origin | None = None


@dataclass(frozen=True)
class Measurement:
    """measured: for the gates. evidence: the digests of what people judge. payload: of the event that records it, with
    all that the digests are made of and the lineage does not hold."""

    measured: Measured
    evidence: Evidence
    payload: Mapping[str, Any]


def measure(
    use_case: UseCase,
    settings: Settings,
    store: ControlStore,
    sealed_folder: Path,
    registered: Registered,
    again: bool = False,
) -> Measurement:
    """What the gates need, and nothing else: the model is only run if one of them asks for it.

    again: the version's own registration counts as an earlier decision on its test period.
    """
    evaluation, version = registered.evaluation, registered.version
    timed = any(isinstance(gate, Latency) for gate in use_case.gates)
    metrics = {gate.metric for gate in use_case.gates if isinstance(gate, BetterThanChampion | Plausible)}
    champion = live(store, use_case.name).champion if metrics else None
    if champion is not None and champion.digest == version.digest:  # the same model again
        champion = None
    model = load(sealed_folder, version.digest) if timed or champion else None
    uses, payload = _decisions(store, use_case.name, registered, again)
    measured = replace(
        _of_evaluation(use_case.label.task, evaluation),
        uses=uses,
        onnx_max_difference=evaluation.get("onnx_max_difference"),
        latency_ms=_row_latency_ms(model) if model and timed else None,
        findings=registered.findings,
    )
    if model and champion:
        try:
            found = _compared(use_case, settings, model, champion, metrics, registered)
            measured = replace(measured, comparisons=found)
            if lacking := ", ".join(sorted(metrics - found.keys())):
                measured = replace(
                    measured, uncompared=f"Not measured: this version and the champion do not both have {lacking}."
                )
            payload |= {COMPARED_WITH: champion.digest}
        except DataError as error:
            measured = replace(measured, comparisons={}, uncompared=f"Not measured: {error}")
    comparisons = {metric: asdict(found) for metric, found in (measured.comparisons or {}).items()}
    evidence = Evidence(version.digest, digest_json([evaluation, comparisons]), registered.materials)
    payload |= {"comparisons": comparisons, RULES: rules(use_case.gates)}
    return Measurement(measured, evidence, {**registered.payload, **payload})


def _compared(
    use_case: UseCase,
    settings: Settings,
    model: SealedModel,
    champion: VersionRef,
    metrics: set[str],
    registered: Registered,
) -> Mapping[str, Comparison]:
    """Raises DataError, with why, where the two cannot be compared."""
    origin, training_set = registered.origin, registered.training_set
    if origin is None or Artifacts(settings.artifacts).holds(training_set.url):
        return compare_with_champion(use_case, settings, model, champion, metrics, training_set)
    there = msgspec.convert(origin.comparisons, dict[str, Comparison])
    if origin.compared_with == champion.digest and metrics <= there.keys():
        return {metric: there[metric] for metric in metrics}
    was = f"the model {origin.compared_with[:12]}" if origin.compared_with else "none"
    raise DataError(
        f"The rows that version {registered.version.version} was judged on are not here, and where it was made it was "
        f"compared with {was}, not with version {champion.version} ({champion.digest[:12]}), which is champion here. "
        f"Make that model champion there, register the version again, and bring it from there."
    )


def rules(gates: Sequence[Gate]) -> list[str]:
    """The gates as text. Without waivers: each has an end and a reason of its own, and the scan's result names it."""
    return [repr(replace(gate, waivers=()) if isinstance(gate, NoVulnerability) else gate) for gate in gates]


def _of_evaluation(task: Task, evaluation: Mapping[str, Any]) -> Measured:
    slices = evaluation.get("slices") or {}
    judged = (
        SliceEvaluation(one["column"], one["value"], Evaluation.from_json(one["evaluation"], task.metrics))
        for one in slices.get("judged", ())
    )
    return Measured(
        task,
        Evaluation.from_json(evaluation, task.metrics),
        tuple(judged),
        len(slices.get("left_out", ())),
        msgspec.convert(slices.get("counts", ()), tuple[GroupCounts, ...]),
        baselines=msgspec.convert(evaluation.get("baselines", {}), dict[str, Comparison]),
        alone=evaluation.get("alone"),
        importance=evaluation.get("importance", {}).get("features"),
    )


def _decisions(store: ControlStore, use_case: str, registered: Registered, again: bool) -> tuple[int, dict[str, Any]]:
    """How often decisions were made on the version's test period, this one included; and that for the record."""
    period = Period.of(registered.evaluation)
    if period is None:
        return 1, {}
    own = None if again else f"{use_case}@{registered.version.version}"  # judged before a crash, and not decided yet
    uses = 1 + sum(event.subject != own for event in decisions_on(store, use_case, period))
    return uses, {TEST_PERIOD: {**registered.evaluation[TEST_PERIOD], "decision": uses}}


def _row_latency_ms(model: SealedModel) -> float:
    """The median over 200 rows, one at a time, after as many that nobody counts."""
    numbers = np.full((1, len(model.schema.named("number"))), np.nan, np.float32)
    categories = np.full((1, len(model.schema.named("category"))), "", object)
    times = []
    for _ in range(2 * _TIMED_ROWS):
        started = time.perf_counter()
        model.model.answers(numbers, categories)
        times.append(time.perf_counter() - started)
    return float(np.median(times[_TIMED_ROWS:]) * 1000)
