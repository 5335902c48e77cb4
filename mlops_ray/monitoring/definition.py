"""How predictions of a version are watched: as it was sealed, or as somebody has set it for its use case since."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from mlops_ray.errors import ConfigurationError, IntegrityError, UseCaseError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor
from mlops_ray.governance.live import VersionRef, live
from mlops_ray.governance.monitoring_changes import set_definition
from mlops_ray.governance.monitoring_definitions import MonitoringRevision
from mlops_ray.governance.policy_changes import PolicyChange
from mlops_ray.monitoring.build_reference import Wanted, chosen_detectors
from mlops_ray.monitoring.detector_contract import accepted_detector
from mlops_ray.monitoring.own_detectors import detector_named
from mlops_ray.monitoring.reference import Reference
from mlops_ray.monitoring.reference_rows import MOST_VALUES, ReferenceRows
from mlops_ray.monitoring.sealed_reference import SealedReference, read_reference
from mlops_ray.monitoring.sketches import CategoricalSketch
from mlops_ray.monitoring.version_watch import Watched
from mlops_ray.use_case import Monitoring, UseCase, WindowSpec

_LABEL_TIMES = ("labels_count_for", "labels_complete_after")


class Registry(Protocol):
    """What is needed of the model registry; `registry.model_registry.Registry` has it."""

    def find(self, name: str, version: int) -> VersionRef: ...

    def fetch(self, name: str, version: VersionRef, folder: Path) -> Path: ...


def find_sealed(registry: Registry, use_case: str, version: str) -> SealedReference | str:
    """What a version was sealed with, or in words why it cannot be watched.

    Raises UnavailableError if the registry is down.
    """
    if not version.isdigit():
        return f"Version {version!r} is no number of the registry."
    try:
        with tempfile.TemporaryDirectory(prefix="mlops-ray-reference-") as folder:
            ref = registry.find(use_case, int(version))
            found = read_reference(registry.fetch(use_case, ref, Path(folder)), ref.digest)
        if found is not None:
            _expect_detectors(found.reference)
    except (ConfigurationError, IntegrityError, UseCaseError) as error:
        return str(error)
    return found or f"Version {version} was sealed without a reference. Train it again to watch it."


def _expect_detectors(reference: Reference) -> None:
    """Raise UseCaseError for a user's own that is not installed here."""
    learned = (one for part in reference.windows.values() for one in (*part.features, *part.prediction))
    for name in {normal.detector for one in learned for normal in one.normals}:
        if ":" in name:
            detector_named(name)


def watched_by(sealed: SealedReference, version: str, revision: MonitoringRevision | None) -> Watched:
    """What a version is judged by under a revision of its use case's monitoring; None for what it was sealed with.

    Raises ConfigurationError with what is missing where its reference cannot be made of what was sealed.
    """
    number = 0 if revision is None else revision.revision
    if revision is None or revision.definition is None:
        return Watched(version, sealed.reference, sealed.importance, number)
    wanted = Monitoring.from_json(revision.definition)
    try:
        return Watched(version, defined_reference(sealed, wanted), sealed.importance, number)
    except (ConfigurationError, UseCaseError) as error:
        raise ConfigurationError(f"Version {version} cannot be watched so: {error}") from error


def set_monitoring(
    store: ControlStore,
    registry: Registry,
    actor: Actor,
    use_case: str,
    wanted: Monitoring | None,
    reason: str,
    seen: int | None = None,
) -> MonitoringRevision | PolicyChange:
    """Let a use case be watched so from now on, None for what each model was sealed with, if the versions that take
    traffic can be; or ask for it. See `set_definition`; raises ConfigurationError with what is missing."""
    definition = None if wanted is None else wanted.to_json()
    for version in versions_with_traffic(store, use_case) or ():
        sealed = find_sealed(registry, use_case, version)
        if wanted is not None and isinstance(sealed, SealedReference):
            try:
                defined_reference(sealed, wanted)
            except (ConfigurationError, UseCaseError) as error:
                raise ConfigurationError(f"Version {version} cannot be watched so: {error}") from error
    return set_definition(store, actor, use_case, definition, reason, seen)


def versions_with_traffic(store: ControlStore, use_case: str) -> list[str] | None:
    """The champion, and the version of a rollout; None where nothing is live."""
    state = live(store, use_case)
    if state.champion is None:
        return None
    return [str(ref.version) for ref in (state.champion, state.rollout and state.rollout.version) if ref]


def defined_reference(sealed: SealedReference, wanted: Monitoring) -> Reference:
    """The reference for what is wanted, of the rows that were sealed; the sealed one where that is wanted.

    Slices that are not named are those of the model. Raises ConfigurationError with what is missing.
    """
    own = sealed.monitoring
    slices = wanted.slices if wanted.slices is not None else own.slices or () if own else ()
    wanted = replace(wanted, slices=slices)
    if own is not None and _without_label_times(own) == _without_label_times(wanted):
        return sealed.reference
    if sealed.rows is None:
        raise ConfigurationError(
            f"no rows were sealed with it that another reference could be made of (by releases before this one, and "
            f"with more than {MOST_VALUES:,} values). Train it again, with this monitoring in its use case."
        )
    rows = ReferenceRows.from_bytes(sealed.rows, sealed.reference.task)
    if wanted.domain_classifier:
        raise ConfigurationError(
            "domain_classifier compares rows by their values, and of those a sample alone is sealed. Set it to false, "
            "or declare it in the use case and train again."
        )
    lacking = [name for name in slices if name not in rows.slices]
    if lacking:
        raise ConfigurationError(
            f"slices by {', '.join(lacking)} need that column among the sealed rows, which have "
            f"{', '.join(rows.slices) or 'none'}. Name one of those, or train again with it."
        )
    lacking = [name for name in wanted.seasonal if name not in sealed.reference.inputs]
    if lacking:
        raise ConfigurationError(
            f"seasonal names {', '.join(lacking)}, which is no feature that is watched. It watches "
            f"{', '.join(sorted(sealed.reference.inputs))}."
        )
    if problem := segments_problem(wanted, sealed.reference):
        raise ConfigurationError(problem)
    detectors = chosen_detectors(*map(accepted_detector, (wanted.number_detector, wanted.category_detector)))
    return rows.reference(
        sealed.reference,
        Wanted(
            wanted.windows, slices, detectors, wanted.seasonal, wanted.false_alarm_days, wanted.error_detectors,
            wanted.segments,
        ),
    )  # fmt: skip


def segments_problem(wanted: Monitoring, reference: Reference) -> str | None:
    """Why the segments that are wanted cannot be of what a reference has; None if they can."""
    inputs, personal = reference.inputs, reference.rates_only
    texts = {name for name, sketch in inputs.items() if isinstance(sketch, CategoricalSketch)} - personal
    if unknown := [name for name in wanted.segments if name not in texts]:
        return (
            f"segments by {', '.join(unknown)} need a category that is watched by its values, which are "
            f"{', '.join(sorted(texts)) or 'none'}."
        )
    if unknown := sorted({one for names in wanted.segments.values() for one in names} - (inputs.keys() - personal)):
        return (
            f"segments name {', '.join(unknown)}, which is no feature that is watched by its values. It watches "
            f"{', '.join(sorted(inputs.keys() - personal))}."
        )
    return None


def as_watched(use_case: UseCase, revision: MonitoringRevision | None) -> UseCase:
    """The use case with what was set beside its models in place of what it declares. Raises UseCaseError if it cannot
    be watched so."""
    if revision is None or revision.definition is None:
        return use_case
    return replace(use_case, monitoring=Monitoring.from_json(revision.definition))


def in_force(revision: MonitoringRevision | None, sealed: Mapping[str, SealedReference | str]) -> Monitoring:
    """What was set; else what the champion, which is first of `sealed`, was sealed with; else what is by default."""
    if revision is not None and revision.definition is not None:
        return Monitoring.from_json(revision.definition)
    found = next(iter(sealed.values()), None)
    return found.monitoring or Monitoring() if isinstance(found, SealedReference) else Monitoring()


def described(revision: MonitoringRevision | None, sealed: Mapping[str, SealedReference | str]) -> Iterator[str]:
    """How predictions are watched, in words, a line each, and what judges each version in `sealed`."""
    if revision is None:
        yield "Nobody has set it: each version is watched as it was sealed."
    else:
        what = "each version is watched as it was sealed" if revision.definition is None else "set beside the models"
        when = f"{revision.changed_at:%Y-%m-%d %H:%M} UTC"
        yield f"Revision {revision.revision} by {revision.changed_by} at {when}: {what}. {revision.reason}"
    for name, value in in_force(revision, sealed).to_json().items():
        yield f"  {name}: {_shown(name, value)}"
    for version, found in sealed.items():
        yield f"Version {version}: {_judged_by(version, found, revision)}"


def _judged_by(version: str, found: SealedReference | str, revision: MonitoringRevision | None) -> str:
    if isinstance(found, str):
        return f"not watched. {found}"
    try:
        number = watched_by(found, version, revision).revision
    except ConfigurationError as error:
        return f"as it was sealed. {error}"
    return f"revision {number}." if number else "as it was sealed."


def history_lines(revisions: Sequence[MonitoringRevision]) -> Iterator[str]:
    """Who set it when and why, and what each changed, two lines a revision."""
    if not revisions:
        yield "Nobody has set it: each version is watched as it was sealed."
    before: Mapping[str, Any] = {}
    for one in revisions:
        yield f"{one.revision}  {one.changed_at:%Y-%m-%d %H:%M}  {one.changed_by}  {one.digest[:12]}  {one.reason}"
        now = one.definition or {}
        changed = [f"{name} {_shown(name, value)}" for name, value in now.items() if before.get(name, ...) != value]
        yield f"   {'; '.join(changed) or 'as each model was sealed'}"
        before = now


def _shown(name: str, value: Any) -> str:
    if name == "windows":
        return ", ".join(WindowSpec.from_json(one).name for one in value)
    if name.endswith("_s") and isinstance(value, int | float):
        return f"{value / 86_400:g} days"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "as by default" if value is None else str(value or "none")


def _without_label_times(monitoring: Monitoring) -> dict[str, Any]:
    return {name: value for name, value in vars(monitoring).items() if name not in _LABEL_TIMES}
