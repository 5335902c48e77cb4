"""Evaluate: the chosen trial fitted once more, scored once on the test period, and sealed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlops_ray.artifacts import Artifacts
from mlops_ray.errors import UseCaseError
from mlops_ray.features.training_set import TrainingSet
from mlops_ray.pipeline.fingerprint import Known
from mlops_ray.pipeline.part import part
from mlops_ray.pipeline.steps.step import Given, Step, Where
from mlops_ray.pipeline.steps.train import chosen_trial
from mlops_ray.pipeline.steps.training_set import known_training_set
from mlops_ray.pipeline.task import Limit, in_task
from mlops_ray.registry.model_signature import SIGNATURE
from mlops_ray.training.ensemble import candidates_in
from mlops_ray.training.trial import Trial
from mlops_ray.use_case import BetterThanBaseline, UseCase


@dataclass(frozen=True)
class EvaluateInputs:
    """use_case: of the candidates only those that are fitted; of the search only its seed."""

    use_case: UseCase
    training_set: Known[TrainingSet]
    trial: Known[Trial]


def evaluate_inputs(given: Given) -> EvaluateInputs:
    return inputs_for(given, chosen_trial(given))


def inputs_for(given: Given, trial: Known[Trial]) -> EvaluateInputs:
    """The inputs for any trial, also one that another search has chosen."""
    case = given.use_case
    names = (
        "name",
        "entities",
        "event_time",
        "lead_time",
        "label",
        "request_features",
        "feature_service",
        "on_demand_features",
    )
    part_of_case = part(
        case,
        *(*names, "split", "fit", "serving", "slices", "monitoring"),
        gates=tuple(one for one in case.gates if isinstance(one, BetterThanBaseline)),
        candidates=tuple(one for one in case.candidates if one.name in candidates_in(trial.value)),
        search=part(case.search, "seed"),
        time_zone=case.zone(),
        sources={case.main_source: part(case.sources[case.main_source], "columns")},
    )
    return EvaluateInputs(part_of_case, known_training_set(given), trial)


def run_evaluate(
    inputs: EvaluateInputs, where: Where, threads: int | None = None, memory_bytes: int | None = None
) -> dict[str, Any]:
    """threads: with how many it is fitted, on which the last digits can depend; None for as many as CPUs are free.
    memory_bytes: by which it is decided on which rows it is fitted; None for what the step is given. Raises
    UseCaseError if the fits take longer than `Where.fit_limit_s`."""
    from mlops_ray.pipeline.sealing import fit_score_and_seal

    what = inputs.use_case, where.settings, inputs.training_set.value, inputs.trial.value, where.key, memory_bytes
    limit = None if where.fit_limit_s is None else Limit(where.fit_limit_s, _never_ends(inputs.trial.value, where))
    return in_task(where, "evaluate", fit_score_and_seal, *what, cpus=None, threads=threads, limit=limit)


def _never_ends(trial: Trial, where: Where) -> UseCaseError:
    return UseCaseError(
        f"The candidate {trial.candidate} was chosen, and fitting it to all rows took more than {where.fit_limit_s:g} "
        f"seconds and was killed. No version is registered, and the search is kept. See to it that its fit ends on all "
        f"rows (parameters: {dict(trial.parameters)}), or raise Search(last_fit_seconds=...), which searches nothing "
        f"again, and run the same again."
    )


def verify_evaluate(inputs: EvaluateInputs, result: Mapping[str, Any], where: Where) -> str | None:
    folder = ("sealed_models", inputs.use_case.name, str(result["digest"]))
    artifacts = Artifacts(where.settings.artifacts)
    expected = {*result["files"], "manifest.json"} | ({SIGNATURE} if where.settings.model_signing_key else set())
    missing = expected - {entry.name for entry in artifacts.entries(*folder)}
    if missing:
        return f"sealed model {result['digest'][:12]} lacks {', '.join(sorted(missing))} below {artifacts.root}"
    return None


EVALUATE = Step(
    "evaluate",
    evaluate_inputs,
    run_evaluate,
    verify_evaluate,
    ("artifacts", "model_signing_key", "model_signing_public_key"),
)
