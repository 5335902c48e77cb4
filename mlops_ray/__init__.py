"""From raw data to a monitored endpoint on a Ray cluster, and round again.

    ingest       raw files through a column contract into an immutable snapshot      (Ray Data)
    features     histories with the moment each value became known                   (Feast)
    training set point-in-time correct rows with their labels
    train        a distributed search over several families of models                (Ray Tune, MLflow)
    evaluate     the chosen model, once, on later data it never saw
    register     a sealed ONNX model with its lineage                                (MLflow registry)
    serve        autoscaling endpoints over HTTP                                     (Ray Serve)
    monitor      drift of data, predictions and quality; a governor that retrains    (Ray actors)

Declare a `UseCase`, then `Pipeline` (mlops_ray.pipeline.pipeline) or the `mlops-ray` command does the steps in order.
`score` asks a model about many rows at once, `ledger` has every prediction that was answered, `drift` shows what
monitoring saw of them, and `push` brings fresh feature values online.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlops_ray.use_case import (
    Choice,
    Column,
    Integer,
    Label,
    Resources,
    Schedule,
    Search,
    Serving,
    Source,
    Split,
    Tables,
    Uniform,
    UseCase,
)

if TYPE_CHECKING:
    from mlops_ray.batch.scoring import score
    from mlops_ray.monitoring.show.drift_view import drift
    from mlops_ray.pipeline.push import push
    from mlops_ray.predictions.reader import ledger

__all__ = [
    "Choice",
    "Column",
    "Integer",
    "Label",
    "Resources",
    "Schedule",
    "Search",
    "Serving",
    "Source",
    "Split",
    "Tables",
    "Uniform",
    "UseCase",
    "drift",
    "ledger",
    "push",
    "score",
]
# Imported when they are asked for: declaring a use case needs neither Ray nor ONNX.
_LATER = {
    "drift": "mlops_ray.monitoring.show.drift_view",
    "ledger": "mlops_ray.predictions.reader",
    "push": "mlops_ray.pipeline.push",
    "score": "mlops_ray.batch.scoring",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module 'mlops_ray' has no attribute {name!r}")
