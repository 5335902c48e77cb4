"""What a step is, the names of all of them, and what is told of them while they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mlops_ray.cost.steps import STEPS as STEPS
from mlops_ray.cost.steps import StepName as StepName
from mlops_ray.import_closure import our_code
from mlops_ray.pipeline.fingerprint import tree

if TYPE_CHECKING:  # What is only handed on is no code that every step depends on.
    from mlops_ray.code_version import CodeVersion
    from mlops_ray.config import Settings
    from mlops_ray.features.definitions import Definitions
    from mlops_ray.governance.declared_resources import Resources
    from mlops_ray.governance.events import Actor
    from mlops_ray.ingestion.sources import SourceFile
    from mlops_ray.registry.lineage import Lineage
    from mlops_ray.training.trial import SearchProgress
    from mlops_ray.use_case import UseCase


@dataclass(frozen=True)
class StepStarted:
    step: StepName


@dataclass(frozen=True)
class StepRuns:
    """The step is not reused; `why` says what has changed or is missing."""

    step: StepName
    why: str


@dataclass(frozen=True)
class StepWaits:
    """The step has asked for something that is not free; `why` says for what, and who holds it."""

    step: StepName
    why: str


@dataclass(frozen=True)
class StepFinished:
    """A step's end. `reused`: nothing it depends on has changed, so its earlier result stands."""

    step: StepName
    seconds: float
    reused: bool
    result: Mapping[str, Any]


Notify = Callable[["StepStarted | StepRuns | StepWaits | StepFinished | SearchProgress"], None]


@dataclass(frozen=True)
class Given:
    """All that inputs are made from. A step's `inputs` takes its parts from here; its function never sees the rest.

    files: the raw files of each source. definitions: reads those of Feast, None without a feature service. results:
    of the steps before, by name.
    """

    use_case: UseCase
    settings: Settings
    as_of: datetime | None
    files: Mapping[str, Sequence[SourceFile]]
    definitions: Callable[[], Definitions | None]
    results: Mapping[StepName, Mapping[str, Any]]
    challenger: bool = False


@dataclass(frozen=True)
class Where:
    """What a step needs in order to run and what is no part of its result: places, who acts, what is written beside it.

    settings: the part that says where things lie, see `Step.places`. key: names this run of the step, and is the same
    when it is taken up again after a kill. author: on whose behalf a version is registered. lineage: the record of
    where that version comes from. retry_failed: trials that failed run again. start_from: where a new search begins,
    which its result tells (SearchResult.started_from); an earlier one of the same inputs stands as it is. resources:
    what is declared for this step in the place of what it asks for itself. asked: is told what each of its tasks asks
    for. fit_limit_s: how long the fits of the last model may take together; None for ever.
    """

    settings: Settings
    key: str
    notify: Notify
    files: Mapping[str, Sequence[SourceFile]]
    code: CodeVersion
    author: Actor | None = None
    lineage: Lineage | None = None
    retry_failed: bool = False
    start_from: Callable[[], Mapping[str, Any]] = dict
    start_ray: Callable[[], Any] = lambda: None
    resources: Resources | None = None
    asked: Callable[[float, int], None] = lambda cpus, memory_bytes: None
    fit_limit_s: float | None = None


@dataclass(frozen=True)
class Step:
    """A step: its inputs, a frozen dataclass, and the function that is given these and nothing else.

    The step runs again when an input is another, or the code that `run` reaches, or a library that this code imports.
    verify: what is missing of a result, in a sentence, or None: for what others can change or delete. places: the
    settings that only say where things lie. rows_at: for a step that copies rows of data the places of the tables that
    it has written, none if that is the online store: if somebody is erased while it runs, they do not stay
    (`erasure_fence`).
    """

    name: StepName
    inputs: Callable[[Given], Any]
    run: Callable[[Any, Where], dict[str, Any]]
    verify: Callable[[Any, Mapping[str, Any], Where], str | None]
    places: tuple[str, ...] = ("artifacts",)
    rows_at: Callable[[Any, Mapping[str, Any]], Sequence[tuple[str, ...]]] | None = None

    def depends_on(self, inputs: Any) -> Any:
        """The inputs by field, the code and the libraries, as one canonical value; its digest is the step's key."""
        code = our_code(self.run.__module__, self.run.__name__).to_json()
        return tree({**{one.name: getattr(inputs, one.name) for one in fields(inputs)}, **code})
