"""A retraining that is asked for by the clock: the governor decides on it as on an alarm, and it is seen to its end."""

import time
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor
from mlops_ray.governance.retrainings import FINISHED, history
from mlops_ray.retraining.governor import Governor, NewRows
from mlops_ray.retraining.history import read_history
from mlops_ray.retraining.launcher import Launcher
from mlops_ray.use_case import UseCase

_LOOK_EVERY_S = 5.0
_AT_ONCE = timedelta(microseconds=1)


@dataclass(frozen=True)
class Asked:
    """reason: why there was none, or what came of it. outcome: of the retraining, None where there was none."""

    reason: str
    id: str | None = None
    outcome: str | None = None


def ask_for_retraining(
    use_case: UseCase,
    settings: Settings,
    store: ControlStore,
    launcher: Launcher,
    new_rows: NewRows,
    actor: Actor,
    now: datetime,
) -> Asked:
    """Have the governor decide as if `Retraining.every` had passed, and wait for the end of what it starts.

    Its limits hold: a cool-down, too few new labels, a challenger that waits. One that runs already is waited for, so
    that this can be repeated after dying. now: nothing known later enters. Raises as `Governor`.
    """
    if use_case.retraining is None:
        raise ConfigurationError(f"Use case {use_case.name} declares no retraining. Add retraining=Retraining(...).")
    due = replace(use_case, retraining=replace(use_case.retraining, every=_AT_ONCE))
    decision = Governor(due, settings, launcher, new_rows, actor).round(now)
    known = read_history(history(store, use_case.name), now)
    if decision.action == "retrain":
        id = known.past[-1].id
    elif known.running is not None:
        id = known.running.id
    else:
        return Asked(decision.reason)
    governor = Governor(use_case, settings, launcher, new_rows, actor)
    while (ended := _end_of(store, use_case.name, id)) is None:
        time.sleep(_LOOK_EVERY_S)
        governor.round(now)
    return Asked(ended["reason"], id, ended["outcome"])


def _end_of(store: ControlStore, use_case: str, id: str) -> dict[str, Any] | None:
    found = (event.payload for event in history(store, use_case) if event.type == FINISHED)
    return next((dict(payload) for payload in found if payload["id"] == id), None)
