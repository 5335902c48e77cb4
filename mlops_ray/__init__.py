"""From raw data to a monitored endpoint on a Ray cluster, and round again.

    ingest       raw files through a column contract into an immutable snapshot      (Ray Data)
    features     histories with the moment each value became known                   (Feast)
    training set point-in-time correct rows with their labels
    train        a distributed search over several families of models                (Ray Tune, MLflow)
    evaluate     the chosen model, once, on later data it never saw
    register     a sealed ONNX model with its lineage                                (MLflow registry)
    serve        autoscaling endpoints over HTTP                                     (Ray Serve)

Declare a `UseCase`, then `mlops_ray.pipeline.run` or the `mlops-ray` command does the steps in order.
"""

from mlops_ray.use_case import (
    Choice,
    Column,
    Integer,
    Label,
    Search,
    Source,
    Split,
    Tables,
    Uniform,
    UseCase,
)

__all__ = ["Choice", "Column", "Integer", "Label", "Search", "Source", "Split", "Tables", "Uniform", "UseCase"]
