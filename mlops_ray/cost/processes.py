"""Processes: those of one run on this machine, as the kernel accounts for them (proc(5)).

A process belongs to a run by a variable in the environment that it began with, and hands on to what it starts: so one
that forks, detaches itself or outlives its parent still counts for the run that paid for it.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

TAG = "MLOPS_RAY_METERED"
"""The environment variable that names the run."""

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_ATTEMPTS = 5
# Between fork and exec a process has its parent's environment: one that is not ours is looked at so often.
_LOOKS = 4


@dataclass(frozen=True)
class Process:
    """One process. began: in ticks since the machine did, so that a pid that was given again is another process. own_s,
    waited_s: CPU seconds of itself, and of children that ended and that it waited for. read_bytes, written_bytes:
    through system calls, with those of the same children. private_bytes, shared_bytes: in memory now, without files.
    peak_bytes: the most that was in memory, files included, since it was set back (`RunProcesses.reset_peaks`).
    """

    pid: int
    began: int
    parent: int
    own_s: float
    waited_s: float
    read_bytes: int = 0
    written_bytes: int = 0
    private_bytes: int = 0
    shared_bytes: int = 0
    peak_bytes: int = 0

    @property
    def cpu_s(self) -> float:
        return self.own_s + self.waited_s


class RunProcesses:
    """Finds the processes of a run on this machine, again and again. driver: one that counts whatever it began with."""

    def __init__(self, run: str, driver: int | None = None, proc: str = "/proc"):
        self._mark = f"{TAG}={run}\0".encode()
        self._driver, self._proc = driver, proc
        self._ours: dict[int, int] = {}
        self._others: dict[int, int] = {}

    @cached_property
    def place(self) -> str:
        """Names the machine and its numbering of processes: two readers in one place see the same ones."""
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"

    def look(self) -> list[Process]:
        """All that live now. None of them ends while they are read, or it is done again: else what a parent says of
        its children would be of another moment than what they say of themselves."""
        found: list[Process] = []
        for _ in range(_ATTEMPTS):
            pids = self._find()
            read = {pid: self._read(pid) for pid in pids}
            found = [one for one in read.values() if one is not None]
            if len(found) == len(read):
                break
        self._ours = {one.pid: one.began for one in found}
        return found

    def reset_peaks(self) -> None:
        """Let `peak_bytes` count from now on, for those that we may change."""
        for pid in self._ours:
            reset_peak(pid)

    def _find(self) -> list[int]:
        listed = [int(name) for name in os.listdir(self._proc) if name.isdigit()]
        others = {}
        ours = []
        for pid in listed:
            looks = self._others.get(pid, 0)
            if pid == self._driver or pid in self._ours or (looks < _LOOKS and self._is_marked(pid)):
                ours.append(pid)
            else:
                others[pid] = min(looks + 1, _LOOKS)
        self._others = others
        return ours

    def _is_marked(self, pid: int) -> bool:
        try:
            environment = Path(self._proc, str(pid), "environ").read_bytes()
        except OSError:  # it has ended, or is somebody else's
            return False
        return environment.startswith(self._mark) or b"\0" + self._mark in environment

    def _read(self, pid: int) -> Process | None:
        found = read_process(pid, self._proc)
        if found is not None and self._ours.get(pid, found.began) != found.began:  # the pid was given again
            del self._ours[pid]
            return None
        return found


def read_process(pid: int, proc: str = "/proc") -> Process | None:
    """None if it has ended."""
    folder = Path(proc, str(pid))
    try:
        words = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    user, system, waited_user, waited_system = (int(word) * _TICK_S for word in words[11:15])
    moved, memory = _lines(folder / "io"), _lines(folder / "status")
    return Process(
        pid, int(words[19]), int(words[1]), user + system, waited_user + waited_system,
        moved.get("rchar", 0), moved.get("wchar", 0), memory.get("RssAnon", 0) * 1024,
        memory.get("RssShmem", 0) * 1024, memory.get("VmHWM", 0) * 1024,
    )  # fmt: skip


def reset_peak(pid: int) -> None:
    """Let `peak_bytes` of a process count from now on, if we may change it."""
    with suppress(OSError):
        Path("/proc", str(pid), "clear_refs").write_text("5")


def with_children(pid: int) -> list[Process]:
    """A process and all below it that live."""
    found = read_process(pid)
    if found is None:
        return []
    below: list[Process] = []
    for task in Path("/proc", str(pid), "task").glob("*/children"):
        with suppress(OSError):
            for child in task.read_text().split():
                below += with_children(int(child))
    return [found, *below]


def _lines(file: Path) -> Mapping[str, int]:
    """The numbers of a file of `name: number` lines; nothing of a process that has ended or may not be read."""
    try:
        text = file.read_text(errors="replace")
    except OSError:
        return {}
    split = (line.partition(":") for line in text.splitlines())
    numbers = ((name, value.split()) for name, _, value in split)
    return {name: int(words[0]) for name, words in numbers if words and words[0].isdigit()}
