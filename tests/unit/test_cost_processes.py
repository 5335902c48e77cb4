"""What a run used is what the kernel says that its processes used, whoever forks, dies or is not waited for."""

import os
import resource
import select
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from mlops_ray.cost.account import Account
from mlops_ray.cost.processes import TAG, Process, RunProcesses

PRELUDE = """
import os, signal, subprocess, sys, time

def spin(s):
    end = time.process_time() + s
    while time.process_time() < end: pass

def be_seen():
    print(flush=True)
    sys.stdin.readline()

"""


def measured(code: str, every_s: float = 0.05) -> tuple[float, float]:
    """CPU seconds of a program that works and then lets itself be seen: by the account, which looked at any moments
    before and once then, and by the kernel's word to who waits for it.
    """
    run = uuid4().hex  # tests run side by side
    readers, account = RunProcesses(run), Account()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command, pipes = [sys.executable, "-c", PRELUDE + code], {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env={**os.environ, TAG: run}, **pipes) as process:  # type: ignore[call-overload]
        while not select.select([process.stdout], [], [], every_s)[0]:
            account.look(readers.place, readers.look())
        account.look(readers.place, readers.look())
        process.communicate(b"\n")
    account.look(readers.place, readers.look())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    kernel = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return account.total().cpu_s, kernel


@pytest.mark.parametrize(
    "code",
    [
        "spin(1.6)",
        # A child that ends and is waited for, short ones that nobody sees, and one that outlives the one between.
        "if os.fork() == 0:\n    spin(1.2); os._exit(0)\nos.wait(); spin(0.6)",
        "for _ in range(60):\n    if os.fork() == 0: spin(0.02); os._exit(0)\n    os.wait()\nspin(0.4)",
        "subprocess.run([sys.executable, '-c', 'sum(range(4 * 10**7))'])\nspin(0.6)",
    ],
)
def test_cpu_seconds_are_within_5_percent_of_the_kernels(code: str) -> None:
    ours, kernel = measured(code + "\nbe_seen()")
    assert ours == pytest.approx(kernel, rel=0.05)


def test_a_child_that_nobody_waits_for_counts_though_its_parent_says_nothing_of_it() -> None:
    code = "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
    code += "if os.fork() == 0:\n    spin(0.8); be_seen(); os._exit(0)\n"
    code += "try: os.wait()\nexcept ChildProcessError: pass"
    ours, kernel = measured(code)
    assert kernel < 0.3 < 0.7 < ours  # the kernel tells its parent nothing either


def test_a_process_that_is_killed_has_used_what_it_had_until_then() -> None:
    ours, kernel = measured("spin(1.6)\nbe_seen()\nos.kill(os.getpid(), signal.SIGKILL)")
    assert ours == pytest.approx(kernel, rel=0.05)


def test_processes_of_another_run_do_not_count() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(5)"], env={TAG: "one"}) as process:
        try:
            for _ in range(100):
                if [one.pid for one in RunProcesses("one").look()] == [process.pid]:
                    break
                time.sleep(0.02)
            assert [one.pid for one in RunProcesses("one").look()] == [process.pid]
            assert RunProcesses("on").look() == RunProcesses("one1").look() == []
        finally:
            process.kill()


def test_the_peak_of_a_process_counts_from_when_it_was_set_back() -> None:
    code = "x = bytearray(80 << 20)\nprint(1, flush=True)\ninput()\ndel x\ninput()"
    options = {"env": {TAG: "peak"}, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **options) as process:  # type: ignore[call-overload]
        try:
            process.stdout.readline()
            readers = RunProcesses("peak")
            assert readers.look()[0].peak_bytes > 80 << 20
            process.stdin.write("\n")
            process.stdin.flush()
            time.sleep(0.3)
            readers.reset_peaks()
            assert readers.look()[0].peak_bytes < 60 << 20
        finally:
            process.kill()


PARENT = Process(10, 1, 1, 5.0, 0.0, 100, 10)
CHILD = Process(11, 2, 10, 3.0, 1.0, 50, 5)


def test_who_is_waited_for_counts_once() -> None:
    account = Account()
    account.look("here", [PARENT, CHILD])
    assert account.total().cpu_s == 9.0
    account.look("here", [replace(PARENT, waited_s=4.2, read_bytes=150, written_bytes=15)])
    assert (account.total().cpu_s, account.total().read_bytes) == (pytest.approx(9.2), 150)


def test_grandchildren_that_end_with_their_parent_count_once() -> None:
    account = Account()
    account.look("here", [PARENT, replace(CHILD, waited_s=0.0), Process(12, 3, 11, 2.0, 0.0)])
    account.look("here", [replace(PARENT, waited_s=5.5)])
    assert account.total().cpu_s == pytest.approx(10.5)


def test_a_machine_that_is_gone_has_used_what_was_seen_last() -> None:
    account = Account()
    account.look("there", [PARENT, CHILD])
    account.look("there", [])
    assert (account.total().cpu_s, account.total().read_bytes, account.total().memory_bytes) == (9.0, 150, 0)


def test_a_pid_that_was_given_again_is_another_process(tmp_path: Path) -> None:
    account = Account()
    account.look("here", [CHILD])
    account.look("here", [replace(CHILD, began=99, own_s=0.5, waited_s=0.0)])
    assert account.total().cpu_s == 4.5


def test_the_peak_is_of_who_works_and_not_of_who_is_left_from_the_step_before() -> None:
    account, idle, busy = Account(), Process(20, 1, 1, 9.0, 0.0, peak_bytes=900), Process(21, 1, 1, 0.0, 0.0)
    account.look("here", [idle, busy])
    account.mark()
    account.look("here", [replace(idle, own_s=9.01), replace(busy, own_s=2.0, peak_bytes=300)])
    assert account.total().process_peak_bytes == 300


def test_where_a_reader_may_not_look_nothing_is_ours(tmp_path: Path) -> None:
    for name, content in {"1/stat": "1 (a) b) S 0 " + "0 " * 30, "2/environ": "X=1\0", "self/x": ""}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert RunProcesses("run", proc=str(tmp_path)).look() == []
    (tmp_path / "2" / "environ").write_text(f"{TAG}=run\0")
    assert RunProcesses("run", proc=str(tmp_path)).look() == []  # it has ended: there is no `stat`
    (tmp_path / "2" / "stat").write_text("2 (a) b c) S 7 " + "0 " * 9 + "150 50 20 30 " + "0 0 0 0 99 " + "0 " * 20)
    (found,) = RunProcesses("run", proc=str(tmp_path)).look()
    assert (found.pid, found.parent, found.began) == (2, 7, 99)
    assert (found.own_s, found.waited_s) == (2.0, 0.5)
