"""Materialize: the newest feature values as of a moment into the online store, and prove that they are there.

Only what differs is written. A run is right about all that became known up to its `as_of`, and knows nothing of later
moments: values of those stay, whoever wrote them.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import UnavailableError, UseCaseError
from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.definitions import Definitions, View, keep_definitions, project_of
from mlops_ray.features.history import history_of
from mlops_ray.features.online_format import Stored
from mlops_ray.features.online_reader import microseconds
from mlops_ray.features.point_in_time import newest
from mlops_ray.features.store import Store
from mlops_ray.features.transform import FeatureRows

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Materialized:
    """By view: how many keys have a value online as of `as_of`, how many of these were written now because they were
    not there or differed, and how many were kept because what is there is newer than this run."""

    project: str
    as_of: datetime
    keys: dict[str, int]
    written: dict[str, int]
    kept: dict[str, int]


def materialize(
    settings: Settings, definitions: Definitions, rows: Sequence[FeatureRows], as_of: datetime
) -> Materialized:
    """Bring the views of the definitions online in the project of these definitions and rows, and read them back.

    A value of a moment after `as_of` is kept, and so is one that a run of a later `as_of` wrote for the same moment.
    Raises UnavailableError naming the view if what was written is not found.
    """
    project, urls = project_of(definitions, rows), {found.view: found.url for found in rows}
    _expect_names_fit(settings, project, definitions)
    store = Store(settings, project)
    keys, written, kept = {}, {}, {}
    with store.alone():
        before = store.applied()
        older = before is not None and as_of < before.as_of
        store.apply(definitions, urls, as_of)
        keep_definitions(Artifacts(settings.artifacts), project, definitions)
        for view in definitions.views:
            expected = store.as_kept(newest(history_of(view, urls[view.name]), as_of))
            judged = _judge(store, view, expected, as_of, older)
            changed = expected.filter(pl.Series(judged, dtype=pl.String) == "differs")
            store.write(view, changed)
            if changed.height:
                _expect_there(store, view, changed, as_of, older)
            keys[view.name], written[view.name], kept[view.name] = len(judged), changed.height, judged.count("newer")
    found = Materialized(project, as_of, keys, written, kept)
    _logger.info(
        "Project %s as of %s: %d keys, %d written",
        project,
        as_of.isoformat(),
        sum(keys.values()),
        sum(written.values()),
    )
    if any(kept.values()):
        _logger.warning("Project %s: %d keys kept, newer than %s", project, sum(kept.values()), as_of.isoformat())
    return found


def verify(settings: Settings, definitions: Definitions, rows: Sequence[FeatureRows], as_of: datetime) -> str | None:
    """What of these rows as of `as_of` is missing online or in the registry, as a sentence; None if all is there."""
    project, urls = project_of(definitions, rows), {found.view: found.url for found in rows}
    store = Store(settings, project)
    found = store.applied()
    if found is None or found.definitions != definitions.digest:
        return f"feature project {project} is not in the registry"
    if found.as_of < as_of:
        return f"feature project {project} has rows as of {found.as_of.isoformat()}, before {as_of.isoformat()}"
    if found.as_of == as_of and found.rows != urls:
        return f"feature project {project} has other rows as of {as_of.isoformat()}"
    for view in definitions.views:
        expected = store.as_kept(newest(history_of(view, urls[view.name]), as_of))
        judged = _judge(store, view, expected, as_of, as_of < found.as_of)
        if differing := judged.count("differs"):
            return f"feature view {view.name}: {differing:,} of {len(judged):,} keys are not online as they should be"
    return None


def _judge(store: Store, view: View, expected: pl.DataFrame, as_of: datetime, older: bool) -> list[str]:
    """Of each expected row: whether online is the `same`, something `newer` that stays, or something that `differs`.

    older: a run of a later `as_of` has written here, so that what it left for the same moment counts.
    """
    stored = store.stored(view, list(expected.select(view.keys).iter_rows()))
    # A store of whole seconds has what became known in this one at its end.
    at_us = max(microseconds(as_of), *expected[PREDICTION_TIME].dt.timestamp("us"), 0)
    return [
        "differs" if found is None else _compared(found, moment_us, values, at_us, older)
        for found, (moment_us, values) in zip(stored, _rows(view, expected), strict=True)
    ]


def _rows(view: View, expected: pl.DataFrame) -> Iterator[tuple[int, dict[str, object]]]:
    moments = expected[PREDICTION_TIME].dt.timestamp("us").to_list()
    return zip(moments, expected.select(view.fields).iter_rows(named=True), strict=True)


def _compared(found: Stored, moment_us: int, values: dict[str, object], at_us: int, older: bool) -> str:
    if found.known_us == moment_us and all(found.values.get(name) == value for name, value in values.items()):
        return "same"
    return "newer" if found.known_us > at_us or (older and found.known_us >= moment_us) else "differs"


def _expect_there(store: Store, view: View, written: pl.DataFrame, as_of: datetime, older: bool) -> None:
    judged = _judge(store, view, written, as_of, older)
    if missing := len(judged) - judged.count("same"):
        raise UnavailableError(
            f"Feature view {view.name}: {missing:,} of {len(judged):,} keys that were written as of "
            f"{as_of.isoformat()} are not online. Is something else writing to the online store?"
        )


def _expect_names_fit(settings: Settings, project: str, definitions: Definitions) -> None:
    """PostgreSQL cuts longer names of tables in silence, and then two views may share one."""
    limit = 63 - len(f"{project}__fts_idx")
    for view in definitions.views:
        if settings.online_store.startswith("postgresql") and len(view.name.encode()) > limit:
            raise UseCaseError(
                f"Feature view {view.name!r} has {len(view.name.encode())} bytes in its name; PostgreSQL as the online "
                f"store has room for {limit}. Shorten it."
            )
