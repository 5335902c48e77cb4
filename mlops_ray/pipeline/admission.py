"""Admission: what a registered version has to pass before it is live: its gates, and the people who must agree."""

import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mlops_ray.artifacts import digest_json, read_parquet
from mlops_ray.config import Settings
from mlops_ray.evaluation.comparison import Comparison, RankingMetric, compare
from mlops_ray.evaluation.gates import Finding, GateResult, Measured, judge
from mlops_ray.evaluation.metrics import Evaluation
from mlops_ray.evaluation.slices import SliceEvaluation
from mlops_ray.features.columns import LABEL, PREDICTION_TIME
from mlops_ray.features.training_set import TrainingSet, split_by_time
from mlops_ray.governance.approvals import (
    Approval,
    Policy,
    approve,
    list_approvals,
    request,
    set_policy,
)
from mlops_ray.governance.champion import set_first_champion
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.events import Actor
from mlops_ray.governance.live import live
from mlops_ray.governance.principals import DEVELOPMENT_APPROVER, development_approver_key, is_single_user
from mlops_ray.governance.versions import Evidence, RegisteredVersion, VersionRef, record_version
from mlops_ray.registry.models import download_sealed
from mlops_ray.registry.sealed_model import SealedModel, load, model_inputs
from mlops_ray.use_case import BetterThanChampion, Latency, UseCase

_TIMED_ROWS = 200

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Registered:
    """What the steps before hand over about a version.

    evaluation: as the sealed model holds it. payload: for the event `version.registered`. materials: the digest of the
    bill of materials, and findings of the scan for vulnerabilities; None where none was made.
    """

    version: VersionRef
    evaluation: Mapping[str, Any]
    training_set: TrainingSet
    payload: Mapping[str, Any]
    materials: str = ""
    findings: Sequence[Finding] | None = None


@dataclass(frozen=True)
class Admission:
    """What became of the version. approval: None where nobody has to agree. champion: it is live now.

    standing: the same in a sentence, with the next step.
    """

    gates: tuple[GateResult, ...]
    approval: Approval | None
    champion: bool
    standing: str

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


def policy_of(use_case: UseCase) -> Policy | None:
    """What the use case demands of approvals, as the control store keeps it."""
    rule = use_case.approval
    if rule is None:
        return None
    return Policy(rule.required, rule.role, rule.four_eyes, rule.expires_after.total_seconds())


def admit(
    use_case: UseCase,
    settings: Settings,
    actor: Actor,
    sealed_folder: Path,
    registered: Registered,
    challenger: bool = False,
) -> Admission:
    """Judge the gates of a version, record it with `actor` as its author, and make it champion if it is the first.

    Where there is a champion, that stays: another version comes in by a rollout. Where an approval is demanded it is
    asked for, and the version waits. A set-up for a single user has nobody to ask: there a second development
    principal approves, and the approval says so. Doing it again changes nothing, and neither do the champion's bytes
    under another number. challenger: nothing is asked where there is a champion: whoever made the version decides.
    """
    store, name = open_store(settings), use_case.name
    now, version = datetime.now(UTC), registered.version
    set_policy(store, actor, name, policy_of(use_case))
    measured = _measured(use_case, settings, store, sealed_folder, registered)
    results = judge(use_case.gates, measured, now)
    comparisons = {metric: asdict(found) for metric, found in (measured.comparisons or {}).items()}
    evidence = Evidence(version.digest, digest_json([registered.evaluation, comparisons]), registered.materials)
    recorded = record_version(store, actor, name, version.version, evidence, results, registered.payload)
    for result in results:
        _logger.log(logging.INFO if result.passed else logging.WARNING, "Gate %s: %s", result.name, result.sentence)
    champion = live(store, name).champion
    if recorded.failed_gates:
        failed = ", ".join(recorded.failed_gates)
        return Admission(results, None, False, f"Version {version.version} did not pass {failed} and does not go live.")
    if (
        champion is not None
        and champion.version != version.version
        and (challenger or champion.digest == version.digest)
    ):
        return Admission(results, None, False, _beside(name, version, champion))
    approval = _approval(use_case, settings, store, actor, recorded) if use_case.approval else None
    if approval is not None and approval.state != "approved" and use_case.approval and use_case.approval.required:
        step = f"mlops-ray approvals approve {name} {version.version}"
        return Admission(results, approval, False, f"Version {version.version} waits for an approval: {step}")
    champion = set_first_champion(store, actor, name, version, "the pipeline registered it").champion
    if champion == version or champion is None:
        return Admission(results, approval, True, f"Version {version.version} is champion.")
    return Admission(results, approval, False, _beside(name, version, champion))


def _beside(name: str, version: VersionRef, champion: VersionRef) -> str:
    """How a version stands to the champion that is not it."""
    if champion.digest == version.digest:
        return f"Version {version.version} is the same model as version {champion.version}, which stays champion."
    step = f"mlops-ray rollout start {name} {version.version}"
    return f"Version {version.version} waits beside version {champion.version}, which stays champion: {step}"


def _approval(
    use_case: UseCase, settings: Settings, store: ControlStore, actor: Actor, version: RegisteredVersion
) -> Approval:
    asked = next((a for a in list_approvals(store, use_case.name) if a.evidence == version.evidence), None)
    if asked is None or asked.state not in ("requested", "approved") or asked.expires_at <= datetime.now(UTC):
        asked = request(store, actor, use_case.name, version.version, "the pipeline registered it")
    if asked.state == "requested" and is_single_user(store, settings):
        development_approver_key(store, settings)
        rule = use_case.approval
        approver = Actor(DEVELOPMENT_APPROVER, (rule.role if rule else "approve",))
        reason = "a set-up for a single user: nobody has looked at it"
        asked = approve(store, approver, use_case.name, version.version, reason)
    return asked


def _measured(
    use_case: UseCase, settings: Settings, store: ControlStore, sealed_folder: Path, registered: Registered
) -> Measured:
    """What the gates need, and nothing else: the model is only run if one of them asks for it."""
    evaluation, digest = registered.evaluation, registered.version.digest
    slices = evaluation.get("slices") or {"judged": []}
    timed = any(isinstance(gate, Latency) for gate in use_case.gates)
    metrics = {gate.metric for gate in use_case.gates if isinstance(gate, BetterThanChampion)}
    champion = live(store, use_case.name).champion if metrics else None
    if champion is not None and champion.digest == digest:  # the same model again
        champion = None
    model = load(sealed_folder, digest) if timed or champion else None
    return Measured(
        msgspec.convert(evaluation, Evaluation),
        msgspec.convert(slices["judged"], tuple[SliceEvaluation, ...]),
        compare_with_champion(use_case, settings, model, champion, metrics, registered.training_set)
        if model and champion
        else None,
        evaluation.get("onnx_max_difference"),
        _row_latency_ms(model) if model and timed else None,
        registered.findings,
    )


def compare_with_champion(
    use_case: UseCase,
    settings: Settings,
    model: SealedModel,
    champion: VersionRef,
    metrics: set[RankingMetric],
    training_set: TrainingSet,
) -> dict[str, Comparison]:
    """On the rows of the test period, for each metric; none where the champion cannot be asked about them."""
    with tempfile.TemporaryDirectory() as folder:
        other = load(download_sealed(settings, use_case.name, champion, Path(folder)), champion.digest)
    test = split_by_time(read_parquet(training_set.url), training_set.as_of, use_case.split).test
    lacking = [feature.name for feature in other.schema.features if feature.name not in test.columns]
    if lacking:
        _logger.warning("The champion cannot be asked: the training set no longer has %s", ", ".join(lacking))
        return {}
    ours, theirs = (
        one.model.probability(*model_inputs(test, one.schema.features)).astype(np.float64) for one in (model, other)
    )
    rows = test[LABEL].to_numpy(), ours, theirs, test[PREDICTION_TIME].to_numpy()
    return {metric: compare(*rows, metric, use_case.search.seed) for metric in sorted(metrics)}


def _row_latency_ms(model: SealedModel) -> float:
    """The median over 200 rows, one at a time, after as many that nobody counts."""
    numbers = np.full((1, len(model.schema.named("number"))), np.nan, np.float32)
    categories = np.full((1, len(model.schema.named("category"))), "", object)
    times = []
    for _ in range(2 * _TIMED_ROWS):
        started = time.perf_counter()
        model.model.probability(numbers, categories)
        times.append(time.perf_counter() - started)
    return float(np.median(times[_TIMED_ROWS:]) * 1000)
