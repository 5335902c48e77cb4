"""Push: fresh values into the online store of a project, without waiting for the next materialization."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import DataError, nearest
from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.definitions import Definitions, View
from mlops_ray.features.online.pushes import Push, digest_of, judged_rows, keep_push
from mlops_ray.features.online.store import as_kept, writer_of
from mlops_ray.features.online.write import Noted, online_values

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pushed:
    """rows: that were kept, with their digest. written: keys whose value is online now; older: rows of which something
    newer is online, or came with them."""

    id: str
    view: str
    rows: int
    digest: str
    written: int
    older: int


def view_named(views: Sequence[View], name: str, project: str) -> View:
    """Raises DataError that names the nearest view where there is none of this name."""
    found = next((view for view in views if view.name == name), None)
    if found is None:
        known = nearest(name, [view.name for view in views])
        raise DataError(f"Feature project {project} has no view {name[:80]!r}. {known}")
    return found


def push(
    settings: Settings,
    project: str,
    definitions: Definitions,
    view_name: str,
    rows: pl.DataFrame,
    pushed_by: str,
    id_: str,
    now: datetime,
) -> Pushed:
    """Keep rows of a view for good, and bring the newest of each key online unless something newer is there.

    rows: keys, `event_timestamp` and fields, typed as in the definition. id_: a UUID that stays the same when the same
    is sent again, which changes nothing then. now: by a clock that all share. Raises DataError for an unknown view and
    as `judged_rows` does, ConflictError for other rows under the id, UnavailableError if the online store does not
    answer: then they are kept already, and come online with the next materialization or when they are sent again.
    """
    view = view_named(definitions.views, view_name, project)
    judged = judged_rows(view, rows, now)
    kept = Push(id_, view.name, now, pushed_by, judged.height, digest_of(judged))
    if not judged.height:
        return Pushed(id_, view.name, 0, kept.digest, 0, 0)
    keep_push(Artifacts(settings.artifacts), project, view, judged, kept)
    newest = as_kept(settings.online_store, judged.sort(PREDICTION_TIME, maintain_order=True))
    newest = newest.unique(view.keys, keep="last", maintain_order=True)
    if view.created:
        newest = newest.with_columns(pl.lit(now).cast(newest.schema[PREDICTION_TIME]).alias(view.created))
    writer = writer_of(settings.online_store, project)
    values = list(online_values(view, newest))
    written = writer.write(view, values)
    writer.note(view.name, Noted(max(value.known_us for value in values)))
    _logger.info("Feature view %s of %s: %d rows pushed, %d online", view.name, project, judged.height, written)
    return Pushed(id_, view.name, judged.height, kept.digest, written, judged.height - written)
