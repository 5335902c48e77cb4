"""Materialize: the newest feature values as of a moment into the online store, and prove that they arrived."""

from dataclasses import dataclass
from datetime import datetime

import polars as pl

from mlops_ray.artifacts import read_parquet
from mlops_ray.config import Settings
from mlops_ray.errors import UnavailableError
from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.definitions import Definitions
from mlops_ray.features.store import OnlineReader, Store, View
from mlops_ray.features.transform import FeatureRows

_BATCH_ROWS = 2000


@dataclass(frozen=True)
class Materialized:
    """How many keys of each view have a value online at `as_of`."""

    as_of: datetime
    keys: dict[str, int]


def materialize(settings: Settings, service: str, rows: list[FeatureRows], as_of: datetime) -> Materialized:
    """Materialize every view of the service and read every key back.

    Raises UnavailableError naming the view if a key that has a value as of `as_of` is not found online: some of
    Feast's engines write nothing and report success.
    """
    store = Store(settings, service)
    expected = {view.name: _newest(view, rows, as_of) for view in store.views()}
    for view in store.views():
        if expected[view.name].height:
            store.materialize(view, as_of)
    reader = store.online_reader()
    return Materialized(
        as_of, {view.name: _read_back(reader, view, expected[view.name], as_of) for view in store.views()}
    )


def verify(settings: Settings, definitions: Definitions, rows: list[FeatureRows], as_of: datetime) -> str | None:
    """What of `materialize` is missing online, in a sentence; None if every key has its newest value."""
    store = Store(settings, definitions.service)
    try:
        views = store.views()
        reader = store.online_reader()
        for view in views:
            _read_back(reader, view, _newest(view, rows, as_of), as_of)
    except Exception as error:  # Feast and each of its stores say in their own ways that something is not there
        return f"the online store or Feast's registry does not have it all: {error}"
    return None


def _newest(view: View, rows: list[FeatureRows], as_of: datetime) -> pl.DataFrame:
    """The last row of each key that counts at `as_of`."""
    urls = {found.view: found.url for found in rows}
    frame = read_parquet(urls[view.name])
    inside = pl.col(PREDICTION_TIME).is_between(as_of - view.ttl, as_of)
    return frame.filter(inside).drop_nulls(view.keys).sort(PREDICTION_TIME).unique(view.keys, keep="last")


def _read_back(reader: OnlineReader, view: View, expected: pl.DataFrame, as_of: datetime) -> int:
    found = 0
    for batch in expected.iter_slices(_BATCH_ROWS):
        answers = reader.read(batch.select(view.keys).to_dicts(), [as_of] * batch.height)
        wanted = batch.select(view.features).to_dicts()
        found += sum(
            all(answer[name] == value for name, value in row.items())
            for answer, row in zip(answers, wanted, strict=True)
        )
    if found != expected.height:
        raise UnavailableError(
            f"Feature view {view.name}: {found} of {expected.height} keys have their newest value online after "
            f"materialization as of {as_of.isoformat()}. Is something else writing to the online store?"
        )
    return found
