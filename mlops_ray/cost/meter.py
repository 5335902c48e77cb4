"""The meter: measures a run's processes while it works, part by part, and stops it where a budget is spent.

It looks at the processes twice a second, and at the beginning and the end of each step: Ray's workers take tasks of one
step after those of another, and what they did in between is a difference. No clock but the monotonic one of the driver
counts, and to which month something belongs is said by the database's.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, Self

import uuid6

from mlops_ray.config import Settings
from mlops_ray.cost.account import Account, Total
from mlops_ray.cost.history import attempt_at
from mlops_ray.cost.interrupts import METER_SIGNAL, interrupt
from mlops_ray.cost.nodes import OtherNodes
from mlops_ray.cost.prices import digest_of
from mlops_ray.cost.processes import TAG, Process, RunProcesses
from mlops_ray.cost.spending import Spending
from mlops_ray.cost.stall import Stall, StallMetric, say_stalled
from mlops_ray.cost.usage import Usage, histogram
from mlops_ray.errors import BudgetError, StalledError, UnavailableError
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.usage import Part, UsageState, keep_prices, month_of, now, write_usage

ORDER = "MLOPS_RAY_ORDER"
"""The environment variable that says what a run is an attempt at."""
AROUND = "around"
"""What a run uses beside its steps: its start, Ray's, and its end."""

_EVERY_S, _WRITTEN_EVERY_S, _BUDGET_EVERY_S = 0.5, 5.0, 5.0
_BUDGET_SHARE = 0.02  # of the time may go into adding up a month of many rows
_WRITTEN_AFTER = 0.1  # of its age: a run that is killed early has lost no more of what it used than that
_UNWINDS_WITHIN_S = 60.0
_SHORTEST_S = 0.2  # of a time over which a number of CPUs is said

_logger = logging.getLogger(__name__)


@contextmanager
def metered(
    settings: Settings, use_case: str, tag: str = "", order: str = "", may_end_process: bool = False
) -> Iterator["Meter"]:
    """A meter of this process and all that it starts, on whichever nodes, with the control store of the settings.

    tag, order, may_end_process: see `Meter`; by default the order is that of the environment variable ORDER.
    """
    tag, order = tag or str(uuid6.uuid7()), order or os.environ.get(ORDER, "")
    with Meter(open_store(settings), settings, use_case, tag, OtherNodes(tag), order, may_end_process) as meter:
        yield meter


class Elsewhere(Protocol):
    """Reads the run's processes on other machines."""

    def look(self, here: str) -> Mapping[str, Sequence[Process]]:
        """By place, without `here`; a place that is gone has none."""

    def reset_peaks(self) -> None: ...


@dataclass
class _Row:
    """What is written of a part. usage: in this month, as it was written last. fresh: since then."""

    part: Part
    usage: Usage = field(default_factory=Usage)
    fresh: Usage = field(default_factory=Usage)
    month: datetime | None = None


class Meter:
    """Measures one run, in a thread, as long as it is entered.

    tag: processes that have it in the environment variable TAG belong to the run, as this one does; "" for one of its
    own. use_case: whose it is. elsewhere: None where Ray is on this machine alone. order: what it is an attempt at, as
    `history.used_by` asks for it; "" for nothing but itself. may_end_process: where a run that makes no progress cannot
    be interrupted, this process is ended. run: its id, another each time.
    """

    def __init__(
        self,
        store: ControlStore,
        settings: Settings,
        use_case: str,
        tag: str = "",
        elsewhere: Elsewhere | None = None,
        order: str = "",
        may_end_process: bool = False,
    ):
        self.run = attempt_at(order, str(uuid6.uuid7()))
        self._tag = tag or self.run
        self._store, self._settings, self._elsewhere = store, settings, elsewhere
        self._prices, self._use_case = digest_of(settings.prices), use_case
        self._here, self._account = RunProcesses(self._tag, os.getpid()), Account()
        self._lock, self._ended = threading.RLock(), threading.Event()
        self._around = self._row = _Row(self._part(AROUND))
        self._rows: dict[str, _Row] = {}
        self._began: dict[str, datetime] = {}
        self._gpu_s: dict[tuple[str, str], float] = {}
        self._spending = Spending(store, use_case, settings.prices, self.run)
        self._stops: str | None = None
        self._stall, self._stalled, self._may_end_process = Stall(settings.stall_limit_s), "", may_end_process
        self._shown_stall = StallMetric(use_case)
        self._before: Any = None

    def __enter__(self) -> Self:
        """Begin, before Ray is started: what is started afterwards belongs to the run.

        Raises BudgetError if the month's budget is spent, ConfigurationError if it is in another currency.
        """
        self._spending.expect_something_left()
        os.environ[TAG] = self._tag
        if self._settings.prices is not None:
            keep_prices(self._store, self._prices, self._settings.prices.model_dump())
        if threading.current_thread() is threading.main_thread():  # elsewhere it stops between steps and trials
            self._before = signal.signal(METER_SIGNAL, interrupt)
        self._began_s, self._last_s, self._written_s, self._ask_at_s = (time.monotonic(),) * 4
        self._last = self._total()
        self._thread = threading.Thread(target=self._follow, name="cost meter", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """As `end`. Raises BudgetError where it was the budget that interrupted, StalledError where nothing went on."""
        self.end("ended" if kind is None else "failed")
        if isinstance(error, KeyboardInterrupt):
            self.expect_may_go_on()

    def end(self, state: UsageState = "ended") -> None:
        """Write the rest, once; nothing is measured afterwards, and nothing interrupted."""
        with self._lock:
            before, self._before = self._before, None
        if before is not None:
            signal.signal(METER_SIGNAL, before)
        if self._ended.is_set():
            return
        self._ended.set()
        self._thread.join()
        self._shown_stall.show(0.0)
        os.environ.pop(TAG, None)
        with self._lock:
            self._look()
            self._write(self._around, state)

    @contextmanager
    def step(self, name: str, key: str) -> Iterator[None]:
        """What is used inside belongs to this step. Raises BudgetError as soon as the budget is spent."""
        self.look_at_budget()
        self.expect_may_go_on()
        with self._lock:
            self._look()
            self._stall.progressed(f"the step {name} began")
            row = self._row = self._rows.setdefault(name, _Row(self._part(name, key)))  # again, it adds to what it was
            self._account.mark()
            self._here.reset_peaks()
            if self._elsewhere is not None:
                self._elsewhere.reset_peaks()
        state: UsageState = "failed"
        try:
            yield
            state = "ended"
        finally:
            with self._lock:
                self._look()
                self._stall.progressed(f"the step {name} ended")
                self._row = self._around
                self._write(row, state)

    def asked(self, cpus: float, memory_bytes: int = 0) -> None:
        """What a task, or each trial, of the step at work has asked for."""
        with self._lock:
            self._row.fresh += Usage(asked_cpus=cpus, asked_bytes=memory_bytes)

    def trial(self, name: str, usage: Usage, state: UsageState) -> None:
        """What a trial of the step at work has used so far, as its worker has measured; the step's row has it, too. All
        of it belongs to the month in which it was first told."""
        with self._lock:
            self._stall.progressed(f"the trial {name} reported")
            key = self._row.part.key
            held_before = self._gpu_s.get((key, name), 0.0)
            self._gpu_s[key, name] = usage.gpu_s
            self._row.fresh += Usage(gpu_s=max(0.0, usage.gpu_s - held_before))  # no process says what GPUs it holds
        part = Part(self.run, "trial", name, self._use_case, key, self._prices)
        with suppress(UnavailableError):
            if name not in self._began:
                self._began[name] = month_of(now(self._store))
            write_usage(self._store, part, self._began[name], usage.to_json(), state)

    def expect_may_go_on(self) -> None:
        """Raise BudgetError if the month's budget is spent, StalledError if the run was to stop: nothing that has ended
        is lost, and it can go on."""
        if self._stalled:
            raise StalledError(self._stalled)
        if self._stops is not None:
            raise BudgetError(self._stops)

    def _part(self, name: str, key: str = "") -> Part:
        return Part(self.run, "step", name, self._use_case, key, self._prices)

    def _follow(self) -> None:
        while not self._ended.wait(_EVERY_S):
            try:
                self._round()
            except Exception:  # who measures must not stop because one look failed, nor stop the work
                _logger.exception("A look at what %s uses failed", self._use_case)

    def _round(self) -> None:
        with self._lock:
            self._look()
            at_s = time.monotonic()
            if at_s - self._written_s >= min(_WRITTEN_EVERY_S, _WRITTEN_AFTER * (at_s - self._began_s)):
                self._written_s = at_s
                self._write(self._row, "running")
        if not self._stalled and (why := self._stall.decide()):
            self._stop_stalled(why)
        self._shown_stall.show(self._stall.waited)
        if at_s >= self._ask_at_s:
            was_over = self._stops is not None
            self.look_at_budget()
            took_s = time.monotonic() - at_s
            self._ask_at_s = at_s + max(_BUDGET_EVERY_S, took_s / _BUDGET_SHARE)
            if not was_over:
                self._interrupt_if_over()

    def look_at_budget(self) -> None:
        """Warn, or let the run stop at its next step or trial, where the month's spending calls for it."""
        if self._stops is not None:
            return
        with suppress(UnavailableError):
            self._stops = self._spending.decide()

    def _interrupt_if_over(self) -> None:
        if self._stops is not None:
            self._wake(self._stops)

    def _wake(self, why: str) -> None:
        """Interrupt whatever the step waits for, as Ctrl-C does; elsewhere than in the main thread nothing can."""
        with self._lock:
            if self._before is not None:
                _logger.warning("%s", why)
                signal.pthread_kill(threading.main_thread().ident or 0, METER_SIGNAL)

    def _stop_stalled(self, why: str) -> None:
        self._stalled = why
        if self._may_end_process:
            threading.Thread(target=self._end_process, name="stalled", daemon=True).start()
        self._wake(why)
        with suppress(UnavailableError):
            say_stalled(self._store, self._use_case, self.run, why, self._settings.stall_limit_s)

    def _end_process(self) -> None:
        """All that a run leaves can be taken up again, as after a power failure: its leases are over in a minute."""
        if not self._ended.wait(_UNWINDS_WITHIN_S):
            _logger.critical("%s It did not react, and its process is ended.", self._stalled)
            os._exit(1)

    def _look(self) -> None:
        at_s, total = time.monotonic(), self._total()
        wall_s, cpu_s = at_s - self._last_s, max(0.0, total.cpu_s - self._last.cpu_s)
        self._row.fresh += Usage(
            wall_s=wall_s,
            cpu_s=cpu_s,
            byte_s=total.memory_bytes * wall_s,
            peak_bytes=total.memory_bytes,
            process_peak_bytes=total.process_peak_bytes,
            read_bytes=max(0, total.read_bytes - self._last.read_bytes),
            written_bytes=max(0, total.written_bytes - self._last.written_bytes),
            cpus=histogram(cpu_s / wall_s, wall_s) if wall_s >= _SHORTEST_S else {},
        )
        self._last_s, self._last = at_s, total

    def _total(self) -> Total:
        self._account.look(self._here.place, self._here.look())
        try:
            elsewhere = {} if self._elsewhere is None else self._elsewhere.look(self._here.place)
        except Exception:  # Ray has gone away, which the work itself will notice
            _logger.warning("What %s uses on other nodes could not be read", self._use_case, exc_info=True)
            elsewhere = {}
        for place, seen in elsewhere.items():
            self._account.look(place, seen)
        return self._account.total(os.getpid())

    def _write(self, row: _Row, state: UsageState) -> None:
        """Where a month has begun since the last time, what was used since then belongs to it."""
        try:
            month = month_of(now(self._store))
            if row.month is not None and row.month != month:
                write_usage(self._store, row.part, row.month, row.usage.to_json(), "ended")
                row.usage = Usage()
            row.month, row.usage, row.fresh = month, row.usage + row.fresh, Usage()
            write_usage(self._store, row.part, month, row.usage.to_json(), state)
        except UnavailableError as error:
            _logger.warning("What %s has used is written later. %s", row.part.name, error)
