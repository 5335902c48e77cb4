"""The online store at past moments, made for the purpose from feature rows."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.definitions import Definitions, View
from mlops_ray.features.feast import (
    EntityKey,
    FeatureView,
    RepoConfig,
    SqliteOnlineStore,
    python_values_to_proto_values,
)
from mlops_ray.features.feast_objects import objects_of
from mlops_ray.features.history import history_of
from mlops_ray.features.online.reader import OnlineReader, microseconds
from mlops_ray.features.online.row import OnlineRow
from mlops_ray.features.online.sqlite import SqliteLookup


class OnlineHistory:
    """An online store as it stood at past moments, read as a replica reads it.

    A temporary SQLite store of Feast's. Before a row is read, the newest feature row of its keys that was known at its
    moment is written to it: what materialization up to that moment would have left. It is an independent way to the
    values of a point-in-time join: one looks rows up, the other joins tables.
    """

    def __init__(self, definitions: Definitions, rows: Mapping[str, str], folder: Path, asked: pl.DataFrame):
        """rows: the URL of each view's rows. folder: for the store's file. asked: the entity keys and moments that will
        be asked for; nothing else is known to it."""
        self._config = RepoConfig(
            project="history", provider="local", registry=str(folder / "none.db"),
            online_store={"type": "sqlite", "path": str(folder / "online_history.db")},
            entity_key_serialization_version=3,
        )  # fmt: skip
        found = {view.name: view for view in objects_of(definitions, rows, {}) if isinstance(view, FeatureView)}
        self._used, self._views = definitions.views, [found[view.name] for view in definitions.views]
        self._store = SqliteOnlineStore()
        self._store.update(self._config, [], self._views, [], [], partial=False)
        for pragma in ("synchronous = OFF", "journal_mode = MEMORY"):  # nobody needs it after a crash
            self._store._get_conn(self._config).execute(f"PRAGMA {pragma}")
        lookup = SqliteLookup(lambda: self._store._get_conn(self._config), self._config.project, self._used)
        self._reader = OnlineReader(lookup, self._used)
        self._newest = [
            _newest_rows(view, feast_view, rows[view.name], asked)
            for view, feast_view in zip(self._used, self._views, strict=True)
        ]
        self.waits = False
        self.seconds, self.reads = 0.0, 0
        self.missing, self.stale = dict[str, int](), dict[str, int]()

    def close(self) -> None:
        """See `OnlineReader.close`."""
        self._reader.close()

    def find(self, rows: Sequence[Mapping[str, Any]], moments: Sequence[datetime]) -> list[OnlineRow]:
        """See `OnlineReader.find`."""
        return [self._find(row, moment) for row, moment in zip(rows, moments, strict=True)]

    def _find(self, row: Mapping[str, Any], moment: datetime) -> OnlineRow:
        for view, feast_view, newest in zip(self._used, self._views, self._newest, strict=True):
            known = newest.get((tuple(row.get(name) for name in view.asked), microseconds(moment)))
            if known is not None:
                self._store.online_write_batch(self._config, feast_view, [known], None)
        return self._reader.find([row], [moment])[0]


def _newest_rows(
    view: View, feast_view: FeatureView, url: str, asked: pl.DataFrame
) -> dict[tuple[tuple[Any, ...], int], Any]:
    """For each key and moment (in microseconds) asked for, the newest of the view's rows by then, as Feast writes it.

    Of rows that share key and time the one created last counts, as materialization has it; none that was created later.
    """
    rows, names = history_of(view, url).rows, list(view.keys)
    rows = rows.with_columns(pl.col(key).cast(asked.schema[name]) for key, name in zip(names, view.asked, strict=True))
    keys = asked.select(pl.col(name).alias(key) for key, name in zip(names, view.asked, strict=True))
    order = [PREDICTION_TIME, *([view.created] if view.created else [])]
    rows = rows.join(keys.drop_nulls().unique(), on=names, how="semi").sort(order, maintain_order=True)
    times = rows.select(*names, pl.col(order).dt.epoch("us")).with_row_index("position")
    history = {
        key: (part[PREDICTION_TIME].to_numpy(), part[order[-1]].to_list(), part["position"])
        for key, part in times.partition_by(names, as_dict=True).items()
    }
    found: dict[tuple[tuple[Any, ...], int], int] = {}
    moments_us = asked[PREDICTION_TIME].dt.epoch("us").to_list()
    for key, moment_us in zip(keys.rows(), moments_us, strict=True):
        known_us, created_us, positions = history.get(key, ((), [], ()))
        last = int(np.searchsorted(known_us, moment_us, side="right")) - 1
        while view.created and last >= 0 and created_us[last] > moment_us:
            last -= 1
        if last >= 0:
            found[key, moment_us] = positions[last]
    data = _online_data(view, feast_view, rows[list(found.values())]) if found else []
    return dict(zip(found, data, strict=True))


def _online_data(view: View, feast_view: FeatureView, rows: pl.DataFrame) -> list[Any]:
    """Entity key, values by feature, event timestamp and time of creation of each row, as protobuf messages.

    rows: keys, `event_timestamp` and fields, named and typed as in the definition.
    """
    types = {f.name: f.dtype.to_value_type() for f in [*feast_view.entity_columns, *feast_view.features]}
    columns = {name: python_values_to_proto_values(rows[name].to_list(), type_) for name, type_ in types.items()}
    found = zip(*(columns[key] for key in view.keys), strict=True)
    keys = [EntityKey(join_keys=view.keys, entity_values=values) for values in found]
    rows_of_fields = zip(*(columns[name] for name in view.fields), strict=True)
    values = [dict(zip(view.fields, row, strict=True)) for row in rows_of_fields]
    created = rows[view.created].to_list() if view.created else [None] * rows.height
    return list(zip(keys, values, rows[PREDICTION_TIME].to_list(), created, strict=True))
