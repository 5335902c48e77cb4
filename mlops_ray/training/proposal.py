"""The next parameters to try: a pure function of the seed and of the trials before."""

import hashlib
import math
import warnings
from collections.abc import Sequence
from typing import Any

import optuna

from mlops_ray.training.trial import Trial
from mlops_ray.use_case import Candidate, Choice, Integer, Parameters, SearchSpace, Uniform

# The first, which is no random one, and four at random; from then on the sampler learns from what came out. With one at
# random it stays near the middle, and the best is often at an edge.
_STARTUP_TRIALS = 5


def propose(
    candidate: Candidate,
    number: int,
    before: Sequence[Trial],
    seed: int,
    lower_is_better: bool = False,
    start: Parameters | None = None,
) -> Parameters:
    """Parameters of the candidate's trial `number`, given its trials `before`, those that still run among them.

    The first trial takes `start` where it lies in the space, or else the middle of the space. The others ask Optuna's
    tree-structured Parzen estimator (Bergstra et al., "Algorithms for hyper-parameter optimization", 2011), over all
    parameters together (multivariate; Falkner, Klein and Hutter, "BOHB", ICML 2018), seeded anew for each number: an
    interrupted search goes on as it would have, without the state of any sampler being kept.

    What a trial has reached at a part of its budget counts, whether ASHA has stopped it there or it goes on: after all
    that finished, those that came farther before the others. One that has reached nothing yet is taken for a bad one
    (constant liar), so that the same place is not tried twice at a time.
    """
    if number == 0:
        if start is None or not lies_in(candidate.space, start):
            return middle(candidate.space)
        return {name: _of_kind(candidate.space[name], value) for name, value in start.items()}
    digest = hashlib.sha256(f"{seed}:{candidate.name}:{number}".encode()).digest()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=int.from_bytes(digest[:4]), n_startup_trials=_STARTUP_TRIALS, multivariate=True, constant_liar=True
        )
    distributions = {name: distribution(dimension) for name, dimension in candidate.space.items()}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(sampler=sampler, direction="minimize" if lower_is_better else "maximize")
        for trial in before:
            study.add_trial(_frozen(trial, distributions))
        parameters: Parameters = study.ask(distributions).params
    finally:
        optuna.logging.set_verbosity(verbosity)
    return parameters


def lies_in(space: SearchSpace, parameters: Parameters) -> bool:
    """Whether these are the parameters of this space, each within its range."""
    return space.keys() == parameters.keys() and all(_within(space[name], parameters[name]) for name in space)


def _within(dimension: Uniform | Integer | Choice, value: Any) -> bool:
    if isinstance(dimension, Choice):
        return any(value == one and type(value) is type(one) for one in dimension.values)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return dimension.low <= value <= dimension.high and not (isinstance(dimension, Integer) and value % 1)


def _of_kind(dimension: Uniform | Integer | Choice, value: str | float | int | bool) -> str | float | int | bool:
    """What may have been a number of another kind when it was recorded."""
    if isinstance(dimension, Choice):
        return value
    return int(value) if isinstance(dimension, Integer) else float(value)


def middle(space: SearchSpace) -> Parameters:
    """The middle of each range, on its own scale, and the first of each choice."""
    return {name: _middle(dimension) for name, dimension in space.items()}


def _middle(dimension: Uniform | Integer | Choice) -> str | float | int | bool:
    if isinstance(dimension, Choice):
        return dimension.values[0]
    low, high = dimension.low, dimension.high
    # Of parts, as products and sums of very large and very small numbers are none.
    centre = math.sqrt(low) * math.sqrt(high) if dimension.log else low / 2 + high / 2
    return round(centre) if isinstance(dimension, Integer) else min(max(centre, float(low)), float(high))


def distribution(dimension: Uniform | Integer | Choice) -> optuna.distributions.BaseDistribution:
    if isinstance(dimension, Choice):
        return optuna.distributions.CategoricalDistribution(dimension.values)
    if isinstance(dimension, Integer):
        return optuna.distributions.IntDistribution(dimension.low, dimension.high, log=dimension.log)
    return optuna.distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _frozen(trial: Trial, distributions: dict[str, optuna.distributions.BaseDistribution]) -> optuna.trial.FrozenTrial:
    """As Optuna sees it; what failed does not count at all."""
    states = optuna.trial.TrialState
    reached = states.PRUNED if trial.steps else states.RUNNING
    state = {"finished": states.COMPLETE, "stopped": states.PRUNED, "failed": states.FAIL}.get(trial.status, reached)
    return optuna.trial.create_trial(
        state=state,
        value=trial.value if trial.status == "finished" else None,
        params=dict(trial.parameters),
        distributions=distributions,
        intermediate_values={round(100 * step.fraction): step.value for step in trial.steps},
    )
