"""The search: one Ray Tune experiment over all candidates, which survives being killed.

MLflow holds every trial with its parameters, steps and end (training.tracking), so there is nothing to restore but
that: an attempt reads the trials that have begun, shows them to the sampler and to ASHA, and goes on. Tune's own
experiment state is not used for it. Tune writes it once in a while, in several files that do not change together,
without the state of its scheduler, and forgets trials begun after the last time.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlops_ray.config import Settings
from mlops_ray.errors import UnavailableError
from mlops_ray.features.training_set import TrainingSet
from mlops_ray.training.averaging import average_the_best
from mlops_ray.training.budget import Budget
from mlops_ray.training.experiment import run_trials
from mlops_ray.training.kept_answers import KeptAnswers
from mlops_ray.training.leaderboard import leaderboard, table
from mlops_ray.training.shared_data import encode_where_it_fits, rows_looked_at
from mlops_ray.training.slots import Slots
from mlops_ray.training.tracking import open_search
from mlops_ray.training.trial import SearchProgress, SearchResult
from mlops_ray.training.trial_ledger import TrialLedger
from mlops_ray.use_case import UseCase

if TYPE_CHECKING:
    from mlops_ray.governance.declared_resources import Resources

logger = logging.getLogger(__name__)


def search(
    use_case: UseCase,
    settings: Settings,
    training_set: TrainingSet,
    key: str,
    progress: Callable[[SearchProgress], None] | None = None,
    retry_failed: bool = False,
    start_from: Mapping[str, Any] | None = None,
    resources: "Resources | None" = None,
    asked: Callable[[float, int], None] = lambda cpus, memory_bytes: None,
) -> SearchResult:
    """Search the parameters of all candidates; fit on the train part, judge on the validation part.

    `key` identifies the search: called again with the same key after being killed at any moment, it keeps the trials
    that have ended, runs those that have not, and makes no second MLflow run for any. Ray must be initialised. A trial
    that raises is recorded as failed; it does not end the search. Trials that failed before run again if what is
    installed has changed since, or all of them with `retry_failed`. When a budget is spent the search ends with the
    best that it has found, and says which. start_from: see SearchResult.started_from. resources: what each trial is
    given in the place of what `Search.resources` says. asked: is told what it is given, of each candidate.

    Raises DataError if a part of the split is unusable, UseCaseError if no trial of any candidate finished,
    ConfigurationError if there is a budget of money and no prices to count it by, UnavailableError if MLflow is down.
    """
    started, budget = time.monotonic(), Budget.of(use_case, settings.prices)
    runs = open_search(
        settings,
        use_case.name,
        use_case.metric,
        key,
        training_set,
        {"mlops_ray.feature_service": str(training_set.feature_service)},
        start_from,
        rows_looked_at(use_case, training_set),
    )
    rows = runs.rows
    if rows != use_case.search.rows:
        logger.info("Trials are given %d of %d rows: more do not fit in the memory of a node.", rows, training_set.rows)
    ledger = TrialLedger(runs, training_set, use_case, budget, progress, retry_failed)
    kept = KeptAnswers(settings.artifacts, use_case.name, key) if use_case.search.ensemble > 1 else None
    done, before = len(ledger.ended()), ledger.ended_by()
    logger.info("Search %s: %d of %d trials have ended.", runs.parent_run_id, done, ledger.budget.trials)
    try:
        data = encode_where_it_fits(use_case, training_set, rows)
        if ledger.unfinished() or not before:
            ledger.start_clock(started)
            slots = Slots(use_case.search, use_case.candidates, ledger.budget.trials, resources)
            for held in slots.holds.values():
                asked(held.cpus, held.memory_bytes)
            run_trials(use_case, settings, data, key, ledger, kept, slots)
            _require_ended(ledger)
        if kept is not None:
            average_the_best(use_case, training_set, ledger, kept, rows)
        ledger.reconcile()
    except BaseException:
        ledger.abandon()
        raise
    result = replace(ledger.result(), looked_at=rows)
    metric = use_case.label.task.metrics[use_case.metric]
    runs.log_leaderboard(table(leaderboard(result, metric)))
    logger.info(
        "Search %s: best is %s with %s %.4f, after %.1f s. It ended by %s.",
        runs.parent_run_id,
        result.best.trial_id,
        use_case.metric,
        result.best.value,
        time.monotonic() - started,
        result.ended_by,
    )
    return result


def _require_ended(ledger: TrialLedger) -> None:
    unfinished = [trial.trial_id for trial in ledger.unfinished()]
    if unfinished or not ledger.ended_by():
        raise UnavailableError(
            f"Ray Tune ended with {len(ledger.ended())} of {ledger.budget.trials} trials done, without "
            f"{', '.join(unfinished) or 'those that had not begun'}. Run the same again: it goes on with them."
        )
