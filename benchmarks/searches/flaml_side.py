"""FLAML on matrices that were written for it: `flaml_side.py <in.npz> <out.npz> <task> <metric> <seconds> <seed>`.

It searches on train and validation; the model that it finds is fitted again on all rows that the other side's last fit
sees, and answers to the test period. `cpu_seconds`: what the search took of all cores.
"""

import resource
import sys

import numpy as np
from flaml.automl import AutoML
from sklearn.base import clone

given, there = np.load(sys.argv[1]), sys.argv[2]
task, metric, seconds, seed = sys.argv[3], sys.argv[4], float(sys.argv[5]), int(sys.argv[6])
automl, before = AutoML(), resource.getrusage(resource.RUSAGE_SELF)
automl.fit(
    given["train"],
    given["train_label"],
    X_val=given["validation"],
    y_val=given["validation_label"],
    task=task,
    metric=metric,
    time_budget=seconds,
    n_jobs=2,
    # Its own for this, without catboost, which is not installed, and the linear one, which takes no missing numbers.
    estimator_list=["lgbm", "rf", "xgboost", "extra_tree", "xgb_limitdepth"],
    seed=seed,
    verbose=0,
    retrain_full=False,
)
after = resource.getrusage(resource.RUSAGE_SELF)
found = clone(automl.model.estimator).fit(given["seen"], given["seen_label"])
answers = found.predict(given["test"]) if task == "regression" else found.predict_proba(given["test"])
taken = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
np.savez(there, answers=answers, cpu_seconds=taken, estimator=automl.best_estimator)
