"""By how many requests are at work Serve starts replicas and ends them."""

from typing import Any

from ray.serve.config import AutoscalingContext

AT_WORK = "requests_at_work"


def by_requests_at_work(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """As many replicas as have `target_ongoing_requests` each: Serve's own policy, but of requests as replicas count
    them (`record_autoscaling_stats`), since those that `Edge` answers are not in Serve's count. Delays and bounds are
    Serve's."""
    if context.current_num_replicas == 0:
        return context.target_num_replicas, {}
    at_work = (context.aggregated_metrics or {}).get(AT_WORK, {})
    return sum(at_work.values()) / context.config.get_target_ongoing_requests(), {}
