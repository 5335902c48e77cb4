"""The pipeline: the steps in order, each run again only if its inputs, settings or code have changed.

A finished step leaves a record under the artifact root, named by the digest of all it depends on. A pipeline that was
killed continues after the last record; inside the search it continues after the last finished trial.
"""

import logging
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import ray

from mlops_ray.artifacts import Artifacts, digest_json
from mlops_ray.code_version import code_digest, code_version, lock_digest
from mlops_ray.config import Settings
from mlops_ray.errors import ForbiddenError, MlopsRayError
from mlops_ray.features.definitions import read_definitions
from mlops_ray.features.training_set import TrainingSet
from mlops_ray.features.transform import FeatureRows, transform
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import SYSTEM, Actor
from mlops_ray.governance.principals import acting
from mlops_ray.ingestion.ingest import ingest
from mlops_ray.ingestion.snapshot import load_snapshot
from mlops_ray.ingestion.sources import find_files
from mlops_ray.pipeline.declarations import declarations, declared_source, source_text
from mlops_ray.pipeline.steps import STEPS, StepFinished, StepName, StepStarted
from mlops_ray.pipeline.tasks import build_training_set_task, materialize_views, register_and_admit
from mlops_ray.registry.lineage import Lineage, TrialRecord
from mlops_ray.training.trial import SearchProgress, SearchResult, Trial
from mlops_ray.use_case import Feature, UseCase

# The code that a step's result depends on; what stands before it in the loop enters through its inputs.
_CODE: Mapping[StepName, tuple[str, ...]] = {
    "ingest": ("ingestion", "artifacts.py", "use_case"),
    "features": ("features/transform.py", "artifacts.py"),
    "training_set": ("features", "artifacts.py", "use_case"),
    "train": ("training", "features/training_set.py"),
    "evaluate": ("pipeline/sealing.py", "training", "evaluation", "registry", "monitoring"),
    "register": ("registry", "evaluation", "pipeline/admission.py"),
    "materialize": ("features",),
}

logger = logging.getLogger(__name__)


Notify = Callable[[StepStarted | StepFinished | SearchProgress], None]


@dataclass
class Pipeline:
    """The steps of one use case with one set of settings. Ray must be initialised before `run`.

    feature_repo: the folder with Feast's definitions. as_of: nothing known later enters; None means the latest moment
    at which a row of the data became known. notify: told of each step's start and end, and of each trial. challenger:
    the version is registered beside the champion, if there is one, and does not take its place.
    """

    use_case: UseCase
    settings: Settings
    feature_repo: Path
    as_of: datetime | None = None
    notify: Notify = lambda event: None
    challenger: bool = False
    done: dict[StepName, StepFinished] = field(default_factory=dict, init=False)

    def run(self, until: StepName = "materialize") -> dict[StepName, StepFinished]:
        """Run the steps up to and including `until`; returns what each gave. Errors are those of the steps."""
        return self._run_steps(STEPS[: STEPS.index(until) + 1])

    def refresh(self) -> dict[StepName, StepFinished]:
        """New data into the online store: ingest, features, materialize, and nothing that has to do with a model."""
        return self._run_steps(("ingest", "features", "materialize"))

    def _run_steps(self, steps: Sequence[StepName]) -> dict[StepName, StepFinished]:
        artifacts = Artifacts(self.settings.artifacts)
        Path(self.settings.state).mkdir(parents=True, exist_ok=True)  # for the databases that lie there
        if "register" in steps:
            self._author()  # who cannot register should know it before hours of training
        for step in steps:
            self.notify(StepStarted(step))
            started = time.monotonic()
            inputs = getattr(self, f"_{step}_inputs")()
            key = digest_json([inputs, code_digest(*_CODE[step])])
            record = ("pipeline", self.use_case.name, step, f"{key}.json")
            result = artifacts.read_json(*record)
            reused = result is not None
            if result is None:
                logger.info("%s started (%s)", step, key[:12])
                result = getattr(self, f"_{step}")(key)
                artifacts.write_json(result, *record)
            self.done[step] = StepFinished(step, time.monotonic() - started, reused, result)
            logger.info("%s %s in %.1f s", step, "reused" if reused else "finished", self.done[step].seconds)
            self.notify(self.done[step])
        return self.done

    def _ingest_inputs(self) -> Any:
        files = {
            name: {file.name: file.sha256 for file in find_files(self.settings.data, name, source)}
            for name, source in self.use_case.sources.items()
        }
        sources = {name: declared_source(source) for name, source in self.use_case.sources.items()}
        return [files, sources, self.as_of and self.as_of.isoformat()]

    def _ingest(self, key: str) -> dict[str, Any]:
        return ingest(self.use_case, self.settings, self.as_of, str(code_version())).to_json()

    def _features_inputs(self) -> Any:
        views = self.use_case.feature_views
        return [self._result("ingest")["digest"], {name: source_text(view) for name, view in views.items()}]

    def _features(self, key: str) -> dict[str, Any]:
        snapshot = load_snapshot(
            Artifacts(self.settings.artifacts), self.use_case.name, self._result("ingest")["digest"]
        )
        return {"views": [asdict(rows) for rows in transform(self.use_case, self.settings, snapshot)]}

    def _training_set_inputs(self) -> Any:
        case = self.use_case
        declared = [case.entities, case.event_time, case.lead_time.total_seconds(), case.feature_service]
        expressions = [case.label.value, case.label.known_at, *case.features_of_request().values()]
        texts = [expression.meta.serialize(format="json") for expression in expressions]
        views = {view["view"]: view["digest"] for view in self._result("features")["views"]}
        return [self._result("ingest")["digest"], views, self.definitions(), declared, texts, self._moment()]

    def _training_set(self, key: str) -> dict[str, Any]:
        return self._task(
            1,
            build_training_set_task,
            self.use_case,
            self.settings,
            self._result("ingest")["digest"],
            self.definitions(),
            self._feature_rows(),
            datetime.fromisoformat(self._moment()),
        )

    def _train_inputs(self) -> Any:
        case = self.use_case
        return [
            self._result("training_set")["digest"],
            repr(case.candidates),
            repr(case.split),
            repr(case.search),
            case.metric,
        ]

    def _train(self, key: str) -> dict[str, Any]:
        from mlops_ray.training.search import search

        return search(self.use_case, self.settings, self.training_set(), key, self.notify).to_json()

    def _evaluate_inputs(self) -> Any:
        best = SearchResult.from_json(self._result("train")).best
        columns = self.use_case.sources[self.use_case.main_source].columns
        declared = [repr(columns), repr(self.use_case.serving), self.use_case.slices, repr(self.use_case.monitoring)]
        return [self._train_inputs(), best.trial_id, dict(best.parameters), *declared]

    def _evaluate(self, key: str) -> dict[str, Any]:
        # A challenger is made while others serve, and what waits for all CPUs of a machine would wait for ever.
        cpus = max(1, node_cpus() // 2) if self.challenger else node_cpus()
        return self.fit(SearchResult.from_json(self._result("train")).best, cpus)

    def fit(self, trial: Trial, cpus: int) -> dict[str, Any]:
        """Fit one trial on the training set that `run` has built, with so many CPUs; score it and seal it."""
        from mlops_ray.pipeline.sealing import fit_score_and_seal

        return self._task(cpus, fit_score_and_seal, self.use_case, self.settings, self.training_set(), trial)

    def _register_inputs(self) -> Any:
        demands = [repr(self.use_case.gates), repr(self.use_case.approval)]
        trained = [self._result("evaluate")["digest"], self._result("train")["parent_run_id"]]
        stores = [self.settings.mlflow_uri, self.settings.control_store, self.settings.advisories]
        return [*trained, *stores, *demands, *(["challenger"] if self.challenger else [])]

    def _register(self, key: str) -> dict[str, Any]:
        return self._task(
            1,
            register_and_admit,
            self.use_case,
            self.settings,
            self._author(),
            self.training_set(),
            self._result("evaluate"),
            self._lineage(),
            key,
            self.challenger,
        )

    def _author(self) -> Actor:
        """Who runs this pipeline. Raises ForbiddenError if that must be known and is not."""
        author = acting(open_store(self.settings), self.settings, os.environ.get("MLOPS_RAY_API_KEY"))
        rule = self.use_case.approval
        if rule is not None and rule.required and rule.four_eyes and author == SYSTEM:
            raise ForbiddenError(
                f"Versions of {self.use_case.name} need the approval of somebody other than their author, and nobody "
                f"knows who that is. Set MLOPS_RAY_API_KEY to the author's key (in a job: in its runtime environment)."
            )
        return author

    def _materialize_inputs(self) -> Any:
        views = {view["view"]: view["digest"] for view in self._result("features")["views"]}
        stores = [self.settings.feast_registry, self.settings.online_store]
        return [views, self.definitions(), self._moment(), stores]

    def _materialize(self, key: str) -> dict[str, Any]:
        moment = self._moment()
        if self.use_case.feature_service is None:
            return {"as_of": moment, "keys": {}}
        rows, service = self._feature_rows(), self.use_case.feature_service
        found = self._task(1, materialize_views, self.settings, service, rows, datetime.fromisoformat(moment))
        return {"as_of": moment, "keys": found}

    def _task(self, cpus: int, function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
        """Run as one Ray task with so many CPUs; our own errors come back as they were raised."""
        result: dict[str, Any]
        try:
            result = ray.get(ray.remote(num_cpus=cpus)(function).remote(*arguments))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, MlopsRayError):
                raise error.cause from None
            raise
        return result

    def _result(self, step: StepName) -> Any:
        return self.done[step].result

    def _moment(self) -> str:
        """`as_of`, as given or as found in the data."""
        return str(self._result("ingest")["as_of"])

    def _feature_rows(self) -> list[FeatureRows]:
        return [FeatureRows(**view) for view in self._result("features")["views"]]

    def training_set(self) -> TrainingSet:
        """The training set that `run` has built."""
        found = self._result("training_set")
        features = tuple(Feature(feature["name"], feature["kind"]) for feature in found["features"])
        return TrainingSet(**found | {"as_of": datetime.fromisoformat(found["as_of"]), "features": features})

    def definitions(self) -> dict[str, str]:
        """The texts of the Feast definitions, by file; none without a feature service."""
        found = read_definitions(self.feature_repo, self.use_case.feature_service)
        return dict(found.files) if found else {}

    def _lineage(self) -> Lineage:
        """All that the steps have used; what the scan finds is added when it is made."""
        snapshot, trained, evaluated = self._result("ingest"), self._result("train"), self._result("evaluate")
        case, code, best = self.use_case, code_version(), trained["best"]
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
            feature_definitions=digest_json(self.definitions()),
            feature_rows={view["view"]: view["digest"] for view in self._result("features")["views"]},
            snapshot=snapshot["digest"],
            rows=snapshot["counts"],
            data=_without_credentials(self.settings.data),
            source_files=snapshot["files"],
            contract=snapshot["contract"],
            as_of=snapshot["as_of"],
            declarations=declarations(case),
            code_version=code.commit,
            code_dirty=code.dirty,
            code=code_digest("."),
            lock_file=lock_digest(),
            python=platform_now()[0],
            platform=platform_now()[1],
        )


def _trial_record(trial: Mapping[str, Any]) -> TrialRecord:
    names = ("trial_id", "candidate", "parameters", "status", "value")
    return TrialRecord(run=trial["run_id"], **{name: trial[name] for name in names})


def _without_credentials(url: str) -> str:
    """A folder as it is; of a URL, not the user and password that may stand in it."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="")) if "://" in url else url


def platform_now() -> tuple[str, str]:
    """Python's version and the platform, as they go into lineage records."""
    return platform.python_version(), platform.platform()


def node_cpus() -> int:
    """The CPUs of the largest node, so that a fit can use all of one machine."""
    return int(max(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"]))
