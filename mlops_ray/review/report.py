"""The report on a change: what was checked, and the version that it makes beside the one that is live."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import DataError
from mlops_ray.evaluation.comparison import Comparison, verdict
from mlops_ray.exploration.compare import compare
from mlops_ray.exploration.kept import kept_profiles
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.live import live
from mlops_ray.governance.versions import VersionRef
from mlops_ray.pipeline.admission import recorded_training_set
from mlops_ray.pipeline.champion import compare_with_champion
from mlops_ray.registry.lineage import Lineage
from mlops_ray.registry.models import download_sealed
from mlops_ray.registry.sealed_model import SealedModel, load
from mlops_ray.registry.trace import read_lineage
from mlops_ray.review.runs import Ran
from mlops_ray.standards.check import Checked
from mlops_ray.use_case import UseCase

Values = Mapping[str, Any]


@dataclass(frozen=True)
class MetricRow:
    """this, live: an estimate as JSON (`value`, `low`, `high`); None where it was not measured. paired: on the rows
    that are new to both; said: its verdict in a word."""

    name: str
    this: Values | None
    live: Values | None
    paired: Comparison | None
    said: str


@dataclass(frozen=True)
class Beside:
    """A version beside the live one. live: None where nothing else is live. same: it is the same model.

    slices: (column, value, this, live) of the metric of the use case. data: what has changed in the data, in sentences.
    why_not: why the two could not be compared on the same rows.
    """

    version: int
    live: int | None
    same: bool
    metric: str
    metrics: tuple[MetricRow, ...]
    slices: tuple[tuple[str, str, Values, Values | None], ...]
    data: tuple[str, ...]
    why_not: str


@dataclass(frozen=True)
class UseCaseReport:
    """summary: of `mlops-ray run`, empty where it did not get to its end. base: the run of the revision before."""

    name: str
    ran: Ran
    summary: Values
    beside: Beside | None
    base: Values | None


@dataclass(frozen=True)
class Report:
    """tests: None where there are none. use_cases: none where no pipeline was run, and `not_run` says why."""

    checked: Checked
    tests: Ran | None
    use_cases: tuple[UseCaseReport, ...]
    not_run: str

    @property
    def ok(self) -> bool:
        """Whether nothing that was looked at stands in the way."""
        gates = [gate for one in self.use_cases for gate in one.summary.get("gates", ())]
        failed = any(gate["blocks"] and not gate["passed"] for gate in gates)
        ran = all(one.ran.ok for one in self.use_cases)
        return not self.checked.errors and (self.tests is None or self.tests.ok) and ran and not failed


def beside_live(use_case: UseCase, settings: Settings, version: int) -> Beside:
    """Hold a version beside what is live in the same environment."""
    lineage = read_lineage(settings, use_case.name, version)[1]
    store = open_store(settings)
    try:
        champion = live(store, use_case.name).champion
    finally:
        store.close()
    if champion is None or champion.version == version or champion.digest == lineage.digest:
        same = champion is not None and champion.version != version
        rows = _rows(use_case, lineage, None, {})
        return Beside(version, None, same, use_case.metric, rows, _slices(use_case, lineage, None), (), "")
    other = read_lineage(settings, use_case.name, champion.version)[1]
    paired, why_not = _paired(use_case, settings, VersionRef(version, lineage.digest), champion, lineage, other)
    return Beside(
        version,
        champion.version,
        False,
        use_case.metric,
        _rows(use_case, lineage, other, paired),
        _slices(use_case, lineage, other),
        _drift(settings, use_case.name, other.snapshot, lineage.snapshot),
        why_not,
    )


def _paired(
    use_case: UseCase, settings: Settings, version: VersionRef, champion: VersionRef, this: Lineage, other: Lineage
) -> tuple[Mapping[str, Comparison], str]:
    """On the rows of this version; or, where these lack a feature of the live one, as after a change that takes it
    away, on those of the live one, if they have all that this version asks for."""
    metrics = {name for name in use_case.label.task.metrics if _is_estimate(this.evaluation.get(name))}
    model, theirs = (_loaded(settings, use_case.name, one) for one in (version, champion))
    ours_in_theirs = {one.name for one in model.schema.features} <= {one.name for one in theirs.schema.features}
    same = ("label", "split", "event time", "lead time")
    is_asked_alike = all(this.declarations.get(name) == other.declarations.get(name) for name in same)
    why_not = ""
    for lineage in (this, *([other] if ours_in_theirs and is_asked_alike else [])):
        training_set = recorded_training_set(settings, lineage)
        if not Artifacts(settings.artifacts).holds(training_set.url):
            continue
        try:
            return compare_with_champion(use_case, settings, model, champion, metrics, training_set), ""
        except DataError as error:
            why_not = why_not or str(error)
    return {}, why_not


def _loaded(settings: Settings, name: str, version: VersionRef) -> SealedModel:
    with tempfile.TemporaryDirectory() as folder:
        return load(download_sealed(settings, name, version, Path(folder)), version.digest)


def _rows(
    use_case: UseCase, this: Lineage, other: Lineage | None, paired: Mapping[str, Comparison]
) -> tuple[MetricRow, ...]:
    rows = []
    for name in use_case.label.task.metrics:
        ours, theirs = (one.evaluation.get(name) if one else None for one in (this, other))
        if _is_estimate(ours):
            found = paired.get(name)
            said = verdict(found.difference) if found else ""
            rows.append(MetricRow(name, ours, theirs if _is_estimate(theirs) else None, found, said))
    return tuple(rows)


def _slices(
    use_case: UseCase, this: Lineage, other: Lineage | None
) -> tuple[tuple[str, str, Values, Values | None], ...]:
    """Without those of a personal column: a report is read by more people than the data is."""
    columns = [column for source in use_case.sources.values() for column in source.columns]
    personal = {column.name for column in columns if column.personal is not None}
    ours, theirs = _judged(use_case.metric, this), _judged(use_case.metric, other) if other else {}
    return tuple((*key, value, theirs.get(key)) for key, value in ours.items() if key[0] not in personal)


def _judged(metric: str, lineage: Lineage) -> dict[tuple[str, str], Values]:
    judged = (lineage.evaluation.get("slices") or {}).get("judged", ())
    found = {(one["column"], one["value"]): one["evaluation"].get(metric) for one in judged}
    return {key: value for key, value in found.items() if _is_estimate(value)}


def _drift(settings: Settings, use_case: str, was: str, now: str) -> tuple[str, ...]:
    if was == now:
        return ()
    artifacts = Artifacts(settings.artifacts)
    before, after = (kept_profiles(artifacts, use_case, digest) or {} for digest in (was, now))
    return tuple(
        f"{name}: {sentence}"
        for name in after
        if name in before
        for sentence in compare(before[name], after[name]).sentences()
    )


def _is_estimate(value: Any) -> bool:
    return isinstance(value, Mapping) and "value" in value
