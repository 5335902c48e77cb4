"""Which feature views there are: whose, what they are looked up by, who uses them, how fresh and how full they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, nearest
from mlops_ray.features.definitions import Definitions, View, load_definitions
from mlops_ray.features.history import history_of
from mlops_ray.features.online.freshness import Freshness, freshness
from mlops_ray.features.online.pushes import pushes
from mlops_ray.features.online.store import writer_of
from mlops_ray.features.store import Store
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.inventory import inventory
from mlops_ray.governance.live import live
from mlops_ray.pipeline.refresh import feature_project


@dataclass(frozen=True)
class ListedView:
    """A view in one project. used_by: the versions that serve and read it there, such as `flights@7`. owner and
    description: as the definition says, "" where it says nothing."""

    project: str
    view: View
    owner: str
    description: str
    used_by: tuple[str, ...]
    freshness: Freshness

    def to_json(self, now: datetime) -> dict[str, Any]:
        age, newest = self.freshness.age(now), self.freshness.newest
        return {
            "view": self.view.name,
            "project": self.project,
            "owner": self.owner,
            "description": self.description,
            "used_by": list(self.used_by),
            "keys": list(self.view.keys),
            "features": {name: self.view.types[name] for name in self.view.fields},
            "ttl": str(self.view.ttl),
            "newest": newest and newest.isoformat(),
            "age": age and str(age),
            "stale_after": self.freshness.stale_after,
        }


@dataclass(frozen=True)
class ShownView:
    """statistics: of the rows as of the last refresh: how many there are, of how many keys, from when to when, and by
    feature what part has no value and what the rest is. online_keys: that have a value in the online store."""

    listed: ListedView
    statistics: Mapping[str, Any]
    online_keys: int
    pushes: int

    def to_json(self, now: datetime) -> dict[str, Any]:
        said = {"online_keys": self.online_keys, "pushes": self.pushes, "rows": dict(self.statistics)}
        return self.listed.to_json(now) | said


def list_views(settings: Settings, store: ControlStore, now: datetime) -> list[ListedView]:
    """The views of each feature project that a version which serves reads, by name."""
    found = []
    for project, users in _projects(settings, store, now).items():
        definitions = load_definitions(Artifacts(settings.artifacts), project)
        if definitions is not None:
            found += _listed(settings, project, definitions, users)
    return sorted(found, key=lambda one: (one.view.name, one.project))


def show_view(settings: Settings, store: ControlStore, name: str, now: datetime) -> list[ShownView]:
    """All about a view, in each project that has it. Raises ConfigurationError that names the nearest one where none
    does."""
    listed = list_views(settings, store, now)
    found = [one for one in listed if one.view.name == name]
    if not found:
        known = nearest(name, [one.view.name for one in listed])
        raise ConfigurationError(f"No version that serves reads a feature view {name[:80]!r}. {known}")
    return [_shown(settings, one) for one in found]


def _projects(settings: Settings, store: ControlStore, now: datetime) -> dict[str, list[str]]:
    """The feature projects that are read, and by which versions."""
    found: dict[str, list[str]] = {}
    for entry in inventory(store, now):
        for ref in live(store, entry.use_case).versions():
            project = feature_project(settings, entry.use_case, ref)
            if project is not None:
                found.setdefault(project, []).append(f"{entry.use_case}@{ref.version}")
    return found


def _listed(settings: Settings, project: str, definitions: Definitions, users: list[str]) -> list[ListedView]:
    ages = {one.view: one for one in freshness(settings, project, definitions)}
    specs: Mapping[str, Mapping[str, Any]] = definitions.specs["views"]
    return [
        ListedView(
            project,
            view,
            str(specs[view.name].get("owner", "")),
            str(specs[view.name].get("description", "")),
            tuple(users),
            ages[view.name],
        )
        for view in definitions.views
    ]


def _shown(settings: Settings, listed: ListedView) -> ShownView:
    project, view = listed.project, listed.view
    applied = Store(settings, project).applied()
    online = writer_of(settings.online_store, project).count(view, 0)
    statistics = {} if applied is None else statistics_of(view, history_of(view, applied.rows[view.name]).rows)
    return ShownView(listed, statistics, online, len(pushes(Artifacts(settings.artifacts), project, view)))


def statistics_of(view: View, rows: pl.DataFrame) -> dict[str, Any]:
    """Of rows with the names of the definition. Numbers have their least, mean and greatest value, others how many
    different ones there are."""
    moments = rows["event_timestamp"]
    features = {}
    for name in view.fields:
        values = rows[name]
        told: dict[str, Any] = {"null_fraction": values.null_count() / (values.len() or 1)}
        if values.dtype.is_numeric():
            told |= {"minimum": values.min(), "mean": values.mean(), "maximum": values.max()}
        else:
            told["distinct"] = values.n_unique()
        features[name] = told
    return {
        "count": rows.height,
        "keys": rows.select(view.keys).n_unique(),
        "first": None if not rows.height else moments.min().isoformat(),  # type: ignore[union-attr]
        "last": None if not rows.height else moments.max().isoformat(),  # type: ignore[union-attr]
        "features": features,
    }


def age_in_words(listed: ListedView, now: datetime) -> str:
    """Such as `2:10:00 of 3:00:00`."""
    age = listed.freshness.age(now)
    if age is None:
        return f"no value, ttl {listed.view.ttl}"
    return f"{timedelta(seconds=round(age.total_seconds()))} of {listed.view.ttl}"
