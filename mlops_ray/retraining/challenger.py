"""Is the challenger better? In words and numbers."""

from mlops_ray.evaluation.comparison import Comparison, Verdict, verdict


def judge_challenger(comparison: Comparison, margin: float) -> tuple[Verdict, str]:
    """Better, not worse, worse or undecided, as `comparison.verdict` says; and why."""
    gain, found = comparison.difference, verdict(comparison.difference, margin)
    words = (
        f"{comparison.metric} {comparison.challenger:.4f} against {comparison.champion:.4f} on "
        f"{comparison.rows:,} rows of {comparison.days} days"
    )
    if gain.low is None:
        return found, f"{words}: so few days cannot tell which is better."
    interval = f"difference {gain.value:+.4f}, 95 % between {gain.low:+.4f} and {gain.high:+.4f}"
    meaning = {
        "better": f"better (margin {margin:+g})",
        "not worse": f"not worse, but no gain is shown (margin {margin:+g})",
        "worse": "worse",
        "undecided": f"neither a gain nor a loss is shown (margin {margin:+g})",
    }
    return found, f"{words}: {interval}: {meaning[found]}."
