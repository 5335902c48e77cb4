"""Judging labels while some are missing: what can be said whatever the missing ones turn out to be.

The labels that come first are never a random sample: a flight that is late lands later, a fraud is found by the one who
was defrauded. Nothing need be presumed of how they are late, if nothing is said that the missing ones could still
contradict (Manski, "Nonparametric bounds on treatment effects", 1990).
"""

from dataclasses import replace

import numpy as np

from mlops_ray.monitoring.reliability import Reliability


def at_best(labelled: Reliability, missing: Reliability, reference: Reliability) -> Reliability:
    """All rows of a window, with the labels that would fit the reference best in place of the missing ones.

    missing: rows without label (no positives). In each bin as many of the missing ones are positive as bring the share
    nearest to what the reference lets expect. So in no bin is it further from that than it will be when all have come,
    and `miscalibration` is not larger than it will be; without labels it is 0.
    """
    rows, predicted = labelled.rows + missing.rows, labelled.predicted + missing.predicted
    offset = (reference.positives - reference.predicted) / np.maximum(reference.rows, 1)
    if reference.squares is not None:  # a single number could make up for all others in its bin
        fitting = np.where(missing.rows > 0, predicted + rows * offset, labelled.positives)
        foretold = labelled.plus(missing).foretold_squares
        return replace(labelled, rows=rows, predicted=predicted, positives=fitting, foretold_squares=foretold)
    expected = np.clip(predicted + rows * offset, 0, rows)
    positives = np.clip(expected, labelled.positives, labelled.positives + missing.rows)
    return Reliability(labelled.edges, rows, predicted, positives)
