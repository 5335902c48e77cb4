"""Run: the pipeline of a use case from a notebook, and what each of its steps made."""

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import polars as pl
import uuid6

from mlops_ray.errors import ConfigurationError
from mlops_ray.extras import expect_extra
from mlops_ray.sdk.ray import quiet, start_ray
from mlops_ray.sdk.settings import AnyPath, settings_for, use_case_of
from mlops_ray.show.document import table
from mlops_ray.show.shown import Shown
from mlops_ray.show.text import columns, printable
from mlops_ray.state_folder import closed
from mlops_ray.use_case import UseCase
from mlops_ray.use_case.loading import case_folder, definitions_folder

_PROCESS = str(uuid6.uuid7())
"""By what the meter knows this process and its Ray, whose workers are told it once, for all runs."""

if TYPE_CHECKING:
    from mlops_ray.config import Settings
    from mlops_ray.evaluation.report import EvaluationReport
    from mlops_ray.exploration.explore import Exploration, Part
    from mlops_ray.pipeline.steps.step import StepFinished, StepName
    from mlops_ray.sdk.endpoint import Endpoint
    from mlops_ray.sdk.leaderboard import Leaderboard
    from mlops_ray.sdk.versions import Version


def run(
    use_case: UseCase | AnyPath,
    *,
    state: AnyPath | None = None,
    data: AnyPath | None = None,
    as_of: datetime | None = None,
    until: "StepName" = "materialize",
    force: Sequence["StepName"] = (),
    challenger: bool = False,
    feature_repo: AnyPath | None = None,
) -> "Run":
    """Run the pipeline of a use case: a `UseCase`, the path of its file, or its name in `use_cases/`.

    Steps whose inputs and code have not changed are reused, and need no Ray; for the others the Ray of this process is
    used, that of RAY_ADDRESS, or one that is started here and ends with this process. A line is printed for each step.

    state, data: folders or URLs; default those of the project (`settings.yaml`), the environment (MLOPS_RAY_STATE,
    MLOPS_RAY_DATA), or `state` and `data` here. as_of: nothing known later enters; default the data's latest moment.
    until: the last step. force: steps that run although nothing has changed. challenger: the version does not take the
    champion's place, but waits beside it for a rollout. feature_repo: the folder of the Feast definitions; default
    beside the use case's folder.
    What this process uses meanwhile, and a Ray that it started, is measured and counts for the month's budget; of a Ray
    that was there already, this process alone.
    Raises what the steps raise: DataError for data that cannot be used, UseCaseError for what cannot be declared,
    ForbiddenError for who may not register a version, BudgetError where the month's budget is spent.
    """
    expect_extra("train", "The pipeline")
    quiet()
    from rich.console import Console

    from mlops_ray.cost.meter import metered
    from mlops_ray.ingestion.sources import find_all_files
    from mlops_ray.operations.preconditions import expect_can_train, expect_can_work
    from mlops_ray.pipeline.pipeline import Pipeline
    from mlops_ray.pipeline.plan import Again
    from mlops_ray.pipeline.progress import TerminalProgress
    from mlops_ray.pipeline.promises import declare_promises
    from mlops_ray.pipeline.steps.step import STEPS

    if unknown := [name for name in (until, *force) if name not in STEPS]:
        raise ConfigurationError(f"{unknown[0]!r} is no step. There are {', '.join(STEPS)}.")
    case, settings = use_case_of(use_case), settings_for(use_case, state, data)
    reference = "" if isinstance(use_case, UseCase) else str(use_case)
    folder = definitions_folder(reference, None if feature_repo is None else str(feature_repo))
    # Plain lines: Rich's own forms for notebooks have no progress without ipywidgets, and colours that fit no theme.
    console = Console(file=sys.stdout, force_jupyter=False, force_terminal=False)
    with closed():
        expect_can_train(case)
        expect_can_work(settings)
        declare_promises(settings, case)
        files = find_all_files(settings, case.sources)
        with metered(settings, case.name, _PROCESS) as meter:
            pipeline = Pipeline(
                case, settings, folder, as_of, TerminalProgress(console), challenger,
                folder=case_folder(reference) if reference else None,
                files=files, start_ray=partial(start_ray, settings), meter=meter,
            )  # fmt: skip
            done = pipeline.run(until, Again(force=tuple(one for one in STEPS if one in force)))
    return Run(case, settings, done)


@dataclass(frozen=True, repr=False)
class Run(Shown):
    """What a pipeline made. steps: the end of each, with its result, seconds, and whether it was reused."""

    use_case: UseCase
    settings: "Settings"
    steps: Mapping["StepName", "StepFinished"]

    @property
    def leaderboard(self) -> "Leaderboard":
        """The trials of the search, the best first."""
        from mlops_ray.sdk.leaderboard import Leaderboard

        return Leaderboard.of(self.use_case.name, self._result("train"))

    @property
    def training_set(self) -> "RunTrainingSet":
        """What was learned from, and judged on."""
        return RunTrainingSet(self.use_case, self.settings, self._result("training_set"))

    @property
    def evaluation(self) -> "EvaluationReport":
        """How the chosen model did on the test period."""
        from mlops_ray.evaluation.report import EvaluationReport

        found = self._result("evaluate")
        return EvaluationReport(
            self.use_case.name, found["candidate"], self._result("train")["metric"], found["evaluation"]
        )

    @property
    def model(self) -> "Version":
        """The version that was registered."""
        from mlops_ray.sdk.connection import Connection

        number = int(self._result("register")["version"])
        return Connection(self.settings.url, None, self.settings).versions(self.use_case.name)[number]

    def serve(self, port: int | None = None) -> "Endpoint":
        """Serve the champion on the Ray of this process, until that ends. port: default the settings' (8000).

        Raises ConfigurationError if there is no champion, or the port is taken.
        """
        quiet()
        from mlops_ray.operations.preconditions import expect_can_serve
        from mlops_ray.sdk.connection import Connection
        from mlops_ray.serving.local import is_serving, serve_use_case

        logging.getLogger("ray.serve").setLevel(logging.WARNING)  # importing it sets its own

        settings = self.settings if port is None else self.settings.model_copy(update={"http_port": port})
        with closed():
            if not is_serving():
                expect_can_serve(settings)
            start_ray(settings)
            print(f"Serving {self.use_case.name} at {settings.url} …")
            serve_use_case(settings, self.use_case.name)
        from mlops_ray.governance.development_keys import credential

        return Connection(settings.url, credential(settings), settings).endpoint(self.use_case.name)

    def _result(self, step: "StepName") -> Mapping[str, Any]:
        if step not in self.steps:
            raise ConfigurationError(
                f"This run ended before {step}. Run it again with until={step!r}, or without until."
            )
        return self.steps[step].result

    @property
    def title(self) -> str:
        return f"{self.use_case.name}: run"

    def _rows(self) -> list[tuple[str, str, str]]:
        from mlops_ray.pipeline.progress import sentence

        return [
            (name, "reused" if one.reused else f"{one.seconds:.1f} s", sentence(one))
            for name, one in self.steps.items()
        ]

    def _gates(self) -> list[str]:
        if "register" not in self.steps:
            return []
        found = self.steps["register"].result
        gates = [("" if gate["passed"] else "Gate failed: ") + str(gate["sentence"]) for gate in found["gates"]]
        return [str(found["standing"]), *gates, *(f"Doubt: {one}" for one in found["doubts"])]

    def _html(self) -> str:
        rows = [tuple(map(escape, row)) for row in self._rows()]
        gates = "".join(f"<li>{escape(one)}</li>" for one in self._gates())
        return f"<h1>{escape(self.title)}</h1>{table(('step', 'took', 'what it made'), rows)}<ul>{gates}</ul>"

    def _text(self) -> str:
        return "\n".join([columns(("step", "took", "what it made"), self._rows()), *map(printable, self._gates())])


@dataclass(frozen=True, repr=False)
class RunTrainingSet(Shown):
    """One row for each thing to predict, with its features as they were known then, and its label."""

    use_case: UseCase
    settings: "Settings"
    made: Mapping[str, Any]

    @property
    def rows(self) -> int:
        return int(self.made["rows"])

    @property
    def digest(self) -> str:
        return str(self.made["digest"])

    @property
    def features(self) -> dict[str, str]:
        """Of each feature its kind: number or category."""
        return {one["name"]: one["kind"] for one in self.made["features"]}

    def frame(self) -> pl.DataFrame:
        """All its rows: entities, event time, `event_timestamp` (the moment of prediction), features, `label`."""
        from mlops_ray.artifacts import read_parquet

        return read_parquet(str(self.made["url"]))

    def explore(self, part: "Part | None" = None) -> "Exploration":
        """How each feature tells the label, leakage, and drift between train, validation and test."""
        from mlops_ray.exploration.explore import explore_training_set

        start = partial(start_ray, self.settings)
        return explore_training_set(self.use_case, self.settings, self.digest, part, start)

    @property
    def title(self) -> str:
        return f"{self.use_case.name}: training set {self.digest[:12]}"

    def _html(self) -> str:
        said = f"{self.rows:,} rows, {len(self.features)} features, as of {self.made['as_of']}."
        rows = [(escape(name), escape(kind)) for name, kind in self.features.items()]
        more = "<p><small>frame() has the rows, explore() what is in them.</small></p>"
        return f"<h1>{escape(self.title)}</h1><p>{escape(said)}</p>{table(('feature', 'kind'), rows)}{more}"

    def _text(self) -> str:
        said = f"{self.title}: {self.rows:,} rows as of {self.made['as_of']}; features: "
        return printable(said + ", ".join(f"{name} ({kind})" for name, kind in self.features.items()))
