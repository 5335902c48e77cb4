"""Starting a retraining exactly once: as a job of Ray's job API, or, where Ray has no dashboard, as a named actor."""

import logging
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private.ray_constants import WORKER_PROCESS_SETUP_HOOK_ENV_VAR

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.cost.processes import TAG
from mlops_ray.giving_way import HOOK
from mlops_ray.retraining.launcher import Launcher, Order, Phase
from mlops_ray.retraining.ray_jobs import RayJobs, dashboard_url
from mlops_ray.retraining.result import RESULTS
from mlops_ray.retraining.retrain import retrain
from mlops_ray.use_case import UseCase, load_use_case

NAMESPACE = "mlops_ray"
# A job has no installed command, only the code that it was sent.
_MAIN = "from mlops_ray.cli.main import main; main()"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobLauncher:
    """By Ray's job API. address: of the dashboard. command: `mlops-ray retraining run USE_CASE …`, to which the order
    is added."""

    address: str
    command: tuple[str, ...]

    def phase(self, submission: str) -> Phase:
        return RayJobs(self.address).phase(submission)

    def start(self, order: Order) -> None:
        more = ("--id", order.retraining, "--as-of", order.as_of.isoformat())
        RayJobs(self.address).submit(order.submission, (*self.command, *more))

    def stop(self, submission: str) -> None:
        RayJobs(self.address).stop(submission)


@dataclass(frozen=True)
class ActorLauncher:
    """A detached actor, named by the submission. A file that it writes first tells one that died from one not begun.

    reference: of the use case's file. It is loaded again there: what depends on the text of a use case's functions
    cannot be found where they came by value.
    """

    use_case: str
    settings: Settings
    feature_repo: Path
    reference: str

    def phase(self, submission: str) -> Phase:
        if _actor(submission) is not None:
            return "running"
        begun = Artifacts(self.settings.artifacts).read_json(RESULTS, self.use_case, f"{submission}.begun.json")
        return "new" if begun is None else "ended"

    def start(self, order: Order) -> None:
        if self.phase(order.submission) != "new":
            return
        options = {"name": order.submission, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
        # Ray takes its hook for a whole job alone; this is how it hands it to workers, and actors hand variables on.
        variables = {WORKER_PROCESS_SETUP_HOOK_ENV_VAR: HOOK, TAG: order.retraining}
        actor = ray.remote(num_cpus=0, max_restarts=0)(_Retraining).options(
            runtime_env={"env_vars": variables}, **options
        )
        actor.remote(self.use_case, self.reference, self.settings, self.feature_repo, order)
        _logger.info("Started actor %s", order.submission)

    def stop(self, submission: str) -> None:
        actor = _actor(submission)
        if actor is not None:
            ray.kill(actor)


class _Retraining:
    """Runs one order and ends. It begins by being made: whoever made it may be dead before it could ask for more."""

    def __init__(self, name: str, reference: str, settings: Settings, feature_repo: Path, order: Order) -> None:
        begun = {"as_of": order.as_of.isoformat()}
        Artifacts(settings.artifacts).write_json(begun, RESULTS, name, f"{order.submission}.begun.json")
        itself = ray.get_runtime_context().current_actor

        def run() -> None:
            try:
                retrain(load_use_case(reference), settings, feature_repo, order.retraining, order.as_of)
            except Exception:
                _logger.exception("Retraining %s died", order.submission)
            finally:
                ray.kill(itself)

        threading.Thread(target=run, name="retraining", daemon=True).start()


def _actor(name: str) -> Any | None:
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return None


def find_launcher(
    use_case: UseCase, settings: Settings, feature_repo: Path, reference: str, config: str | None = None
) -> Launcher:
    """The job API where this Ray has a dashboard, else actors. reference: how `mlops-ray` names the use case.

    A job gets the folder with the code that this process was sent. Where it was sent none, the code is installed, and
    the use case and its definitions are named by absolute paths, which have to exist on every node.
    """
    address = dashboard_url()
    named = reference if reference.endswith(".py") else f"use_cases/{reference}.py"
    if address is None:
        return ActorLauncher(use_case.name, settings, feature_repo, str(Path(named).absolute()))
    options = ["--state", settings.state, "--data", settings.data, *(["--config", config] if config else [])]
    if "working_dir" not in ray.get_runtime_context().runtime_env:
        reference = str(Path(named).absolute())
        options += ["--feature-repo", str(feature_repo)]
    return JobLauncher(address, (sys.executable, "-c", _MAIN, "retraining", "run", reference, *options))
