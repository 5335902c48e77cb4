"""The last fit: how long the chosen model may be fitted to all rows before it is taken to never end."""

from mlops_ray.training.ensemble import members_of
from mlops_ray.training.trial import SearchResult, Trial
from mlops_ray.use_case import UseCase
from mlops_ray.use_case.search import ENSEMBLE

# A candidate whose time grows faster than the rows, on fewer CPUs than its trial had, still ends in so many times what
# the rows say.
_MARGIN = 10
# Reading and encoding the rows is among it, and no part of what a trial took.
_LEAST_S = 3_600.0
# On the training period, to find thresholds and calibrations by, and on all rows.
_FITS = 2


def last_fit_limit_s(use_case: UseCase, found: SearchResult, rows: int) -> float:
    """How long all fits of the model that was chosen may take together: `Search(last_fit_seconds=...)`, or else for
    each of them the longest of an hour, of what a trial may take (`Search.trial_seconds`, and `Fit.time_limit` where it
    is declared), and of ten times what its trial took, by the rows that it was given.

    rows: of the training set. Of an average each model is fitted, and for each quantile once more.
    """
    search, time_limit = use_case.search, use_case.fit.time_limit
    if search.last_fit_seconds is not None:
        return search.last_fit_seconds
    may_s = search.trial_seconds + (0.0 if time_limit is None else time_limit.total_seconds())
    grown = max(1.0, rows / (found.looked_at or rows))
    fits = _FITS * len(use_case.label.task.fitted_as)
    return fits * sum(max(_LEAST_S, may_s, _MARGIN * grown * _took_s(trial)) for trial in _fitted(found))


def _fitted(found: SearchResult) -> tuple[Trial, ...]:
    if found.best.candidate != ENSEMBLE:
        return (found.best,)
    inside = members_of(found.best.parameters)
    return tuple(trial for trial in found.trials if trial.trial_id in inside)


def _took_s(trial: Trial) -> float:
    """To its end, also of one that was stopped before."""
    return trial.seconds / trial.fraction if trial.fraction else 0.0
