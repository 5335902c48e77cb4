"""The pipeline: the steps in order, each run again only if its inputs or its code have changed (pipeline.steps).

A finished step leaves a record under the artifact root, named by the digest of all it depends on. A pipeline that was
killed continues after the last record; inside the search it continues after the last finished trial.
"""

import json
import logging
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from mlops_ray.artifacts import Artifacts, digest_json
from mlops_ray.code_version import CodeVersion, code_version, framework_version, lock_digest
from mlops_ray.config import Settings
from mlops_ray.cost.meter import Meter
from mlops_ray.cost.usage import Usage
from mlops_ray.errors import ConfigurationError
from mlops_ray.exploration.rank import choice_of
from mlops_ray.features.declared_views import declared_views
from mlops_ray.features.definitions import Definitions, read_definitions
from mlops_ray.features.training_set import TrainingSet
from mlops_ray.features.transform import FeatureRows
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.declared_resources import resources_of
from mlops_ray.governance.usage import UsageState, read_usage
from mlops_ray.import_closure import code_digest
from mlops_ray.ingestion.sources import SourceFile, find_all_files
from mlops_ray.pipeline.admission import author_of
from mlops_ray.pipeline.declarations import declarations
from mlops_ray.pipeline.erasure_fence import run_fenced
from mlops_ray.pipeline.part import part
from mlops_ray.pipeline.plan import FIRST_TIME, NOTHING_AGAIN, Again, StepPlan, decide
from mlops_ray.pipeline.records import Record, Records
from mlops_ray.pipeline.steps.evaluate import EVALUATE, inputs_for, run_evaluate
from mlops_ray.pipeline.steps.features import FEATURES
from mlops_ray.pipeline.steps.ingest import INGEST
from mlops_ray.pipeline.steps.materialize import MATERIALIZE, bring_online
from mlops_ray.pipeline.steps.register import REGISTER
from mlops_ray.pipeline.steps.step import (
    STEPS,
    Given,
    Notify,
    Step,
    StepFinished,
    StepName,
    StepRuns,
    StepStarted,
    Where,
)
from mlops_ray.pipeline.steps.train import TRAIN, known_trial
from mlops_ray.pipeline.steps.training_set import TRAINING_SET
from mlops_ray.pipeline.warm_start import start_from
from mlops_ray.registry.lineage import Lineage, TrialRecord
from mlops_ray.registry.model_signature import expect_signing_key
from mlops_ray.training.budget import Budget
from mlops_ray.training.last_fit import last_fit_limit_s
from mlops_ray.training.trial import SearchProgress, SearchResult, Trial
from mlops_ray.use_case import UseCase
from mlops_ray.use_case.checks import check_monitored

PIPELINE: dict[StepName, Step] = {
    step.name: step for step in (INGEST, FEATURES, TRAINING_SET, TRAIN, EVALUATE, REGISTER, MATERIALIZE)
}
REFRESH: tuple[StepName, ...] = ("ingest", "features", "materialize")

_OF_SEARCH = ("ended_by", "spent", "started_from", "average", "leaderboard", "looked_at")
logger = logging.getLogger(__name__)


@dataclass
class Pipeline:
    """The steps of one use case with one set of settings. Where nothing has changed, no Ray is needed.

    feature_repo: the folder with Feast's definitions. as_of: nothing known later enters; None means the latest moment
    at which a row of the data became known. notify: told of each step's start and end, and of each trial. challenger:
    the version is registered beside the champion, if there is one, and does not take its place. folder: of the use
    case's file, whose repository lineage names; None for that of `feature_repo`. files: the raw files of each source,
    where they are listed already; else they are listed once, when the first step needs them. start_ray: called before
    a step hands work to Ray, which must be initialised afterwards. meter: measures what each step that runs uses, and
    stops the run where a budget is spent; it must be entered.
    """

    use_case: UseCase
    settings: Settings
    feature_repo: Path
    as_of: datetime | None = None
    notify: Notify = lambda event: None
    challenger: bool = False
    folder: Path | None = None
    files: Mapping[str, Sequence[SourceFile]] | None = None
    start_ray: Callable[[], Any] = lambda: None
    meter: Meter | None = None
    done: dict[StepName, StepFinished] = field(default_factory=dict, init=False)

    def run(self, until: StepName = "materialize", again: Again = NOTHING_AGAIN) -> dict[StepName, StepFinished]:
        """Run the steps up to and including `until`; returns what each gave. Errors are those of the steps.

        Raises ConfigurationError if a step before `again.start` is not unchanged.
        """
        if again.start is not None and STEPS.index(again.start) > STEPS.index(until):
            raise ConfigurationError(f"--from {again.start} comes after --until {until}. Exchange them.")
        return self._run_steps(STEPS[: STEPS.index(until) + 1], again)

    def refresh(self) -> dict[StepName, StepFinished]:
        """New data into the online store: ingest, features, materialize, and nothing that has to do with a model."""
        return self._run_steps(REFRESH, NOTHING_AGAIN)

    def seems_unchanged(self, until: StepName = "materialize", again: Again = NOTHING_AGAIN) -> bool:
        """Whether every step up to `until` has ended once with what it is given now.

        Whether what it made is still there is not looked at, which takes longer: `run` does.
        """
        results: dict[StepName, Mapping[str, Any]] = {}
        for step in STEPS[: STEPS.index(until) + 1]:
            declared = PIPELINE[step]
            depends_on = declared.depends_on(declared.inputs(self._given(results)))
            known = self._records().find(step, digest_json(depends_on))
            if known is None or known.result is None or again.why(step):
                return False
            results[step] = known.result
        return True

    def explain(self, until: StepName = "materialize", again: Again = NOTHING_AGAIN) -> list[StepPlan]:
        """What `run` would do, without doing anything; it needs no Ray.

        What a step depends on that an earlier one gives is taken from that one's last run, if it runs itself.
        """
        plans: list[StepPlan] = []
        results = _Results()
        running: set[StepName] = set()
        for step in STEPS[: STEPS.index(until) + 1]:
            results.used.clear()
            try:
                plan, record = self._plan(step, results, again)
            except KeyError:  # an earlier step has never given what this one needs
                plan, record = StepPlan(step, "runs", FIRST_TIME), None
            if plan.outcome == "unchanged" and results.used & running:
                needed = ", ".join(one for one in STEPS if one in results.used & running)
                plan = StepPlan(step, "open", f"depends on what comes of {needed}")
            if plan.outcome != "unchanged":
                running.add(step)
                record = self._records().last(step) or record
            if record is not None and record.result is not None:
                results[step] = record.result
            plans.append(plan)
        return plans

    def _run_steps(self, steps: Sequence[StepName], again: Again) -> dict[StepName, StepFinished]:
        Path(self.settings.state).mkdir(parents=True, exist_ok=True)  # for the databases that lie there
        if "register" in steps:
            author_of(self.use_case, self.settings)  # who cannot register should know it before hours of training
            self._expect_watchable()
        if "train" in steps:
            Budget.of(self.use_case, self.settings.prices)  # nor is there a search that could not count its budget
        if "evaluate" in steps:
            approval = self.use_case.approval
            expect_signing_key(self.settings, demanded=approval is not None and approval.signed)
        for step in steps:
            self.notify(StepStarted(step))
            started = time.monotonic()
            results = {name: one.result for name, one in self.done.items()}
            plan, record = self._plan(step, results, again)
            if plan.outcome == "runs":
                if again.start is not None and STEPS.index(step) < STEPS.index(again.start):
                    raise ConfigurationError(
                        f"--from {again.start} needs all before it unchanged, and {step} would run: {plan.why}. "
                        f"Run without --from, or from {step}."
                    )
                self.notify(StepRuns(step, plan.why))
                logger.info("%s started (%s): %s", step, record.run_key[:12], plan.why)
                record = self._run_step(step, record, results, again)
            self._records().set_last(step, record.key)
            reused = plan.outcome == "unchanged"
            self.done[step] = StepFinished(step, time.monotonic() - started, reused, record.result)
            logger.info("%s %s in %.1f s", step, "reused" if reused else "finished", self.done[step].seconds)
            self.notify(self.done[step])
        return self.done

    def _plan(
        self, step: StepName, results: Mapping[StepName, Mapping[str, Any]], again: Again
    ) -> tuple[StepPlan, Record]:
        """Whether the step runs; and its record, with the result if it does not, else of the run to be made."""
        declared = PIPELINE[step]
        inputs = declared.inputs(self._given(results))
        depends_on = declared.depends_on(inputs)
        record = Record(digest_json(depends_on), depends_on)
        known = self._records().find(step, record.key)

        def missing(found: Record) -> str | None:
            return declared.verify(inputs, found.result, self._where(step, found, again))

        forced = again.why(step)
        plan = decide(step, record, known, self._records().last(step), missing, forced)
        if known is None or plan.outcome == "unchanged":
            return plan, known or record
        ended = known.result is not None
        return plan, replace(known, attempt=known.attempt + bool(ended and forced), result=None)

    def _run_step(
        self, step: StepName, record: Record, results: Mapping[StepName, Mapping[str, Any]], again: Again
    ) -> Record:
        records, declared = self._records(), PIPELINE[step]
        known = records.find(step, record.key)
        if known is not None and known.attempt != record.attempt:
            records.write(step, record)  # so that, killed, the new attempt is taken up and not the old result reused
        where = self._where_it_works(step, record, again)
        metered = nullcontext() if self.meter is None else self.meter.step(step, record.run_key)
        with metered:
            inputs = declared.inputs(self._given(results))
            result = run_fenced(Artifacts(self.settings.artifacts), declared, inputs, where)
        # As it will be read again: what follows must not depend on whether this step ran or was reused.
        found = replace(record, result=json.loads(json.dumps(result, sort_keys=True)))
        records.write(step, found)
        return found

    def _given(self, results: Mapping[StepName, Mapping[str, Any]]) -> Given:
        return Given(
            self.use_case,
            self.settings,
            self.as_of,
            self.raw_files(),
            self.definitions,
            results,
            self.challenger,
        )

    def _where(self, step: StepName, record: Record, again: Again) -> Where:
        return Where(
            settings=part(self.settings, *PIPELINE[step].places),
            key=record.run_key,
            notify=self._told,
            files=self.raw_files(),
            code=self._code,
            retry_failed=again.retry_failed,
            start_ray=self.start_ray,
        )

    def _where_it_works(self, step: StepName, record: Record, again: Again) -> Where:
        """With what only a step that runs is told."""
        declared_for = resources_of(open_store(self.settings), self.use_case.name).get(step)
        where = replace(self._where(step, record, again), resources=declared_for)
        if self.meter is not None:
            where = replace(where, asked=self.meter.asked)
        if step == "train":
            where = replace(where, start_from=self._start_from)
        if step == "evaluate":
            found, rows = SearchResult.from_json(self._result("train")), self._result("training_set")["rows"]
            where = replace(where, fit_limit_s=last_fit_limit_s(self.use_case, found, rows))
        if step == "register":
            author = author_of(self.use_case, self.settings)
            where = replace(where, author=author, lineage=self._lineage(record.run_key))
        return where

    def _start_from(self) -> dict[str, Any]:
        return start_from(self.use_case, self.settings, datetime.fromisoformat(self._result("ingest")["as_of"]))

    def _told(self, event: Any) -> None:
        """Of a step at work: this is where one that has trials can be stopped between them."""
        if self.meter is not None:
            if isinstance(event, SearchProgress) and event.trial.used:
                state: UsageState = "ended" if event.trial.status != "running" else "running"
                self.meter.trial(event.trial.trial_id, Usage.from_json(event.trial.used), state)
            self.meter.expect_may_go_on()
        self.notify(event)

    def _records(self) -> Records:
        return Records(Artifacts(self.settings.artifacts), self.use_case.name)

    def raw_files(self) -> Mapping[str, Sequence[SourceFile]]:
        """The raw files of each source, listed once. Raises DataError if a source has none."""
        if self.files is None:
            self.files = find_all_files(self.settings, self.use_case.sources)
        return self.files

    def fit(self, trial: Trial, threads: int, memory_bytes: int) -> dict[str, Any]:
        """Fit one trial on the training set that `run` has built, with so many threads, as with so much memory; score
        it and seal it. How long its fits may take is limited where that is declared."""
        results = {name: one.result for name, one in self.done.items()}
        inputs = inputs_for(self._given(results), known_trial(trial))
        where = self._where("evaluate", Record("", None), NOTHING_AGAIN)
        where = replace(where, fit_limit_s=self.use_case.search.last_fit_seconds)
        return run_evaluate(inputs, where, threads, memory_bytes)

    def bring_online(self, definitions: Definitions, rows: Sequence[FeatureRows], as_of: datetime) -> dict[str, int]:
        """Materialize rows in the project of definitions that need not be those of today; by view how many keys."""
        where = self._where("materialize", Record("", None), NOTHING_AGAIN)
        return bring_online(where, self.settings, definitions, rows, as_of)

    def training_set(self) -> TrainingSet:
        """The training set that `run` has built."""
        return TrainingSet.from_json(self._result("training_set"))

    def definitions(self) -> Definitions | None:
        """What the feature service uses of the Feast definitions; None without a service."""
        return self._definitions

    @cached_property
    def _definitions(self) -> Definitions | None:
        case, kept = self.use_case, Artifacts(self.settings.artifacts)
        return read_definitions(self.feature_repo, case.feature_service, kept, declared_views(case))

    @cached_property
    def _code(self) -> CodeVersion:
        return code_version(self.folder or self.feature_repo)

    def _expect_watchable(self) -> None:
        """Raise UseCaseError if slices or seasons are of something that a model of the use case does not see."""
        case, definitions = self.use_case, self.definitions()
        online = [name for view in definitions.views for name in view.features] if definitions else []
        features = [*case.features_of_request(), *online, *case.on_demand_features]
        check_monitored(case, [*case.request_columns(), *features], features)

    def _data_choice(self) -> dict[str, str]:
        """Why these files were chosen among others, if that was recorded (exploration.rank)."""
        files = self._result("ingest")["files"][self.use_case.main_source]
        return choice_of(Artifacts(self.settings.artifacts), self.use_case.name, files)

    def _result(self, step: StepName) -> Any:
        return self.done[step].result

    def _lineage(self, registering: str) -> Lineage:
        """All that the steps have used; what the scan finds is added when it is made. registering: this step's key."""
        snapshot, trained, evaluated = self._result("ingest"), self._result("train"), self._result("evaluate")
        case, best = self.use_case, trained["best"]
        code, definitions = self._code, self.definitions()
        return Lineage(
            use_case=case.name,
            owner=case.owner,
            purpose=case.purpose,
            limits=case.limits,
            digest=evaluated["digest"],
            files=evaluated["files"],
            evaluation=evaluated["evaluation"],
            vulnerabilities={},
            parent_run=trained["parent_run_id"],
            trial_run=best["run_id"],
            trials=tuple(_trial_record(trial) for trial in trained["trials"]),
            metric=trained["metric"],
            candidate=best["candidate"],
            parameters=best["parameters"],
            seed=case.search.seed,
            threads=evaluated["threads"],
            training_set=self._result("training_set")["digest"],
            training_rows=self._result("training_set")["rows"],
            feature_service=case.feature_service,
            feature_definitions=definitions.digest if definitions else digest_json({}),
            feature_rows={view["view"]: view["digest"] for view in self._result("features")["views"]},
            snapshot=snapshot["digest"],
            rows=snapshot["counts"],
            data=_without_credentials(self.settings.data),
            source_files=snapshot["files"],
            contract=snapshot["contract"],
            as_of=snapshot["as_of"],
            declarations=declarations(case) | self._data_choice(),
            code_version=code.commit,
            code_dirty=code.dirty,
            framework=framework_version(),
            code=code_digest("mlops_ray"),
            lock_file=lock_digest(),
            python=platform_now()[0],
            platform=platform_now()[1],
            search={name: trained[name] for name in _OF_SEARCH},
            used=self._used() | {"register": {"key": registering}},
        )

    def _used(self) -> dict[str, dict[str, Any]]:
        """What each step has used that this version was made by, in all its runs under the same key."""
        keys = {name: self._records().last(name) for name in STEPS if name in self.done}
        by_key = {record.run_key: name for name, record in keys.items() if record is not None}
        rows = read_usage(open_store(self.settings), self.use_case.name, kinds=("step",), keys=list(by_key))
        found: dict[str, dict[str, Any]] = {}
        for key, name in by_key.items():
            parts = [row.quantities for row in rows if row.key == key]
            if parts:
                measured = Usage.sum_of(parts).to_json()
                measured.pop("cpus", None)
                found[name] = measured | {"key": key}
        return found


def _trial_record(trial: Mapping[str, Any]) -> TrialRecord:
    names = ("trial_id", "candidate", "parameters", "status", "value")
    used = trial.get("used", {})  # a search of before did not measure
    return TrialRecord(run=trial["run_id"], used=used, **{name: trial[name] for name in names})


def _without_credentials(url: str) -> str:
    """A folder as it is; of a URL, not the user and password that may stand in it."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="")) if "://" in url else url


def platform_now() -> tuple[str, str]:
    """Python's version and the platform, as they go into lineage records."""
    return platform.python_version(), platform.platform()


class _Results(dict[StepName, Mapping[str, Any]]):
    """Results by step, and which of them were used."""

    def __init__(self) -> None:
        super().__init__()
        self.used: set[StepName] = set()

    def __getitem__(self, step: StepName) -> Mapping[str, Any]:
        self.used.add(step)
        return super().__getitem__(step)
