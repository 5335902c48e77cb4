"""Learning from calm traffic how far windows lie apart, without learning slow drift away.

What a window is compared with stays the sealed reference, whatever comes. Only how far a calm window may be from it is
learned further, as a reference of some months never knows all that is normal.
"""

from dataclasses import dataclass

from mlops_ray.monitoring.alarms import Step
from mlops_ray.monitoring.verdicts import Verdict

# Scores. A threshold is never below the sealed one, nor more than this above it, so what drifts far enough is found.
MOST_WIDENED = 3.0
_STEP = 1.0
# An alarm that is over by itself within so many windows was about something that comes and goes.
_SHORT_LIVED = 5


@dataclass(frozen=True)
class Lived:
    """What traffic has taught about a question on a kind of window.

    widened: what is added to its thresholds, in scores. calm: windows without drift so far; they count as the windows
    of the reference do, where it was too short to act on.
    """

    widened: float = 0.0
    calm: int = 0


UNTAUGHT = Lived()


def taught(lived: Lived, verdict: Verdict, stepped: Step) -> Lived:
    """After a verdict on a window, and what it did to the alarm.

    Adaptive conformal inference (Gibbs and Candès, "Adaptive conformal inference under distribution shift", 2021,
    equation 2) on the scale of scores: each alarm that was over by itself widens by 1, each calm window narrows by its
    chance of a false alarm. Where thresholds were too low, they rise until such alarms are as rare as was promised.
    Deviations: drift that stays is not learned from, and both ends are bounded.
    """
    alarm = stepped.alarm
    if verdict.answer != "no drift":
        return lived
    if stepped.event == "resolved" and alarm is not None and alarm.windows <= _SHORT_LIVED:
        return Lived(min(MOST_WIDENED, lived.widened + _STEP), lived.calm + 1)
    return Lived(max(0.0, lived.widened - _STEP * verdict.rate), lived.calm + 1)
