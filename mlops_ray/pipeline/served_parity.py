"""Served parity: a sample of the vectors in the ledger, each computed again as of its moment from rows offline.

`pipeline.parity` proves before a version exists that requests give what training computed. This looks at what was
served since, through online stores, refreshes, pushes and clocks.
"""

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import DataError
from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.definitions import View, expect_definitions
from mlops_ray.features.history import history_of
from mlops_ray.features.online.pushes import all_pushed
from mlops_ray.features.online.store import as_kept
from mlops_ray.features.parity import Example, FeatureParity, ViewParity, compare_view
from mlops_ray.features.point_in_time import History
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.events import SYSTEM, Actor, record
from mlops_ray.governance.versions import VersionRef, list_versions
from mlops_ray.pipeline.parity_at_once import as_served, at_once, on_demand_parity, typed_keys
from mlops_ray.predictions.reader import Ledger
from mlops_ray.predictions.segments import FEATURE, KEY
from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.registry.models import download_sealed
from mlops_ray.registry.sealed_model import verified_files

FAILED = "parity.failed"
SAMPLE_ROWS = 1_000
MAX_EXAMPLES = 10

_logger = logging.getLogger(__name__)


class NothingServedError(DataError):
    """There is no prediction to compute again, which to a schedule is no failure."""


@dataclass(frozen=True)
class ServedParity:
    """rows: that were sampled, of `of`. left_out: features that cannot be computed again, as the ledger does not hold
    in the clear what they are looked up by or computed from. differing: the part of the compared values."""

    use_case: str
    start: datetime
    end: datetime
    rows: int
    of: int
    features: tuple[FeatureParity, ...]
    causes: tuple[str, ...]
    examples: tuple[Example, ...]
    left_out: tuple[str, ...]

    @property
    def compared(self) -> int:
        return sum(one.compared for one in self.features)

    @property
    def differing(self) -> float:
        return sum(one.compared - one.exact for one in self.features) / (self.compared or 1)

    def to_json(self) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(json.dumps(asdict(self), default=_text))
        return shown | {"compared": self.compared, "differing": self.differing}


def served_parity(
    settings: Settings, use_case: str, start: datetime, end: datetime, rows: int = SAMPLE_ROWS
) -> ServedParity:
    """Compare a sample of what callers got in `start <= time < end` for keys.

    The history is that of the last refresh, with what was pushed: values that it does not have yet count as wrong, so
    look at a time before it. Raises DataError if nothing was answered by keys then, IntegrityError if definitions are
    not below the artifact root.
    """
    answered = Ledger(settings, use_case).frame(start, end)
    known = [name for name in answered.columns if name.startswith(KEY)]
    asked = answered.filter(pl.col("route").is_in(("champion", "canary")))
    asked = asked.filter(~pl.all_horizontal(pl.col(known).is_null())) if known else asked.clear()
    if asked.is_empty():
        raise NothingServedError(
            f"No prediction of {use_case} was asked for by keys from {start.isoformat()} to {end.isoformat()}. "
            f"Give another time (--since)."
        )
    sample = asked.sample(min(rows, asked.height), seed=0, shuffle=True)
    store = open_store(settings)
    try:
        digests = {str(one.version): one.evidence.model for one in list_versions(store, use_case)}
    finally:
        store.close()
    parts, left_out = list[ViewParity](), dict[str, None]()
    for (version,), of_version in sample.partition_by("version", as_dict=True).items():
        if version not in digests:
            raise DataError(f"The ledger of {use_case} has answers of version {version}, which was never registered.")
        schema = _schema(settings, use_case, VersionRef(int(version), digests[version]))
        found, out = _compare(settings, schema, of_version)
        parts += found
        left_out |= dict.fromkeys(out)
    examples = sorted((one for part in parts for one in part.examples), key=_by_weight)
    return ServedParity(
        use_case, start, end, sample.height, asked.height,
        _summed([one for part in parts for one in part.features]),
        tuple(dict.fromkeys(part.cause for part in parts if part.cause)),
        tuple(examples[:MAX_EXAMPLES]),
        tuple(left_out),
    )  # fmt: skip


def report_failed(store: ControlStore, found: ServedParity, limit: float, actor: Actor = SYSTEM) -> bool:
    """Record `parity.failed` if a greater part of the compared values differs than the limit; whether that is so."""
    if found.differing <= limit:
        return False
    reason = f"{found.differing:.2%} of {found.compared:,} served feature values differ (limit {limit:.2%})."
    payload = found.to_json()
    worst = [one for one in payload["features"] if one["stale"] or one["missing"] or one["wrong"]]
    with store.transaction() as connection:
        record(
            connection, FAILED, actor, f"parity {found.use_case}", found.use_case,
            payload={"limit": limit, "differing": found.differing, "causes": found.causes, "features": worst},
            reason=" ".join([reason, *found.causes]),
        )  # fmt: skip
    return True


def _schema(settings: Settings, use_case: str, ref: VersionRef) -> ModelSchema:
    with tempfile.TemporaryDirectory(prefix="mlops-ray-model-") as folder:
        sealed = download_sealed(settings, use_case, ref, Path(folder))
        return ModelSchema.from_json(json.loads(verified_files(sealed, ref.digest, ["schema.json"])["schema.json"]))


def _compare(settings: Settings, schema: ModelSchema, sample: pl.DataFrame) -> tuple[list[ViewParity], list[str]]:
    """Of one version: what comes of the request, and each view; and the features that cannot be compared."""
    clear = {column.name: column.dtype for column in schema.request_columns if column.personal is None}
    keys = sample.select(pl.col(f"{KEY}{name}").cast(dtype).alias(name) for name, dtype in clear.items())
    asked = keys.with_columns(sample["as_of"].alias(PREDICTION_TIME))
    served = {
        feature.name: sample[f"{FEATURE}{feature.name}"]
        for feature in schema.features
        if f"{FEATURE}{feature.name}" in sample.columns
    }
    expressions = {name: e for name, e in schema.expressions().items() if set(e.meta.root_names()) <= set(clear)}
    of_request = {name: keys.select(e.alias(name))[name] for name, e in expressions.items()}
    compared, histories = set(of_request), list[History]()
    found = [at_once("Request features", asked, of_request, served, {})] if of_request else []
    if schema.feature_project is not None:
        from mlops_ray.features.store import Store

        applied = Store(settings, schema.feature_project).applied()
        definitions = expect_definitions(Artifacts(settings.artifacts), schema.feature_project)
        for view in definitions.views:
            if set(view.asked) <= set(clear) and applied is not None:
                names = [name for name in view.features if name in served]
                if not names:
                    continue
                values = pl.DataFrame({name: served[name] for name in names})
                whole = _history(settings, schema.feature_project, view, applied.rows[view.name], names)
                history = _as_vectors(schema, whole)
                found.append(compare_view(view.name, history, typed_keys(asked, history), PREDICTION_TIME, values))
                compared |= set(names)
                histories.append(whole)
    if on_demand := on_demand_parity(schema, asked, of_request, histories, served):
        found.append(on_demand)
        compared |= {one.feature for one in on_demand.features}
    return found, [feature.name for feature in schema.features if feature.name not in compared]


def _history(settings: Settings, project: str, view: View, url: str, names: Sequence[str]) -> History:
    """All that the view had, computed and pushed."""
    history = history_of(view, url)
    pushed = all_pushed(Artifacts(settings.artifacts), project, view)
    both = pl.concat([history.rows, pushed.select(history.rows.columns)])
    return replace(history, rows=as_kept(settings.online_store, both), features=tuple(names))


def _as_vectors(schema: ModelSchema, history: History) -> History:
    """With the features as the ledger keeps them."""
    kinds = {feature.name: feature.kind for feature in schema.features}
    kept = [
        as_served(history.rows[name], pl.Float32() if kinds[name] == "number" else pl.String()).alias(name)
        for name in history.features
    ]
    return replace(history, rows=history.rows.with_columns(kept))


def _summed(features: Sequence[FeatureParity]) -> tuple[FeatureParity, ...]:
    """Of all versions, the worst feature first."""
    by_name: dict[tuple[str, str | None], FeatureParity] = {}
    for one in features:
        before = by_name.get((one.feature, one.view), FeatureParity(one.feature, one.view))
        counts = {name: getattr(before, name) + getattr(one, name) for name in ("exact", "stale", "missing", "wrong")}
        by_name[one.feature, one.view] = replace(before, **counts)
    return tuple(sorted(by_name.values(), key=lambda one: (one.exact - one.compared, one.feature)))


def _by_weight(example: Example) -> tuple[int, str]:
    return ("wrong", "missing", "stale").index(example.outcome), example.feature


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
