"""Policies by name, to be compared in a backtest."""

from dataclasses import replace
from datetime import timedelta

from mlops_ray.errors import ConfigurationError
from mlops_ray.retraining.policy import WEEK
from mlops_ray.use_case import Retraining, UseCase

MONTH = timedelta(days=30)
POLICIES = ("never", "weekly", "monthly", "drift", "data", "prediction", "concept")


def find_policy(use_case: UseCase, name: str, cool_down: timedelta | None = None) -> Retraining:
    """A policy by name. `drift` is the use case's own; data, prediction and concept are it with those alarms alone;
    never, weekly and monthly listen to none. Raises ConfigurationError for another name."""
    own = use_case.retraining or Retraining()
    if cool_down is not None:
        own = replace(own, cool_down=cool_down)
    by_clock = {"never": None, "weekly": WEEK, "monthly": MONTH}
    if name in by_clock:
        # Only the clock counts: no limit of the use case shall keep a plain schedule from being one.
        return replace(
            own, alarms=(), every=by_clock[name], cool_down=timedelta(0), min_new_rows=0, stop_after_losses=10**9
        )
    if name == "drift":
        return own
    if name in POLICIES:
        return replace(own, alarms=(name,), every=None)  # type: ignore[arg-type]
    raise ConfigurationError(f"Policy {name!r} is unknown. Policies: {', '.join(POLICIES)}.")
