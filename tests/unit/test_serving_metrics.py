"""What a replica counts reaches the metrics, each answer once, while callers are answered."""

from collections import Counter
from typing import Any

import pytest

from mlops_ray.predictions.collect import Lag
from mlops_ray.serving import metrics as module
from mlops_ray.serving.counters import Counts
from mlops_ray.serving.metrics import Metrics


class _Series:
    """Stands for one of Ray's metrics: with no cluster there is nobody to ask for its value."""

    def __init__(self, name: str, *described: Any):
        self.name = name

    def set(self, value: float, tags: dict[str, str]) -> None: ...


def test_answers_that_are_given_while_metrics_are_published_are_in_the_next_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version, answers = Counts(), {200: Counts()}
    published = Counter[str]()

    def answered_meanwhile(counter: _Series, by: float, tags: dict[str, str]) -> None:
        published[counter.name] += int(by)
        if sum(published.values()) < 1_000:
            version.answered(0.001)
            answers[200].answered(0.001)

    monkeypatch.setattr(module, "Counter", _Series)
    monkeypatch.setattr(module, "Gauge", _Series)
    monkeypatch.setattr(module, "_increase", answered_meanwhile)
    metrics = Metrics("flights")
    version.answered(0.001)
    for _ in range(200):
        metrics.publish({("7", "champion"): version}, [], 0, Lag(0, 0, 0.0))
        metrics.publish_answers(answers)
    assert published["mlops_ray_requests_total"] == version.requests > 10
    assert published["mlops_ray_answers_total"] == answers[200].requests > 10
