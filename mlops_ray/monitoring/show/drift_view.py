"""The view of an endpoint: all that its watch knows, as a value that shows itself in a notebook and as a page."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings, settings_from_environment
from mlops_ray.errors import ConfigurationError, UnavailableError
from mlops_ray.governance.alarms import AlarmRecord, alarms_of
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.monitoring_definitions import definition_of
from mlops_ray.monitoring.definition import find_sealed, versions_with_traffic
from mlops_ray.monitoring.describe import Newest, newest_quality, notes_of
from mlops_ray.monitoring.foreign_model import every_version
from mlops_ray.monitoring.request_history import RequestHour
from mlops_ray.monitoring.sealed_reference import SealedReference
from mlops_ray.monitoring.show.plain import from_plain, to_plain
from mlops_ray.monitoring.show.series import FeatureSeries, KindSeries, kind_series
from mlops_ray.monitoring.version_watch import Watched
from mlops_ray.monitoring.watch_state import WatchState, read_state
from mlops_ray.monitoring.window_history import WindowHistory
from mlops_ray.show.shown import Shown

WINDOWS = 60
KEPT = 16  # versions

FindReference = Callable[[str], Watched | str]


def drift(use_case: str, settings: Settings | None = None, windows: int = WINDOWS) -> "DriftView":
    """What the watch of an endpoint knows, as charts: the last cell of a notebook shows them, `.page()` is a file.

    settings: default from the environment (MLOPS_RAY_SETTINGS or MLOPS_RAY_STATE). windows: so many of the last of each
    kind. A version whose reference cannot be had is shown without, and why.
    """
    settings = settings or settings_from_environment()
    return DriftViews(settings, open_store(settings)).of(use_case, windows)


class DriftViews:
    """Views for who looks often: what a version was sealed with never changes, and is read once."""

    def __init__(self, settings: Settings, store: ControlStore):
        self._settings, self._store, self._every = settings, store, every_version(settings, store)
        self._sealed = lru_cache(KEPT)(self._read)

    def of(self, use_case: str, windows: int = WINDOWS) -> "DriftView":
        """As `drift`."""
        from mlops_ray.monitoring.drift_actor import reference_of

        def find(version: str) -> Watched | str:
            try:
                sealed = self._sealed(use_case, version)
            except (UnavailableError, ConfigurationError) as error:
                return str(error)
            return reference_of(sealed, version, definition_of(self._store, use_case))

        taking = versions_with_traffic(self._store, use_case) or ()
        return look_back(self._settings, use_case, find, taking, windows, self._store)

    def _read(self, use_case: str, version: str) -> SealedReference:
        found = find_sealed(self._every, use_case, version)
        if isinstance(found, str):
            raise ConfigurationError(found)
        return found


@dataclass(frozen=True)
class VersionView:
    """One version, newest first in the view. quality: what its watch said last. begins: when its first window that is
    shown began; None without."""

    version: str
    rows: int
    unwatched: str
    live: bool
    kinds: tuple[KindSeries, ...]
    quality: Newest

    @property
    def most_telling(self) -> KindSeries:
        """The kind of window with most to show, of those that there are."""
        return max(self.kinds, key=lambda kind: len(kind.windows) + sum(bool(one.labels) for one in kind.quality))

    @property
    def begins(self) -> datetime | None:
        found = [kind.ends[0] for kind in self.kinds if kind.ends]
        return min(found, default=None)


@dataclass(frozen=True, repr=False)
class DriftView(Shown):
    """What the watch of an endpoint knew at its last commit; `page` makes a file of it that needs no network.

    now: the moment at which it was asked. notes: what was counted and is in no window, in sentences. requests: how they
    went, hour by hour, whichever version answered.
    """

    use_case: str
    now: datetime
    versions: tuple[VersionView, ...]
    alarms: tuple[AlarmRecord, ...]
    notes: tuple[str, ...]
    requests: tuple[RequestHour, ...] = ()

    def numbers(self) -> dict[str, Any]:
        """What is drawn, for `drift --json`: no sketches, and what follows from the rest, such as what drifts."""
        return {
            "use_case": self.use_case,
            "now": self.now,
            "versions": [
                {"version": one.version, "predictions": one.rows, "takes_traffic": one.live}
                | {"unwatched": one.unwatched, "quality": asdict(one.quality)}
                | {"kinds": [kind.numbers() for kind in one.kinds]}
                for one in self.versions
            ],
            "alarms": self.alarms,
            "notes": self.notes,
            "requests": self.requests,
        }

    @property
    def title(self) -> str:
        return f"{self.use_case}: monitoring"

    @property
    def frame(self) -> pl.DataFrame:
        """A row for each version, kind of window and feature: how far its last judged window is from the reference, in
        thresholds (above 1 is drift; null where it was not judged), and the change in words."""
        rows = [
            (version.version, kind.spec, one.name, one.importance, _last_ratio(one), one.drifts, one.words)
            for version in self.versions
            for kind in version.kinds
            for one in kind.features
        ]
        return pl.DataFrame(rows, _FRAME, orient="row").with_columns(pl.col(pl.Float64).fill_nan(None))

    def to_json(self) -> dict[str, Any]:
        """As plain values, with null for a number that is not known; see `from_json`."""
        found: dict[str, Any] = to_plain(self)
        return found

    @classmethod
    def from_json(cls, value: Any) -> "DriftView":
        """What `to_json` gave. Raises IntegrityError if it was written by another version."""
        return from_plain(cls, value)

    @property
    def _style(self) -> str:  # type: ignore[override]
        from mlops_ray.monitoring.show.page import PAGE_STYLE

        return PAGE_STYLE

    def _html(self) -> str:
        from mlops_ray.monitoring.show.page import view_html

        return view_html(self)

    def _text(self) -> str:
        from mlops_ray.monitoring.show.lines import view_lines

        return "\n".join(view_lines(self))


_FRAME: Any = {
    "version": pl.Utf8, "windows": pl.Utf8, "feature": pl.Utf8, "importance": pl.Float64, "distance": pl.Float64,
    "drifts": pl.Boolean, "change": pl.Utf8,
}  # fmt: skip


def _last_ratio(feature: FeatureSeries) -> float | None:
    return next((one.ratio for one in reversed(feature.points) if one.distance is not None), None)


def look_back(
    settings: Settings,
    use_case: str,
    find: FindReference,
    taking: Sequence[str] = (),
    windows: int = WINDOWS,
    store: ControlStore | None = None,
) -> DriftView:
    """The view of an endpoint as of its last commit; nothing is asked of Ray.

    find: what a version is judged by, or in words why it cannot be. taking: versions that take traffic. windows: so
    many of the last of each kind. store: of the settings, where it is open already.
    """
    artifacts = Artifacts(settings.artifacts)
    state, alarms = read_state(artifacts, use_case), alarms_of(store or open_store(settings), use_case)
    history = WindowHistory(artifacts, use_case)
    order = sorted(state.rows, key=lambda version: (version in taking, len(version), version), reverse=True)
    versions = tuple(_version(state, one, alarms, history, find, one in taking, windows) for one in order)
    notes, requests = tuple(notes_of(state)), state.requests.hours
    return DriftView(use_case, datetime.now(UTC), versions, tuple(alarms), notes, requests)


def _version(
    state: WatchState,
    version: str,
    alarms: Sequence[AlarmRecord],
    history: WindowHistory,
    find: FindReference,
    live: bool,
    windows: int,
) -> VersionView:
    watch, why = state.watches.get(version), state.unwatched.get(version, "")
    if watch is None or why:
        return VersionView(version, state.rows[version], why, live, (), Newest())
    watched = find(version)
    own = [one for one in alarms if str(one.version) == version]
    kinds = []
    for spec, stream in watch.streams.items():
        bins: Mapping[str, object] = stream.state.empty if isinstance(watched, str) else watched.reference.columns
        judged = history.read(version, spec, bins, windows)  # type: ignore[arg-type]
        kinds.append(kind_series(spec, stream, judged, watched, own, windows))
    return VersionView(version, state.rows[version], "", live, tuple(kinds), newest_quality(watch))
