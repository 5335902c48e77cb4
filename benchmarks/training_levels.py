"""A category with 100 thousand levels, a tenth of them new each week: a fit's peak memory, and the size of its ONNX,
with each level a code, and with a table of what the labels of each were.

Run as a program it fits one candidate and prints its figures as JSON, so that each has its own peak.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import polars as pl

from mlops_ray.features.columns import LABEL, LABEL_KNOWN_AT, PREDICTION_TIME
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.ranking import ranking
from mlops_ray.training.candidates import GradientBoosting, LightGBM, LogisticRegression, NeuralNetwork
from mlops_ray.training.encoding import fit_encoder
from mlops_ray.training.proposal import middle
from mlops_ray.use_case import Candidate, Feature, Fit, FitData

ROWS, WEEKS, LEVELS, NEW_A_WEEK = 1_000_000, 20, 100_000, 0.1
WEEK_S = 7 * 86400
CANDIDATES: dict[str, Candidate] = {
    one.name: one for one in (LogisticRegression(), GradientBoosting(), LightGBM(), NeuralNetwork())
}
FEATURES = (Feature("customer", "category"), *(Feature(f"x{n}", "number") for n in range(5)))


def figures() -> Iterator[tuple[str, float, str]]:
    for name, way in (*((name, "") for name in CANDIDATES), ("gradient_boosting", "_as_codes")):
        command = [sys.executable, __file__, name, way]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        for figure, (value, unit) in found.items():
            yield f"levels_{name}{way}_{figure}", value, unit


def _rows() -> pl.DataFrame:
    """Each week a tenth of the customers are replaced by new ones; each has an effect of its own. Half of the labels
    are known after hours, half after ten days."""
    random = np.random.default_rng(1)
    customers, parts, made = np.arange(LEVELS // 3), list[pl.DataFrame](), LEVELS // 3
    effects = random.normal(0, 1.5, 10 * LEVELS)
    for week in range(WEEKS):
        gone = random.random(len(customers)) < NEW_A_WEEK
        customers = np.where(gone, made + np.cumsum(gone), customers)
        made += int(gone.sum()) + 1
        customer = random.choice(customers, ROWS // WEEKS)
        numbers = random.normal(size=(len(customer), 5))
        label = random.random(len(customer)) < 1 / (1 + np.exp(-(effects[customer] + numbers[:, 0])))
        columns = {f"x{n}": numbers[:, n] for n in range(5)}
        asked_s = (week + np.sort(random.random(len(customer)))) * WEEK_S
        known_s = asked_s + random.choice([4 * 3600, 10 * 86400], len(customer))
        moments = {PREDICTION_TIME: asked_s, LABEL_KNOWN_AT: known_s}
        parts.append(pl.DataFrame({"week": week, "customer": customer, LABEL: label, **moments, **columns}))
    known = (pl.from_epoch(pl.col(name).cast(pl.Int64)) for name in (PREDICTION_TIME, LABEL_KNOWN_AT))
    return pl.concat(parts).with_columns(pl.format("customer-{}", "customer").alias("customer"), *known)


def _fit(name: str, most_levels: int | None) -> dict[str, tuple[float, str]]:
    frame = _rows()
    later, border = frame.filter(pl.col("week") == WEEKS - 1), pl.from_epoch(pl.lit((WEEKS - 1) * WEEK_S))
    seen = frame.filter((pl.col(PREDICTION_TIME) < border) & (pl.col(LABEL_KNOWN_AT) < border))
    encoder, candidate = fit_encoder(seen, FEATURES, BINARY, most_levels), CANDIDATES[name]
    matrix, label = encoder.encode_fitted(seen, BINARY), seen[LABEL].to_numpy()
    data = FitData(matrix, label, encoder.columns, BINARY, seed=1, threads=2)
    *_, (_, model) = candidate.fit(data, middle(candidate.space))
    content = encoder.wrap_onnx(model.to_onnx())
    truth, answer = later[LABEL].to_numpy().astype(float), model.predict(encoder.encode(later))
    auc = ranking(truth, answer, np.zeros(len(truth), dtype=int), np.ones((1, 1)))[0][0]
    return {
        "levels": (seen["customer"].n_unique(), ""),
        "model_mb": (len(content) / 1e6, "MB"),
        "peak_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "MB"),
        "roc_auc": (float(auc), ""),
    }


if __name__ == "__main__":
    print(json.dumps(_fit(sys.argv[1], None if sys.argv[2] else Fit().most_levels)))
