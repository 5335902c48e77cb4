"""Carrying out one run: the command of its operation, under a lease, with its end written down."""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mlops_ray.errors import IntegrityError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.leases import holding
from mlops_ray.governance.schedule_runs import Run, begin, end
from mlops_ray.operations.parent_death import ending_with_parent

MAIN = (sys.executable, "-c", "from mlops_ray.cli.main import main; main()")
"""The `mlops-ray` command where it is not installed, as in a Ray job, which has only the code that it was sent."""
PARITY_FAILS_ABOVE = 0.01
_UNWINDS_WITHIN_S, _SAYS_WITHIN_S = 60.0, 5.0

_logger = logging.getLogger(__name__)

# Runs a command, and returns its exit code and the last line that it said on standard error.
Execute = Callable[[Sequence[str]], tuple[int, str]]


@dataclass(frozen=True)
class Work:
    """reference: of the use case's file. options: of where state, data and settings are. since: when it was due before,
    None where that is not known."""

    reference: str
    feature_repo: str
    state: str
    data: str
    config: str | None
    since: datetime | None


def arguments(run: Run, work: Work) -> list[str]:
    """What `mlops-ray` is told for a run. Nothing later than its due moment enters, whenever it is carried out."""
    due, name, operation = run.due_at.isoformat(), run.use_case, run.operation
    state = ["--state", work.state, *(["--config", work.config] if work.config else [])]
    everything = [*state, "--data", work.data, "--feature-repo", work.feature_repo]
    if operation == "ingest":
        return ["run", work.reference, "--until", "ingest", "--as-of", due, *everything]
    if operation == "features":
        return ["features", "refresh", work.reference, "--as-of", due, *everything]
    if operation == "parity":
        since = (work.since or run.due_at - timedelta(days=1)).isoformat()
        limit = str(PARITY_FAILS_ABOVE)
        return ["features", "parity", name, "--since", since, "--until", due, "--fail-above", limit, *state]
    if operation == "monitoring":
        return ["monitoring", "check", name, *state]
    if operation == "retraining":
        return ["retraining", "ask", work.reference, "--as-of", due, *everything]
    if operation == "audit":
        return ["audit", "verify", *state]
    if operation == "backup":
        return ["backup", "create", "--prune", "--due", due, *state]
    raise IntegrityError(f"{run.name}: there is no operation {operation!r}. Was it written by a newer release?")


def carry_out(store: ControlStore, run: Run, work: Work, execute: Execute, wait: bool) -> Run | None:
    """Do a run that was started, unless it has ended; the run as it was begun, None if there was nothing to do.

    One process does it, though several are started: the others wait until that one ends or falls silent. wait: False to
    raise ConflictError instead. What dies in it is begun again by whoever comes next: all operations may be repeated.
    """
    with holding(store, run.lease, waits=wait):
        return _do(store, run, work, execute)


def execute(environment: Mapping[str, str], limit: timedelta, command: Sequence[str]) -> tuple[int, str]:
    """Run `mlops-ray` with these arguments; what it says is passed on as it comes. environment: beside one's own.
    limit: after so long it is interrupted as by Ctrl-C, and killed if that does not end it. It does not outlive who
    calls this, for whom the next attempt does not wait."""
    said, environment, is_late = [""], {**os.environ, **environment}, False
    process = subprocess.Popen(
        [*MAIN, *command], stderr=subprocess.PIPE, text=True, errors="replace", env=environment,
        preexec_fn=ending_with_parent(),
    )  # fmt: skip
    passing = threading.Thread(target=_pass_on, args=(process, said), daemon=True)
    passing.start()
    try:
        process.wait(limit.total_seconds())
    except subprocess.TimeoutExpired:
        is_late = True
        _end_it(process)
    except KeyboardInterrupt:
        _end_it(process)
        raise
    passing.join(_SAYS_WITHIN_S)  # what it has started may hold its standard error open
    last = "".join(character for character in said[0] if character.isprintable())
    if is_late and process.returncode:
        last = f"It had not ended after {limit} (time_limit of its Schedule) and was stopped. It said last: {last}"
    elif process.returncode < 0:
        last = f"It was ended by {signal.Signals(-process.returncode).name}. It said last: {last}"
    return process.returncode, last


def _pass_on(process: "subprocess.Popen[str]", said: list[str]) -> None:
    assert process.stderr is not None
    with process.stderr as lines:
        for line in lines:
            sys.stderr.write(line)
            said[0] = line.strip() or said[0]


def _end_it(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_UNWINDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _do(store: ControlStore, run: Run, work: Work, execute: Execute) -> Run | None:
    begun = begin(store, run)
    if begun is None:
        return None
    _logger.info("%s begins, %.0f s after it was due", begun.name, (datetime.now(UTC) - begun.due_at).total_seconds())
    try:
        code, said = execute(arguments(begun, work))
    except KeyboardInterrupt:
        end(store, begun, False, "It was interrupted.")
        raise
    end(store, begun, code == 0, said if code else "")
    _logger.info("%s ended with exit code %d", begun.name, code)
    return begun
