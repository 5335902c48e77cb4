"""The plan of a step: whether it would run, and why, decided from what it depends on and what it left before."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from mlops_ray.pipeline.changes import Change, changes
from mlops_ray.pipeline.records import Record
from mlops_ray.pipeline.steps.step import STEPS, StepName

FIRST_TIME = "it has not run yet"
_NAMED = 3


@dataclass(frozen=True)
class Again:
    """What runs although nothing has changed.

    start: this step and all after it; those before it must be unchanged. force: single steps. retry_failed: trials of
    the search that failed.
    """

    start: StepName | None = None
    force: tuple[StepName, ...] = ()
    retry_failed: bool = False

    def why(self, step: StepName) -> str:
        if step in self.force:
            return f"asked for (--force {step})"
        if self.start is not None and STEPS.index(step) >= STEPS.index(self.start):
            return f"asked for (--from {self.start})"
        return ""


NOTHING_AGAIN = Again()


@dataclass(frozen=True)
class StepPlan:
    """Whether a step runs. `open`: that depends on what an earlier step gives that runs itself.

    changes: by which name what it depends on is another than at its last run.
    """

    step: StepName
    outcome: Literal["unchanged", "runs", "open"]
    why: str
    changes: tuple[Change, ...] = ()


def decide(
    step: StepName,
    record: Record,
    known: Record | None,
    last: Record | None,
    missing: Callable[[Record], str | None],
    forced: str = "",
) -> StepPlan:
    """record: of the run that would be made. known: what a run with the same key left. last: what counted last.

    missing: looks whether all that the known run gave is still there. forced: why it runs whatever was before.
    """
    found = tuple(changes(last.depends_on, record.depends_on)) if last else ()
    if known is not None and known.result is not None:
        why = forced or missing(known) or ""
        return StepPlan(step, "runs" if why else "unchanged", why, found)
    if known is not None:
        return StepPlan(step, "runs", "its last run did not end", found)
    if last is None:
        return StepPlan(step, "runs", forced or FIRST_TIME, found)
    return StepPlan(step, "runs", shown(found) or forced, found)


def shown(found: Sequence[Change]) -> str:
    """The first few changes as one text."""
    named = "; ".join(str(change) for change in found[:_NAMED])
    return f"{named}; and {len(found) - _NAMED} more" if len(found) > _NAMED else named
