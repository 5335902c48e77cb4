"""Materialize: the newest feature values as of a moment into the online store, and prove that they are there.

Only what has changed since the last run is compared with what is online, and only what differs is written, view beside
view, while readers read. A run is right about all that became known up to its `as_of`, and knows nothing of later
moments: values of those stay, whoever wrote them.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import UseCaseError
from mlops_ray.features.definitions import Definitions, keep_definitions, project_of
from mlops_ray.features.online.freshness import stale_after
from mlops_ray.features.online.pushes import bring_together
from mlops_ray.features.online.store import writer_of
from mlops_ray.features.online.view import OnlineView
from mlops_ray.features.store import Store, same_rows
from mlops_ray.features.transform import FeatureRows

VIEWS_AT_A_TIME = 2  # each has its history in memory

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
    """Bring the views of the definitions online in the project of these definitions and rows, and look for them there.

    A value of a moment after `as_of` is kept, so is one that a run of a later `as_of` wrote for the same moment, and
    one that was pushed. Raises UnavailableError naming the view if what was written is not found.
    """
    project, urls = project_of(definitions, rows), {found.view: found.url for found in rows}
    _expect_names_fit(settings, project, definitions)
    for view in definitions.views:
        stale_after(definitions, view)  # what it states makes sense
    store = Store(settings, project)
    with store.alone():
        before = store.applied()
        older = before is not None and as_of < before.as_of
        store.apply(definitions, urls, as_of)
        keep_definitions(Artifacts(settings.artifacts), project, definitions)
        noted = {} if older else writer_of(settings.online_store, project).notes()
        for view in definitions.views:
            bring_together(Artifacts(settings.artifacts), project, view)
        views = [OnlineView(settings, project, view, urls[view.name], as_of, older) for view in definitions.views]
        with ThreadPoolExecutor(VIEWS_AT_A_TIME, thread_name_prefix="materialize") as threads:
            done = list(threads.map(lambda one: one.bring(noted.get(one.view.name)), views))
    brought = dict(zip((view.name for view in definitions.views), done, strict=True))
    keys = {name: one.keys for name, one in brought.items()}
    written = {name: one.written for name, one in brought.items()}
    kept = {name: one.kept for name, one in brought.items()}
    _logger.info(
        "Project %s as of %s: %d keys, %d written",
        project, as_of.isoformat(), sum(keys.values()), sum(written.values()),
    )  # fmt: skip
    if any(kept.values()):
        _logger.warning("Project %s: %d keys kept, newer than %s", project, sum(kept.values()), as_of.isoformat())
    return Materialized(project, as_of, keys, written, kept)


def verify(settings: Settings, definitions: Definitions, rows: Sequence[FeatureRows], as_of: datetime) -> str | None:
    """What of these rows as of `as_of` is missing online or in the registry, as a sentence; None if all is there, as
    far as a count of the keys of each view and a sample of their values tell."""
    project, urls = project_of(definitions, rows), {found.view: found.url for found in rows}
    found = Store(settings, project).applied()
    if found is None or found.definitions != definitions.digest:
        return f"feature project {project} is not in the registry"
    if found.as_of < as_of:
        return f"feature project {project} has rows as of {found.as_of.isoformat()}, before {as_of.isoformat()}"
    if found.as_of == as_of and not same_rows(found.rows, urls):
        return f"feature project {project} has other rows as of {as_of.isoformat()}"
    for view in definitions.views:
        online = OnlineView(settings, project, view, urls[view.name], as_of, as_of < found.as_of)
        if lacking := online.lacking(online.expected()):
            return lacking
    return None


def _expect_names_fit(settings: Settings, project: str, definitions: Definitions) -> None:
    """PostgreSQL cuts longer names of tables in silence, and then two views may share one."""
    limit = 63 - len(f"{project}__fts_idx")
    for view in definitions.views:
        if settings.online_store.startswith("postgresql") and len(view.name.encode()) > limit:
            raise UseCaseError(
                f"Feature view {view.name!r} has {len(view.name.encode())} bytes in its name; PostgreSQL as the online "
                f"store has room for {limit}. Shorten it."
            )
