"""Register: the sealed model as a version of the registry, judged by its gates, and live if nothing forbids it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlops_ray.config import Settings
from mlops_ray.features.training_set import TrainingSet
from mlops_ray.pipeline.fingerprint import Known
from mlops_ray.pipeline.part import joined, part
from mlops_ray.pipeline.steps.step import Given, Step, Where
from mlops_ray.pipeline.steps.training_set import known_training_set
from mlops_ray.pipeline.task import in_task
from mlops_ray.pipeline.tasks import register_and_admit
from mlops_ray.registry.models import missing_version
from mlops_ray.use_case import UseCase


@dataclass(frozen=True)
class RegisterInputs:
    """use_case: what the version's card says, and what it must pass. settings: where it is written and looked up.

    parent_run: MLflow's id of the search, to which the version belongs. challenger: it does not take the champion's
    place.
    """

    use_case: UseCase
    settings: Settings
    training_set: Known[TrainingSet]
    evaluated: Known[Mapping[str, Any]]
    parent_run: str
    challenger: bool


def register_inputs(given: Given) -> RegisterInputs:
    names = ("name", "owner", "purpose", "limits", "gates", "approval", "split")
    evaluated = given.results["evaluate"]
    return RegisterInputs(
        use_case=part(
            given.use_case, *names, time_zone=given.use_case.zone(), label=part(given.use_case.label, "task")
        ),
        settings=part(given.settings, "mlflow_uri", "control_store", "advisories"),
        training_set=known_training_set(given),
        evaluated=Known(evaluated["digest"], evaluated),
        parent_run=str(given.results["train"]["parent_run_id"]),
        challenger=given.challenger,
    )


def run_register(inputs: RegisterInputs, where: Where) -> dict[str, Any]:
    return in_task(
        where,
        "register",
        register_and_admit,
        inputs.use_case,
        joined(inputs.settings, where.settings),
        where.author,
        inputs.training_set.value,
        inputs.evaluated.value,
        where.lineage,
        where.key,
        inputs.challenger,
    )


def verify_register(inputs: RegisterInputs, result: Mapping[str, Any], where: Where) -> str | None:
    settings = joined(inputs.settings, where.settings)
    return missing_version(settings, inputs.use_case.name, int(result["version"]), str(result["digest"]))


REGISTER = Step(
    "register",
    register_inputs,
    run_register,
    verify_register,
    ("artifacts", "state", "feast_registry", "http_host", "oidc_issuer", "model_signing_public_key"),
)
