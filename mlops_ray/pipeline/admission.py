"""Admission: what a registered version has to pass before it is live: its gates, and the people who must agree."""

import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import ConflictError, ForbiddenError
from mlops_ray.evaluation.gates import GateResult, judge
from mlops_ray.features.training_set import TrainingSet
from mlops_ray.governance.approvals import approve, list_approvals, request
from mlops_ray.governance.champion import set_first_champion
from mlops_ray.governance.control_store import ControlStore, database_now, open_store
from mlops_ray.governance.development_keys import acting, development_approver_key, is_single_user
from mlops_ray.governance.events import SYSTEM, Actor
from mlops_ray.governance.inventory import Declared, declare
from mlops_ray.governance.live import live
from mlops_ray.governance.measurements import expect_may_measure, record_measurement
from mlops_ray.governance.policies import Policy
from mlops_ray.governance.policies import policy_of as stored_policy
from mlops_ray.governance.policy_changes import PolicyChange, approve_change, set_policy, waiting
from mlops_ray.governance.principals import DEVELOPMENT_APPROVER
from mlops_ray.governance.signatures import SIGNED
from mlops_ray.governance.verdicts import Approval
from mlops_ray.governance.versions import RegisteredVersion, VersionRef, record_version
from mlops_ray.pipeline.export_version import origin_of
from mlops_ray.pipeline.measurement import Registered, measure, rules
from mlops_ray.registry.lineage import Lineage
from mlops_ray.registry.model_signature import is_signed
from mlops_ray.registry.models import download_sealed
from mlops_ray.registry.served_packages import FILE as BILL_OF_MATERIALS
from mlops_ray.registry.trace import read_lineage
from mlops_ray.registry.vulnerabilities import gate_findings, scan
from mlops_ray.use_case import Split, UseCase

_logger = logging.getLogger(__name__)
_NOBODY_LOOKED = "a set-up for a single user: nobody has looked at it"


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
    return Policy(
        rule.required,
        rule.role,
        rule.four_eyes,
        rule.expires_after.total_seconds(),
        min_rollout_steps=rule.min_rollout_steps,
        min_rollout_s=_seconds(rule.min_rollout),
        max_error_rate=rule.max_error_rate,
        broken_glass_escalates_after_s=_seconds(rule.broken_glass_escalates_after),
        broken_glass_ends_after_s=_seconds(rule.broken_glass_ends_after),
        signed=rule.signed or None,
        min_approvers=rule.min_approvers if rule.min_approvers > 1 else None,
    )


def _seconds(duration: timedelta | None) -> float | None:
    return None if duration is None else duration.total_seconds()


def declared_by(use_case: UseCase) -> Declared:
    """What the use case says of itself, as the inventory keeps it."""
    return Declared(use_case.owner, use_case.purpose, use_case.tier or "", _seconds(use_case.review_every))


def expect_may_register(actor: Actor, use_case: UseCase) -> None:
    """Raise ForbiddenError unless `actor` may register versions of the use case."""
    if not {"operate", "admin"}.intersection(actor.roles):
        who = "Nobody knows who you are" if actor == SYSTEM else f"{actor.name} does not carry the role 'operate' there"
        raise ForbiddenError(
            f"Registering a version of {use_case.name} needs the role 'operate'. {who}. Set MLOPS_RAY_API_KEY to a key "
            f"that does (in a job: in its runtime environment)."
        )


def author_of(use_case: UseCase, settings: Settings) -> Actor:
    """Who registers versions of the use case from this process, once what it says of itself is in the inventory.

    Raises ForbiddenError if they may not.
    """
    store = open_store(settings)
    author = acting(store, settings, os.environ.get("MLOPS_RAY_API_KEY"), use_case.name)
    expect_may_register(author, use_case)
    declare(store, author, use_case.name, declared_by(use_case))
    return author


def admit(
    use_case: UseCase,
    settings: Settings,
    actor: Actor,
    sealed_folder: Path,
    registered: Registered,
    challenger: bool = False,
    why: str = "the pipeline registered it",
) -> Admission:
    """Judge the gates of a version, record it with `actor` as its author, and make it champion if it is the first.

    Where there is a champion, that stays: another version comes in by a rollout. Where an approval is demanded it is
    asked for, and the version waits; other rules for it, and other gates, are asked for as well, and hold when somebody
    else has approved them. A set-up for a single user has nobody to ask: there a second development principal
    approves, and the approval says so. Doing it again changes nothing, and neither do the champion's bytes under
    another number. challenger: nothing is asked where there is a champion: whoever made the version decides.
    why: goes into the audit log, with what becomes of the version.
    """
    store, name, version = open_store(settings), use_case.name, registered.version.version
    expect_may_register(actor, use_case)
    _declare(use_case, settings, store, actor)
    found = measure(use_case, settings, store, sealed_folder, registered)
    results = judge(use_case.gates, found.measured, datetime.now(UTC))
    payload = {**found.payload, SIGNED: is_signed(settings, sealed_folder)}
    recorded = record_version(store, actor, name, version, found.evidence, results, payload)
    return _stand(use_case, settings, store, actor, recorded, results, why, challenger)


def _declare(use_case: UseCase, settings: Settings, store: ControlStore, actor: Actor) -> None:
    """Let what the use case declares hold, or ask for it; for a single user the second principal approves it."""
    change = set_policy(store, actor, use_case.name, policy_of(use_case), tuple(rules(use_case.gates)))
    if change is not None and not _has_agreed(change) and is_single_user(store, settings):
        approve_change(store, _development_approver(store, settings, use_case.name), change.id, _NOBODY_LOOKED)


def _has_agreed(asked: PolicyChange | Approval) -> bool:
    """Whether a set-up for a single user has no eyes left for it."""
    return any(one.id == DEVELOPMENT_APPROVER for one in asked.assents)


def _development_approver(store: ControlStore, settings: Settings, use_case: str) -> Actor:
    development_approver_key(store, settings)
    with store.reading() as connection:
        role = stored_policy(connection, use_case).role
    return Actor(DEVELOPMENT_APPROVER, (role,), id=DEVELOPMENT_APPROVER)


def measure_again(use_case: UseCase, settings: Settings, actor: Actor, version: int, reason: str) -> Admission:
    """Judge the gates of a registered version again, and go on as `admit` does if it passes now.

    What is measured: latency, vulnerabilities and the comparison with what is champion now, anew; metrics, slices and
    fairness follow from the sealed evaluation, and are what they were. Both results stay in the audit log, and the
    later counts. Raises as `measurements.record_measurement`, and IntegrityError if a record was changed.
    """
    store, name = open_store(settings), use_case.name
    expect_may_measure(store, actor, name, version, rules(use_case.gates), reason)
    lineage = read_lineage(settings, name, version)[1]
    as_made = _as_split(use_case, lineage)
    with tempfile.TemporaryDirectory() as folder:
        sealed = download_sealed(settings, name, VersionRef(version, lineage.digest), Path(folder))
        findings = gate_findings(scan(sealed, settings.advisories), use_case.gates)
        registered = Registered(
            VersionRef(version, lineage.digest),
            lineage.evaluation,
            recorded_training_set(settings, lineage),
            {},
            lineage.files.get(BILL_OF_MATERIALS, ""),
            findings,
            origin_of(store, name, version),
        )
        found = measure(as_made, settings, store, sealed, registered, again=True)
        payload = {**found.payload, SIGNED: is_signed(settings, sealed)}
    results = judge(use_case.gates, found.measured, datetime.now(UTC))
    of = actor, name, version, found.evidence, results, rules(use_case.gates), reason
    recorded = record_measurement(store, *of, payload)
    return _stand(use_case, settings, store, actor, recorded, results, f"measured again: {reason}")


def _stand(
    use_case: UseCase,
    settings: Settings,
    store: ControlStore,
    actor: Actor,
    recorded: RegisteredVersion,
    results: tuple[GateResult, ...],
    why: str,
    challenger: bool = False,
) -> Admission:
    """What becomes of a version with these results. why: goes into the audit log."""
    name, version = use_case.name, recorded.ref
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
    with store.reading() as connection:
        required = stored_policy(connection, name).required
        change = waiting(connection, name, database_now(connection)) if required else None
    other = f". Other rules or gates wait as well: mlops-ray approvals approve-rules {change.id}" if change else ""
    approval = _approval(settings, store, actor, recorded, why) if use_case.approval or required else None
    if required and approval is not None and approval.state != "approved":
        step = f"mlops-ray approvals approve {name} {version.version}{other}"
        return Admission(results, approval, False, f"Version {version.version} waits for an approval: {step}")
    try:
        champion = set_first_champion(store, actor, name, version, why).champion
    except ForbiddenError as error:
        if change is None:
            raise
        return Admission(results, approval, False, f"{error}{other}")
    if champion == version or champion is None:
        return Admission(results, approval, True, f"Version {version.version} is champion{other}.")
    return Admission(results, approval, False, f"{_beside(name, version, champion)}{other}")


def _beside(name: str, version: VersionRef, champion: VersionRef) -> str:
    """How a version stands to the champion that is not it."""
    if champion.digest == version.digest:
        return f"Version {version.version} is the same model as version {champion.version}, which stays champion."
    step = f"mlops-ray rollout start {name} {version.version}"
    return f"Version {version.version} waits beside version {champion.version}, which stays champion: {step}"


def _approval(settings: Settings, store: ControlStore, actor: Actor, version: RegisteredVersion, why: str) -> Approval:
    asked = _asked(store, version)
    if asked is None or asked.state not in ("requested", "approved") or asked.expires_at <= datetime.now(UTC):
        try:
            asked = request(store, actor, version.use_case, version.version, why)
        except ConflictError:  # another process has asked since
            asked = _asked(store, version)
            if asked is None:
                raise
    if asked.state == "requested" and not _has_agreed(asked) and is_single_user(store, settings):
        approver = _development_approver(store, settings, version.use_case)
        asked = approve(store, approver, version.use_case, version.version, _NOBODY_LOOKED)
    return asked


def _asked(store: ControlStore, version: RegisteredVersion) -> Approval | None:
    """The newest request for the version as it is."""
    known, of_it = list_approvals(store, version.use_case), (version.version, version.evidence)
    return next((one for one in known if (one.version, one.evidence) == of_it), None)


def recorded_training_set(settings: Settings, lineage: Lineage) -> TrainingSet:
    """The training set that a version came from, without what only a fit needs to know of it."""
    url = Artifacts(settings.artifacts).url("training_sets", lineage.use_case, f"{lineage.training_set}.parquet")
    as_of = datetime.fromisoformat(lineage.as_of)
    return TrainingSet(
        url, lineage.training_set, lineage.training_rows, as_of, lineage.snapshot, lineage.feature_service, ()
    )


def _as_split(use_case: UseCase, lineage: Lineage) -> UseCase:
    """The use case with the split that the version was made with: its own, or that of its retraining."""
    recorded = lineage.declarations.get("split")
    splits: Sequence[Split] = (use_case.split, *([use_case.retraining.split] if use_case.retraining else []))
    split = next((one for one in splits if str(one) == recorded), None)
    if split is None:
        raise ConflictError(
            f"The version was made with another split of time than {use_case.name} has now ({recorded}). Register the "
            f"model again."
        )
    return replace(use_case, split=split)
