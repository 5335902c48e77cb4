"""The steps of a pipeline by name, and what is told of them while they run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

StepName = Literal["ingest", "features", "training_set", "train", "evaluate", "register", "materialize"]
STEPS: tuple[StepName, ...] = get_args(StepName)


@dataclass(frozen=True)
class StepStarted:
    step: StepName


@dataclass(frozen=True)
class StepFinished:
    """A step's end. `reused`: nothing it depends on has changed, so its earlier result stands."""

    step: StepName
    seconds: float
    reused: bool
    result: Mapping[str, Any]
