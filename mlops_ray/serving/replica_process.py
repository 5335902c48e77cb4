"""What the processes of our deployments have in common."""

import gc
import logging
import sys

from ray.serve.schema import LoggingConfig

from mlops_ray.state_folder import keep_closed

SWITCH_INTERVAL_S = 0.0005  # how long a thread beside the event loop (ledger, follower, audit) may keep it waiting
CLOCK_LOOK_S = 10.0  # an oscillator that is off by 50 millionths makes half a millisecond meanwhile
YOUNG = 5_000  # objects, after which Python looks for circles among them

# Serve would write a line for each request, which costs more than the model; even one that a filter drops costs
# 16 us, so its level is what it warns of.
LOGGING = LoggingConfig(encoding="JSON", enable_access_log=False, log_level="WARNING")


def set_up_process() -> None:
    """What a replica writes is its user's alone, whoever started Ray. Threads let the event loop go on soon.

    Our lines from INFO on go where Serve's go: as JSON to the replica's log file, with the id of the request.
    """
    keep_closed()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    ours = logging.getLogger("mlops_ray")
    ours.handlers, ours.propagate = list(logging.getLogger("ray.serve").handlers), False
    ours.setLevel(logging.INFO)


def set_aside_what_stays() -> None:
    """What a replica is made of is not looked through for garbage again: half a million objects, for which every full
    collection held up all callers for 50 to 300 ms, each few seconds under load. And the young are looked through less
    often than after each 700: a request makes some hundred, of which none is in a circle, and that was a tenth of its
    CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG)


def http_host() -> str:
    """Where this Serve listens, whoever started it."""
    from ray.serve.context import _get_global_client

    return str(_get_global_client().http_config.host)
