"""Rounds in which an endpoint is asked at half its capacity: alone, and beside a run on all CPUs that are free."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster_serving.load import Asked, ask

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
NAME = "departures"
_WARM_S, _CAPACITY_S, _ASKED_S = 3.0, 4.0, 8.0


@dataclass(frozen=True)
class Node:
    """processors: to which what runs there is confined. cpus: for runs, serving: for replicas, as Ray counts them."""

    processors: str
    cpus: int
    serving: int


@dataclass(frozen=True)
class Beside:
    """What was answered in a round, by how the run was done: "alone" for none."""

    rounds: Sequence[dict[str, Asked]]
    rate: float

    def p99_ratio(self, how: str) -> list[float]:
        """Of each round, against the same endpoint alone a moment before."""
        return [one[how].percentile(0.99) / one["alone"].percentile(0.99) for one in self.rounds]

    def failed(self, how: str) -> int:
        return sum(one[how].failed for one in self.rounds)


def beside(nodes: Sequence[Node], hows: Sequence[str], rounds: int) -> Beside:
    """The endpoint is on the first node. hows: of the run, see run.py."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    with ExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        gcs, port = _free_port(), _free_port()
        address = f"127.0.0.1:{gcs}"
        for number, node in enumerate(nodes):
            stack.enter_context(_started(_node_command(node, gcs if number == 0 else None, address), state, node))
            _wait_for_nodes(address, number + 1)
        command = [sys.executable, str(HERE / "endpoint.py"), address, str(state), str(port)]
        endpoint = stack.enter_context(_started(command, state, nodes[0]))
        assert endpoint.stdout is not None
        while (line := endpoint.stdout.readline()).strip() != "serving":
            assert line, (state / "log").read_text()[-4000:]
        key = (state / "key").read_text()
        os.sched_setaffinity(0, _numbers(nodes[0].processors))
        ask(port, NAME, key, _WARM_S, None)
        rate = ask(port, NAME, key, _CAPACITY_S, None).requests_per_s / 2
        print(f"half of its capacity: {rate:.0f} requests/s", file=sys.stderr)
        found = []
        for _ in range(rounds):
            one = {"alone": ask(port, NAME, key, _ASKED_S, rate)}
            for how in hows:
                command = [sys.executable, str(HERE / "run.py"), address, how]
                with _started(command, state, nodes[-1]) as run:
                    assert run.stdout is not None
                    said = run.stdout.readline()
                    assert said, (state / "log").read_text()[-4000:]
                    one[how] = ask(port, NAME, key, _ASKED_S, rate)
                    assert run.poll() is None, "the run has ended before what it was to be beside"
            told = {how: [round(asked.percentile(share), 2) for share in (0.5, 0.99)] for how, asked in one.items()}
            print(f"p50 and p99 in ms: {told}; the run said {said.strip()}", file=sys.stderr)
            found.append(one)
        return Beside(found, rate)


def _node_command(node: Node, head_port: int | None, address: str) -> list[str]:
    ray = str(Path(sys.executable).with_name("ray"))
    where = ["--address", address] if head_port is None else ["--head", "--port", str(head_port)]
    where += [] if head_port is None else ["--include-dashboard=false"]
    kept = [f'--resources={{"serving_cpus": {node.serving}}}'] if node.serving else []
    return [
        ray, "start", *where, "--node-ip-address=127.0.0.1", f"--num-cpus={node.cpus}", *kept,
        f"--dashboard-agent-listen-port={_free_port()}",  # by default the same on each node
        "--object-store-memory=200000000", "--disable-usage-stats", "--block",
    ]  # fmt: skip


@contextmanager
def _started(command: Sequence[str], state: Path, node: Node) -> Iterator["subprocess.Popen[str]"]:
    from mlops_ray.serving.environment import serve_environment

    environment = {
        **os.environ, **serve_environment(), "PYTHONPATH": str(ROOT),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    environment.pop("RAY_ADDRESS", None)
    with (state / "log").open("a") as log:
        process = subprocess.Popen(
            ["taskset", "-c", node.processors, *command], env=environment, text=True, cwd=ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_nodes(address: str, count: int) -> None:
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            nodes = GcsClient(address=address).get_all_node_info(timeout=5)
            if sum(node.state == 0 for node in nodes.values()) >= count:
                return
        except Exception:  # it does not listen yet
            pass
        time.sleep(0.5)
    raise RuntimeError(f"Fewer than {count} nodes have come up at {address}.")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _numbers(processors: str) -> set[int]:
    return {int(one) for one in processors.split(",")}
