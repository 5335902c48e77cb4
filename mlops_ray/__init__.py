"""From raw data to a monitored endpoint on a Ray cluster, and round again.

    ingest       raw files through a column contract into an immutable snapshot      (Ray Data)
    features     histories with the moment each value became known                   (Feast)
    training set point-in-time correct rows with their labels
    train        a distributed search over several families of models                (Ray Tune, MLflow)
    evaluate     the chosen model, once, on later data it never saw
    register     a sealed ONNX model with its lineage                                (MLflow registry)
    serve        autoscaling endpoints over HTTP                                     (Ray Serve)
    monitor      drift of data, predictions and quality; a governor that retrains    (Ray actors)

Declare a `UseCase`; then `run` does the steps in order and gives what each made. `explore` looks at data before,
`endpoint` asks a served model and shows how it fares, `versions` lists what was made and from what, and `connect` does
both against a cluster elsewhere. `score` asks a model about any number of rows on the cluster, `push` brings fresh
feature values online. See docs/sdk.md.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlops_ray.batch.scoring import score
    from mlops_ray.pipeline.push import push
    from mlops_ray.sdk.connection import connect, endpoint, versions
    from mlops_ray.sdk.explore import explore
    from mlops_ray.sdk.run import run
    from mlops_ray.use_case import Column, Label, Resources, Schedule, Search, Source, Split, Tables, UseCase

__all__ = [
    "Column",
    "Label",
    "Resources",
    "Schedule",
    "Search",
    "Source",
    "Split",
    "Tables",
    "UseCase",
    "connect",
    "endpoint",
    "explore",
    "push",
    "run",
    "score",
    "versions",
]
# Imported when they are asked for: every command, worker and replica imports this package, and none needs all of it.
_USE_CASE = ("Column", "Label", "Resources", "Schedule", "Search", "Source", "Split", "Tables", "UseCase")
_LATER = {
    **dict.fromkeys(_USE_CASE, "mlops_ray.use_case"),
    **dict.fromkeys(("connect", "endpoint", "versions"), "mlops_ray.sdk.connection"),
    "explore": "mlops_ray.sdk.explore",
    "push": "mlops_ray.pipeline.push",
    "run": "mlops_ray.sdk.run",
    "score": "mlops_ray.batch.scoring",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module 'mlops_ray' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
