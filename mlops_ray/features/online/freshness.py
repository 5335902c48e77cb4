"""Freshness: how old the newest value of each view is that was ever brought online, beside how long it counts."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from mlops_ray.config import Settings
from mlops_ray.errors import UseCaseError
from mlops_ray.features.definitions import Definitions, View
from mlops_ray.features.online.store import writer_of

STALE_AFTER = "stale_after"  # the tag of a Feast view that says after which part of its ttl somebody is told
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Freshness:
    """newest: the moment of the newest value; None where there never was one. stale_after: the part of the ttl after
    which the view counts as stale; None where its definition states none, and nobody is told."""

    view: str
    ttl: timedelta
    newest: datetime | None
    stale_after: float | None

    def age(self, now: datetime) -> timedelta | None:
        return None if self.newest is None else now - self.newest

    def is_stale(self, now: datetime) -> bool:
        age = self.age(now)
        return self.stale_after is not None and (age is None or age > self.stale_after * self.ttl)


def freshness(settings: Settings, project: str, definitions: Definitions) -> list[Freshness]:
    """Of each view of a project. Raises UnavailableError if the online store does not answer, UseCaseError for a tag
    that is no part of one."""
    noted = writer_of(settings.online_store, project).notes()
    found = []
    for view in definitions.views:
        newest_us = noted[view.name].newest_us if view.name in noted else 0
        newest = _EPOCH + timedelta(microseconds=newest_us) if newest_us else None
        found.append(Freshness(view.name, view.ttl, newest, stale_after(definitions, view)))
    return found


def stale_after(definitions: Definitions, view: View) -> float | None:
    """What the view's definition states. Raises UseCaseError naming the view if it is not between 0 and 1."""
    tags: Mapping[str, Any] = definitions.specs["views"][view.name].get("tags", {})
    if STALE_AFTER not in tags:
        return None
    try:
        part = float(tags[STALE_AFTER])
    except ValueError:
        part = 0.0
    if not 0 < part <= 1:
        raise UseCaseError(
            f"Feature view {view.name!r}: its tag {STALE_AFTER} is {tags[STALE_AFTER]!r}. Give the part of its ttl "
            f"after which it is stale, above 0 and at most 1, such as '0.5'."
        )
    return part
