"""A prediction: found in the ledger by its request's id, with the version that made it, what that was asked with, what
turned out to be true, and, computed when somebody asks, its reasons.

What tells of a person is not shown: the schema of the version's sealed model says which features that are.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from starlette.requests import Request
from starlette.responses import Response

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.console.page import Viewer, in_thread, page
from mlops_ray.console.server import Server
from mlops_ray.errors import MlopsRayError
from mlops_ray.governance.versions import VersionRef
from mlops_ray.predictions.answers import layout_of
from mlops_ray.predictions.labels import Labels
from mlops_ray.predictions.reader import Ledger
from mlops_ray.predictions.segments import FEATURE, KEY

if TYPE_CHECKING:
    from mlops_ray.registry.sealed_model import SealedModel

_MAX_ID, MAX_ROWS, MODELS_KEPT = 200, 20, 4
EXPLAINED, CONTRIBUTIONS = 3, 40  # rows, each of which takes hundreds of answers; and features of one
CLOSE = 1e-5  # of an answer computed again, as sealing demands it


@dataclass(frozen=True)
class Behind:
    """Rows of a request. asked, features: of each row, what the caller sent and what the model was given, by name.
    hidden: how many of them tell of a person. labels: as they came, the last counts. reasons: see `reasons`. trouble: a
    sentence on what of this could not be had."""

    asked: list[dict[str, Any]] = field(default_factory=list)
    features: list[dict[str, Any]] = field(default_factory=list)
    hidden: int = 0
    left_out: int = 0
    labels: list[dict[str, Any]] = field(default_factory=list)
    reasons: list[dict[str, Any]] = field(default_factory=list)
    trouble: str = ""


class PredictionPages:
    """server: which looks for it where the viewer has a role, and nowhere else."""

    def __init__(self, settings: Settings, server: Server, threads: ThreadPoolExecutor):
        self._settings, self._server, self._threads = settings, server, threads
        self._sealed = lru_cache(MODELS_KEPT)(self._load)

    async def show(self, request: Request, viewer: Viewer) -> Response:
        asked = request.query_params.get("request", "").strip()[:_MAX_ID]
        if not asked:
            return page("prediction", viewer, asked="", found=None, error="")
        if "-" not in asked:  # what names no request would be looked up as a use case
            return page("prediction", viewer, 400, asked=asked, found=None, error=f"{asked!a} is no request's id.")
        answer = await self._server.ask(viewer.principal, "POST", "/versions/lineage", {"of": asked})
        if answer.status != 200 or not answer.body["prediction"]:
            return page("prediction", viewer, answer.status, asked=asked, found=None, error=answer.error)
        why = "reasons" in request.query_params
        behind = await in_thread(self._threads, partial(self._behind, answer.body, asked, why))
        return page("prediction", viewer, asked=asked, found=answer.body, error="", behind=behind, why=why)

    def _behind(self, found: Mapping[str, Any], asked: str, why: bool) -> Behind:
        rows = Ledger(self._settings, found["use_case"]).find(asked)
        said = found["prediction"]
        rows = rows.filter(pl.col("time") == pl.lit(said["time"]).str.to_datetime(time_unit="us", time_zone="UTC"))
        rows = rows.filter(pl.col("version") == said["version"], pl.col("route") != "shadow").sort("row")
        labels = Labels(Artifacts(self._settings.artifacts), found["use_case"]).of(rows).sort("row", "received_at")
        known = Behind(labels=labels.tail(MAX_ROWS).to_dicts(), left_out=max(0, rows.height - MAX_ROWS))
        rows = rows.head(MAX_ROWS)
        try:
            sealed = self._sealed(found["use_case"], found["version"], found["lineage"]["digest"])
        except (MlopsRayError, OSError) as error:
            return replace(known, trouble=f"The version's sealed model cannot be read ({type(error).__name__}).")
        schema = sealed.schema
        personal = {column.name for column in schema.request_columns if column.personal} | schema.personal_features()
        shown = [
            [
                {name.removeprefix(kind): value for name, value in row.items() if name.startswith(kind)}
                for row in rows.to_dicts()
            ]
            for kind in (KEY, FEATURE)
        ]
        hidden = len({name for one in shown for row in one for name in row} & personal)
        asked_with, features = (_without(part, personal) for part in shown)
        if all(value is None for row in asked_with for value in row.values()):
            asked_with = []  # it was asked by features
        known = replace(known, hidden=hidden, asked=asked_with, features=features)
        if not why:
            return known
        try:
            return replace(known, reasons=reasons_again(sealed, rows.head(EXPLAINED), personal))
        except MlopsRayError as error:
            return replace(known, trouble=str(error))

    def _load(self, use_case: str, version: int, digest: str) -> "SealedModel":
        # Imported where it is needed: it takes ONNX's runtime, and few ever ask.
        from mlops_ray.registry.models import download_sealed
        from mlops_ray.registry.sealed_model import load

        with TemporaryDirectory() as folder:
            return load(download_sealed(self._settings, use_case, VersionRef(version, digest), Path(folder)), digest)


def reasons_again(sealed: "SealedModel", rows: pl.DataFrame, personal: set[str]) -> list[dict[str, Any]]:
    """Reasons of rows of the ledger, which has only those that callers asked for, computed now by the model that
    answered; of each whether that gives the answer again that is recorded. What features of persons contributed is one
    sum.

    Raises ConfigurationError where no rows were sealed with the model, DataError where the ledger left an input out.
    """
    from mlops_ray.errors import DataError
    from mlops_ray.registry.reasons import reasons
    from mlops_ray.registry.sealed_model import model_inputs

    names = {f"{FEATURE}{one.name}": one.name for one in sealed.schema.features}
    if left := [name for column, name in names.items() if column not in rows.columns or name in _hashed(sealed)]:
        raise DataError(
            f"The reasons cannot be computed: {len(left)} of the {len(names)} features tell of a person, and the "
            f"ledger does not have them as the model was given them."
        )
    inputs = model_inputs(rows.rename(names), sealed.schema.features)
    answer = sealed.model.answers(*inputs)
    recorded = np.concatenate(
        [np.array(rows[name].to_list(), float).reshape(rows.height, -1) for name, _ in layout_of(sealed.schema.task)], 1
    )
    same = np.isclose(answer.reshape(rows.height, -1), recorded, atol=CLOSE).all(axis=1)
    return [
        one | {"contributions": _summed(one["contributions"], personal), "same": bool(same[at]), "row": at}
        for at, one in enumerate(reasons(sealed, *inputs, answer))
    ]


def _hashed(sealed: "SealedModel") -> set[str]:
    """Features that repeat a column of persons unchanged: the ledger has their hash."""
    schema = sealed.schema
    columns = ((one.name, schema.column_of(one.name)) for one in schema.features)
    return {name for name, column in columns if column is not None and column.personal is not None}


def _summed(contributions: Mapping[str, float], personal: set[str]) -> dict[str, float]:
    of_persons = [value for name, value in contributions.items() if name in personal]
    shown = {name: value for name, value in contributions.items() if name not in personal}
    shown |= {"features that tell of a person": sum(of_persons)} if of_persons else {}
    rest = list(shown.values())[CONTRIBUTIONS:]
    first = dict(list(shown.items())[:CONTRIBUTIONS])
    return first | ({f"{len(rest):,} other features": sum(rest)} if rest else {})


def _without(rows: list[dict[str, Any]], personal: set[str]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in personal} for row in rows]
