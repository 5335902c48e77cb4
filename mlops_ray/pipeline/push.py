"""Push: fresh feature values from a program that has the settings, without a server between."""

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import polars as pl
import uuid6

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings, settings_from_environment
from mlops_ray.errors import ConfigurationError, ForbiddenError
from mlops_ray.features.columns import DTYPES
from mlops_ray.features.definitions import View, expect_definitions
from mlops_ray.features.online.push import Pushed, view_named
from mlops_ray.features.online.push import push as push_to
from mlops_ray.governance.control_store import ControlStore, database_now, open_store
from mlops_ray.governance.development_keys import acting
from mlops_ray.governance.events import Actor
from mlops_ray.governance.live import live
from mlops_ray.pipeline.refresh import feature_project


def push(
    use_case: str,
    view: str,
    rows: pl.DataFrame | Sequence[Mapping[str, Any]],
    settings: Settings | None = None,
    id_: str | None = None,
) -> Pushed:
    """Keep fresh values of a feature view, and bring them online for each version of the use case that serves.

    rows: the view's keys and features, typed as in the definition, and `event_timestamp`: since when each row is known,
    with a zone. Values older than what is online change nothing there. settings: default from the environment. id_: a
    UUID under which the same may be sent again; default: a new one. Who sends is whose key is in MLOPS_RAY_API_KEY, or
    the only user; it needs the role operate. Raises ConfigurationError if no version of the use case reads the online
    store, ForbiddenError without the role, and what `features.online.push.push` raises.
    """
    settings = settings or settings_from_environment()
    store = open_store(settings)
    try:
        actor, now = _expect_operator(store, settings, use_case), _now(store)
        projects = projects_of(store, settings, use_case)
    finally:
        store.close()
    if not projects:
        raise ConfigurationError(
            f"No version of {use_case} that serves reads features from the online store. Serve one first."
        )
    artifacts = Artifacts(settings.artifacts)
    wanted = view_named(expect_definitions(artifacts, projects[0]).views, view, projects[0])
    frame, id_ = _typed(rows, wanted), id_ or str(uuid6.uuid7())
    done = []
    for project in projects:
        definitions = expect_definitions(artifacts, project)
        if any((one.name, one.types) == (view, wanted.types) for one in definitions.views):
            done.append(push_to(settings, project, definitions, view, frame, actor.id or actor.name, id_, now))
    return done[0]


def projects_of(store: ControlStore, settings: Settings, use_case: str) -> list[str]:
    """The feature projects that versions of a use case read which are live: the champion's first."""
    found = [feature_project(settings, use_case, ref) for ref in live(store, use_case).versions()]
    return list(dict.fromkeys(project for project in found if project))


def _expect_operator(store: ControlStore, settings: Settings, use_case: str) -> Actor:
    actor = acting(store, settings, os.environ.get("MLOPS_RAY_API_KEY"), use_case)
    if not {"operate", "admin", "system"}.intersection(actor.roles):
        raise ForbiddenError(f"{actor.name} does not carry the role 'operate' on {use_case}, which a push needs.")
    return actor


def _now(store: ControlStore) -> datetime:
    with store.reading() as connection:
        return database_now(connection)


def _typed(rows: pl.DataFrame | Sequence[Mapping[str, Any]], view: View) -> pl.DataFrame:
    """Rows given one by one as a table: numbers, texts and moments as Python has them."""
    if isinstance(rows, pl.DataFrame):
        return rows
    known = {name: DTYPES[type_] for name, type_ in view.types.items()}
    names = list(dict.fromkeys(name for row in rows for name in row))
    schema = {name: known[name] for name in names if name in known}
    return pl.DataFrame([dict(row) for row in rows], schema_overrides=schema)
