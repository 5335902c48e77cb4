"""What a replica says of the age of the features that its champion reads: as a metric, and as events."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from ray.util.metrics import Gauge

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.features.definitions import Definitions, load_definitions
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.freshness import report_freshness
from mlops_ray.governance.leases import hold
from mlops_ray.serving.follower import Follower

LOOK_S = 15.0


class FreshnessWatch:
    """Of one use case. Each replica shows the metric; the one that holds the lease records the events."""

    def __init__(
        self,
        settings: Settings,
        store: ControlStore,
        use_case: str,
        follower: Follower,
        clock: Callable[[], float],
        replica_id: str,
    ):
        self._settings, self._store, self._use_case = settings, store, use_case
        self._follower, self._clock, self._replica_id = follower, clock, replica_id
        self._known: tuple[str, Definitions] | None = None
        self._age_s, self._ttl_s = (
            Gauge(f"mlops_ray_feature_{name}_seconds", text, ("use_case", "view"))
            for name, text in (
                ("age", "Age of the newest value of a feature view online"),
                ("ttl", "For how long a value of a feature view counts"),
            )
        )

    def look(self) -> None:
        """Show the age of each view; tell of those that state when they are stale. Raises UnavailableError if the
        online store or the control store does not answer."""
        from mlops_ray.features.online.freshness import freshness

        project = self._follower.traffic.champion.schema.feature_project
        definitions = self._of(project) if project else None
        if project is None or definitions is None:
            return
        now = datetime.fromtimestamp(self._clock(), UTC)
        found = freshness(self._settings, project, definitions)
        for view in found:
            tags = {"use_case": self._use_case, "view": view.view}
            self._ttl_s.set(view.ttl.total_seconds(), tags)
            if (age := view.age(now)) is not None:
                self._age_s.set(age.total_seconds(), tags)
        stating = [view for view in found if view.stale_after is not None]
        lease = f"feature freshness {self._use_case}"
        if not stating or hold(self._store, lease, self._replica_id, timedelta(seconds=2 * LOOK_S)):
            return
        for view in stating:
            age = view.age(now)
            newest = view.newest.isoformat() if view.newest else None
            what = f"its newest value is of {newest}, {age} old" if age is not None else "it has no value online"
            report_freshness(
                self._store,
                self._use_case,
                view.view,
                view.is_stale(now),
                f"Feature view {view.view}: {what} (stale after {view.stale_after:g} of its ttl of {view.ttl}).",
                {"project": project, "newest": newest, "age_s": age and age.total_seconds(),
                 "ttl_s": view.ttl.total_seconds(), "stale_after": view.stale_after},
            )  # fmt: skip

    def _of(self, project: str) -> Definitions | None:
        """None where its views do not come from a materialization of ours."""
        if self._known is None or self._known[0] != project:
            definitions = load_definitions(Artifacts(self._settings.artifacts), project)
            if definitions is None:
                return None
            self._known = project, definitions
        return self._known[1]
