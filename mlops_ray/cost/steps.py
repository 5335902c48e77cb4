"""The names of the steps of a run, in their order."""

from typing import Literal, get_args

StepName = Literal["ingest", "features", "training_set", "train", "evaluate", "register", "materialize"]
STEPS: tuple[StepName, ...] = get_args(StepName)
