"""Whose turn it is: how the trials of a search are shared among its candidates."""

import math
from collections.abc import Sequence

from mlops_ray.tasks.evaluation import Metric
from mlops_ray.training.budget import Budget
from mlops_ray.training.trial import Trial, best_so_far

# A candidate that needs what is not installed fails as often as it is tried.
_FAILURES = 2


def next_candidate(
    candidates: Sequence[str],
    trials: Sequence[Trial],
    budget: Budget,
    reduction_factor: float,
    metric: Metric,
    at_once: int,
) -> str | None:
    """The candidate of the next trial, given all trials so far, running ones too; None to wait for a result.

    Successive halving over candidates (Karnin, Koren and Somekh, "Almost optimal exploration in multi-armed bandits",
    ICML 2013; Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", AISTATS
    2016): the rounds have equal parts of the budget, which the candidates of a round share equally, and the best one in
    `reduction_factor` of them is in the next round; the last round has one. Deviations: an arm's value is that of its
    best trial so far; and no round waits for its last trial to end, as in ASHA: every answer is computed anew from all
    that is known, so that the same trials give the same answer, in a search that was interrupted too. A candidate that
    has only failed, twice, is out while another has not.
    """
    of = {name: [trial for trial in trials if trial.candidate == name] for name in candidates}
    left = [name for name in candidates if not _only_fails(of[name])] or list(candidates)
    sizes, quota = _rounds(len(left), reduction_factor), 0.0
    for size in sizes:
        if size < len(left):
            if any(_unknown(of[name]) for name in left):
                return None
            left = sorted(left, key=lambda name: -_worth(of[name], metric))[:size]
        quota += 1 / (len(sizes) * size)
        share = {name: budget.share(of[name], at_once) for name in left}
        waiting = [name for name in left if share[name] < quota - 1e-9]
        if waiting:
            return min(waiting, key=lambda name: (share[name], len(of[name])))
    return left[0]


def trials_at_once(trials: int, candidates: int) -> int:
    """How many trials run at the same time at most, so that those that come later learn from those before.

    A search with all of its trials at once is a random search, whoever proposes; a fifth at a time leaves the sampler
    four rounds to learn in. The CPUs are not idle meanwhile: fewer trials have more threads each.
    """
    return max(candidates, math.ceil(trials / _GENERATIONS))


_GENERATIONS = 5


def _rounds(candidates: int, factor: float) -> list[int]:
    """How many candidates each round has: all, then one in `factor` of those before, down to one."""
    sizes = [candidates]
    while sizes[-1] > 1:
        sizes.append(max(1, min(sizes[-1] - 1, math.ceil(sizes[-1] / factor))))
    return sizes


def _only_fails(trials: Sequence[Trial]) -> bool:
    return len(trials) >= _FAILURES and all(trial.status == "failed" for trial in trials)


def _unknown(trials: Sequence[Trial]) -> bool:
    return all(trial.status == "running" and trial.value is None for trial in trials)


def _worth(trials: Sequence[Trial], metric: Metric) -> float:
    best = best_so_far(tuple(trials), metric)
    return -math.inf if best is None or best.value is None else metric.gain(best.value)
