"""How much an alarm matters: by what the model makes of the columns, and by what has become of its answers."""

from typing import Literal

from mlops_ray.monitoring.verdicts import Verdict

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
# Drift of columns that have less of the model's importance together matters little, unless answers moved by more than
# the second, in standard deviations of answers. By the third, with so much less of the ROC AUC to expect, or an error
# that is larger by such a part of it, it is what somebody should look at today.
MINOR_IMPORTANCE = 0.01
_SMALL_EFFECT, _STRONG_EFFECT = 0.1, 0.5
_LOST, _LOST_SHARE = {"roc_auc": 0.05}, 0.2


def severity_of(verdict: Verdict) -> Severity:
    """info: nobody and nothing acts on it; warning: rollouts and the governor do; critical: a person should.

    Where the reference is too short to act on, it is info, whatever was found. Labels that no longer follow the answers
    are critical. A column of which no importance is known may matter.
    """
    if not verdict.acts:
        return "info"
    if verdict.question == "concept" or abs(verdict.effect) >= _STRONG_EFFECT or _is_worse(verdict):
        return "critical"
    minor = verdict.question == "data" and verdict.importance < MINOR_IMPORTANCE
    return "info" if minor and not abs(verdict.effect) >= _SMALL_EFFECT else "warning"


def _is_worse(verdict: Verdict) -> bool:
    return verdict.quality <= -_LOST.get(verdict.metric, _LOST_SHARE)


def worse(one: Severity, other: Severity) -> bool:
    return SEVERITIES.index(one) > SEVERITIES.index(other)
