"""How many replicas Serve is asked for: as many as the requests that replicas count are at work for."""

from collections.abc import Mapping
from typing import Any

import pytest
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from mlops_ray.serving.scaling import AT_WORK, by_requests_at_work

DEPLOYMENT = DeploymentID("endpoint", "flights")


def wanted(at_work: Mapping[str, float] | None, replicas: int) -> float:
    metrics = at_work and {AT_WORK: {ReplicaID(name, DEPLOYMENT): value for name, value in at_work.items()}}
    context: Any = AutoscalingContext(
        deployment_id=DEPLOYMENT, deployment_name="endpoint", app_name="flights", current_num_replicas=replicas,
        target_num_replicas=1, running_replicas=[], total_num_requests=0.0, total_queued_requests=0.0,
        aggregated_metrics=metrics, raw_metrics={}, capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=4, policy_state={}, last_scale_up_time=None, last_scale_down_time=None,
        current_time=None, config=AutoscalingConfig(min_replicas=1, max_replicas=4, target_ongoing_requests=8),
    )  # fmt: skip
    return by_requests_at_work(context)[0]


@pytest.mark.parametrize(
    ("at_work", "replicas", "expected"),
    [
        ({"a": 8.0}, 1, 1),
        ({"a": 16.0}, 1, 2),
        ({"a": 16.0, "b": 8.0}, 2, 3),
        ({"a": 1.0, "b": 3.0}, 2, 0.5),
        ({"a": 0.0}, 1, 0),
        ({}, 2, 0),
        (None, 2, 0),
        (None, 0, 1),
    ],
)
def test_each_replica_is_to_have_its_target(
    at_work: Mapping[str, float] | None, replicas: int, expected: float
) -> None:
    assert wanted(at_work, replicas) == expected
