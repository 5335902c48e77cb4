"""Domain classifier: changes of how features go together, which no single one shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_ray.tasks.roc_auc import count_scores, roc_auc

_Float = NDArray[np.float32]
SAMPLE_ROWS = 1000
# Fewer rows than this of either side teach a classifier nothing.
_MINIMUM_ROWS = 100
_SEED = 0
NOT_LEARNED = (
    "How features go together was not looked at: scikit-learn is not installed where drift is watched "
    "(pip install 'mlops_ray[watch]')."
)


@dataclass(frozen=True)
class DomainClassifier:
    """How well a classifier tells rows of the window from rows of the reference: 2 AUC - 1, from 0 (not at all) to 1.

    Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", 2017, section 3; Rabanser, Günnemann and Lipton,
    "Failing loudly: an empirical study of methods for detecting dataset shift", 2019, section 3 ("Classif").
    Deviations: ROC AUC instead of accuracy, which needs no threshold; each half of the rows is judged by trees learned
    from the other half, so that no row is lost to training, and equal rows are in the same half; and the threshold is
    learned from the reference period as that of every detector is, not from a binomial distribution, which takes rows
    for independent.
    """

    name: str = "domain_classifier"

    def statistic(self, reference: _Float, window: _Float) -> float:
        """Of two matrices [rows, features], NaN where a value is missing; NaN with fewer than 100 rows of a side."""
        if min(len(reference), len(window)) < _MINIMUM_ROWS:
            return nan
        rows, side, fold = _stacked(reference, window)
        if any(len(np.unique(side[fold == half])) < 2 for half in (0, 1)):
            return nan  # too few different rows to learn from some and to judge others
        score = np.empty(len(rows))
        for half in (0, 1):
            model = _trees().fit(rows[fold != half], side[fold != half])
            score[fold == half] = model.predict_proba(rows[fold == half])[:, 1]
        return max(0.0, 2 * roc_auc(*count_scores(score, side)).value - 1)

    def tell_apart(self, reference: _Float, window: _Float, features: Sequence[str], most: int = 3) -> tuple[str, ...]:
        """The features without which the sides are harder to tell apart, the most telling first.

        By permutation importance (Breiman, "Random forests", 2001, section 10) on rows that were not learned from.
        """
        from sklearn.inspection import permutation_importance

        rows, side, fold = _stacked(reference, window)
        model = _trees().fit(rows[fold == 0], side[fold == 0])
        found = permutation_importance(
            model, rows[fold == 1], side[fold == 1], scoring="roc_auc", n_repeats=3, random_state=_SEED
        ).importances_mean
        order = np.argsort(-found, kind="stable")[:most]
        return tuple(features[at] for at in order if found[at] > 0) or (features[order[0]],)


def can_learn() -> bool:
    """Whether what learns is installed here; a node that only serves has none."""
    return find_spec("sklearn") is not None


def _stacked(reference: _Float, window: _Float) -> tuple[_Float, NDArray[np.bool_], NDArray[np.int64]]:
    """Both sides, which is which, and in which half each row is.

    Equal rows are in the same half, of either side: entities that are asked about again and again would else be
    learned by heart in one half and recognised in the other.
    """
    side = np.repeat([False, True], [len(reference), len(window)])
    rows = np.vstack([reference, window])
    comparable = np.ascontiguousarray(np.where(np.isnan(rows), np.float32(np.nan), rows + np.float32(0)))
    whole = comparable.view(np.dtype((np.void, comparable.dtype.itemsize * comparable.shape[1]))).ravel()
    _, group = np.unique(whole, return_inverse=True)
    half = np.random.default_rng(_SEED).permutation(int(group.max()) + 1) % 2
    return rows, side, half[group]


def _trees() -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        max_iter=60, max_leaf_nodes=6, learning_rate=0.15, early_stopping=False, random_state=_SEED
    )
