"""Is the challenger better? In words and numbers."""

from mlops_ray.evaluation.comparison import Comparison
from mlops_ray.retraining.policy import Outcome


def judge_challenger(comparison: Comparison, margin: float) -> tuple[Outcome, str]:
    """Better, if its value is higher and the 95 % interval of the difference lies above `margin`; and why."""
    gain = comparison.difference
    words = (
        f"{comparison.metric} {comparison.challenger:.4f} against {comparison.champion:.4f} on "
        f"{comparison.rows:,} rows of {comparison.days} days"
    )
    if gain.low is None:
        return "not better", f"{words}: so few days cannot tell which is better."
    interval = f"difference {gain.value:+.4f}, 95 % between {gain.low:+.4f} and {gain.high:+.4f}"
    if gain.value > 0 and gain.low > margin:
        return "better", f"{words}: {interval}, above the margin {margin:+g}."
    return "not better", f"{words}: {interval}, which does not show a gain (margin {margin:+g})."
