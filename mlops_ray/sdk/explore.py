"""Explore: what is in data, before it is used."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Union

from mlops_ray.frames import to_polars
from mlops_ray.sdk.ray import quiet, start_ray
from mlops_ray.sdk.settings import AnyPath, settings_for, use_case_of
from mlops_ray.use_case import UseCase

if TYPE_CHECKING:
    from mlops_ray.config import Settings
    from mlops_ray.exploration.explore import Exploration, Part, StartRay
    from mlops_ray.frames import AnyFrame


def explore(
    what: Union[UseCase, AnyPath, "AnyFrame"],
    *,
    source: str | None = None,
    snapshot: str | None = None,
    training_set: str | None = None,
    part: "Part | None" = None,
    state: AnyPath | None = None,
    data: AnyPath | None = None,
) -> "Exploration":
    """Look at data: a data frame, files (`customers.csv`, `raw/flights_*.csv`), or a use case's source.

    source: which one of the use case; the first by default. snapshot: its accepted rows in a snapshot, by digest or
    "latest", with how each column tells the label. training_set: a training set, by digest or "latest", with leakage
    and drift between its parts; part: one of them. Small data is read in this process; for more Ray is started.
    Raises DataError for files that are not there or cannot be read.
    """
    if not isinstance(what, UseCase | str | Path) and not hasattr(what, "__fspath__"):
        return _frame(what)
    quiet()
    name, place = what, data
    if _names_files(what):
        folder, pattern = _split(Path(str(what)))
        name, place = pattern, data if data is not None else folder
    settings = settings_for(name, state, place)
    return explored(name, settings, source, snapshot, training_set, part, lambda: start_ray(settings))


def explored(
    what: UseCase | AnyPath,
    settings: "Settings",
    source: str | None,
    snapshot: str | None,
    training_set: str | None,
    part: "Part | None",
    start: "StartRay",
) -> "Exploration":
    """As `explore`. what: a use case, or files below `settings.data`."""
    from mlops_ray.exploration import explore as stage

    if _names_files(what):
        return stage.explore_files(settings.data, str(what), start)
    case = use_case_of(what)
    if training_set is not None:
        return stage.explore_training_set(case, settings, _digest(training_set), part, start)
    if snapshot is not None:
        return stage.explore_snapshot(case, settings, source, _digest(snapshot), start)
    return stage.explore_source(case, settings, source, start)


def _names_files(what: object) -> bool:
    if isinstance(what, UseCase):
        return False
    path = str(what)
    return any(sign in path for sign in "*?[") or (bool(Path(path).suffix) and not path.endswith(".py"))


def _split(path: Path) -> tuple[str, str]:
    """The folder that is certain, and the pattern below it."""
    parts = path.absolute().parts
    at = next((number for number, name in enumerate(parts) if any(sign in name for sign in "*?[")), len(parts) - 1)
    return str(Path(*parts[:at])), str(Path(*parts[at:]))


def _digest(given: str) -> str | None:
    return None if given == "latest" else given


def _frame(frame: "AnyFrame") -> "Exploration":
    from mlops_ray.exploration.explore import Exploration, profile_table
    from mlops_ray.exploration.suspicion import of_columns

    rows = to_polars(frame)
    with tempfile.TemporaryDirectory(prefix="mlops-ray-explore-") as folder:
        rows.write_parquet(f"{folder}/rows.parquet")
        profile = profile_table("data frame", f"{folder}/rows.parquet")
    return Exploration(profile, suspicions=tuple(of_columns(profile)))
