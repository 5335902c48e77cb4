"""Probabilities: what every task with classes does with them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_ray.tasks.evaluation import Floats

# The probabilities of an ensemble are sums of float32, which may pass 1 by some rounding.
_ROUNDING = 1e-6
# The thresholds by which every row is chosen, and none is: the float32 above 1.
EVERYBODY, NOBODY = 0.0, float(np.nextafter(np.float32(1), np.float32(2)))


def as_served(probability: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """What a served model answers with: float32, and nothing beyond 0 and 1."""
    return np.clip(probability.astype(np.float32), 0, 1)


def wrong_probability(answer: NDArray[np.floating[Any]]) -> str | None:
    """A sentence about what is no probability, NaN included, else None."""
    fits = (answer >= -_ROUNDING) & (answer <= 1 + _ROUNDING)
    if fits.all():
        return None
    by_row = fits.reshape(len(fits), -1).all(axis=1)
    row = int(np.argmin(by_row))
    first = np.atleast_1d(answer[row])[~np.atleast_1d(fits[row])][0]
    return (
        f"The model answered {first} for row {row}, and what is no probability for {int((~by_row).sum())} of "
        f"{len(answer)} rows. A probability is a number from 0 to 1."
    )


def log_odds(probability: NDArray[np.floating[Any]]) -> Floats:
    """Probabilities 0 and 1 count as those that float32 can tell from them."""
    smallest = float(np.finfo(np.float32).eps)
    inside = np.clip(probability.astype(np.float64), smallest, 1 - smallest)
    odds: Floats = np.log(inside / (1 - inside))
    return odds


def log_odds_error(odds: Floats) -> Floats:
    """How far `log_odds` may be from those that a model came to before it made float32 of the probability p:
    float32 eps / (p (1 - p)); where they are cut off, as far again as they are, for want of any bound."""
    eps = float(np.finfo(np.float32).eps)
    cut_off = float(log_odds(np.ones(1))[0])
    error: Floats = np.where(np.abs(odds) > cut_off - eps, cut_off, 2 * eps * (1 + np.cosh(odds)))
    return error


def log_losses(labels: NDArray[np.bool_], answer: Floats) -> Floats:
    """Log loss of each row, nats; probabilities 0 and 1 count as the floats next to them."""
    smallest = np.finfo(np.float64).eps
    inside = np.clip(np.asarray(answer, dtype=np.float64), smallest, 1 - smallest)
    losses: Floats = -np.where(labels, np.log(inside), np.log1p(-inside))
    return losses
