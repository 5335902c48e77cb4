"""Standings: how the live version of each use case is asked and how good it is, as its watch knew at its last commit.

A commit takes milliseconds to read, and there may be a hundred endpoints, each with its own on shared storage.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.console.beside import ReadBeside
from mlops_ray.errors import MlopsRayError

if TYPE_CHECKING:
    from mlops_ray.monitoring.describe import Newest

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Standing:
    """predictions: by version, all that were counted. asked: requests within a day, None where none are reported.
    quality: what the newest windows of a version say, by version. trouble: why nothing is known."""

    predictions: Mapping[str, int]
    asked: int | None
    quality: Mapping[str, "Newest"]
    trouble: str = ""


class Standings(ReadBeside[Standing]):
    """By use case."""

    again_s = 15.0

    def __init__(self, settings: Settings):
        artifacts = Artifacts(settings.artifacts)
        super().__init__("standings", lambda use_case: standing_of(artifacts, use_case, datetime.now(UTC)))


def standing_of(artifacts: Artifacts, use_case: str, now: datetime) -> Standing:
    # Imported where it is needed: it takes half a second, and a page waits for none of it.
    from mlops_ray.monitoring.describe import newest_quality
    from mlops_ray.monitoring.watch_state import read_state

    try:
        state = read_state(artifacts, use_case)
    except (MlopsRayError, OSError) as error:
        return Standing({}, None, {}, f"What its watch knows cannot be read ({type(error).__name__}).")
    quality = {version: newest_quality(watch) for version, watch in state.watches.items()}
    hours = state.requests.hours
    asked = sum(hour.requests.asked for hour in hours if hour.end > now - DAY) if hours else None
    return Standing(state.rows, asked, quality)
