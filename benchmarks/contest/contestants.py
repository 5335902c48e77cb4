"""Contestants: how each server is started, asked and stopped."""

import os
import signal
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from contest import work
from contest.load import Target

HERE = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
START_TIMEOUT_S, STOP_TIMEOUT_S = 120.0, 40.0
ONNX = ("onnxruntime==1.32.0", "numpy")
TOLERANCE = 1e-5

Command = Callable[[int], Sequence[str | Path]]


@dataclass(frozen=True)
class Contestant:
    """`command` takes the port. answer: the probability in the JSON that it answers. ours: asks for a key."""

    name: str
    command: Command
    rows: Path = work.VECTOR_ROWS
    path: str = "/predict"
    environment: Mapping[str, str] = field(default_factory=dict)
    answer: Callable[[Any], float] = lambda body: body["probability"]
    ours: bool = False


def ours(name: str = "ours", cache_s: float = 0.0) -> Contestant:
    from mlops_ray.serving.environment import serve_environment

    return Contestant(
        name,
        lambda port: [sys.executable, "-m", "contest.servers.ours", str(port), str(cache_s)],
        path="/v2/models/flights/predict",
        environment=serve_environment() | {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1"},
        answer=lambda body: body["predictions"][0]["probability"],
        ours=True,
    )


def bare_ray(name: str, haproxy: bool) -> Contestant:
    """The environment of ours, so that only the application differs, or that and the proxy."""
    without = {} if haproxy else {"RAY_SERVE_ENABLE_HA_PROXY": "0", "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0"}
    environment = {name: value for name, value in ours().environment.items() if "CALLBACK" not in name}
    return Contestant(
        name,
        lambda port: [sys.executable, "-m", "contest.servers.bare_ray", str(port)],
        environment=environment | without,
    )


def fastapi(name: str, module: str, rows: Path = work.VECTOR_ROWS, processes: int = 2) -> Contestant:
    def command(port: int) -> Sequence[str | Path]:
        options = ["--workers", str(processes), "--port", str(port), "--no-access-log", "--log-level", "warning"]
        return [sys.executable, "-m", "uvicorn", f"contest.servers.{module}:app", *options]

    return Contestant(name, command, rows)


def mlflow_server(name: str) -> Contestant:
    def command(port: int) -> Sequence[str | Path]:
        options = ["--env-manager", "local", "--workers", "2", "--host", "127.0.0.1", "--port", str(port)]
        return [BIN / "mlflow", "models", "serve", "-m", work.MLFLOW_MODEL, *options]

    path = f"{BIN}:{os.environ['PATH']}"
    environment = {"PATH": path, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true"}
    return Contestant(
        name, command, work.MLFLOW_ROWS, "/invocations", environment, lambda body: body["predictions"][0][1]
    )


def bentoml(name: str) -> Contestant | None:
    """With scikit-learn."""
    bin = _environment("bentoml", "bentoml==1.4.39", "scikit-learn==1.9.1", "pandas==2.3.3", "joblib==1.6.0")

    def command(port: int) -> Sequence[str | Path]:
        return [
            bin / "bentoml",
            "serve",
            "contest.servers.bentoml_service:Flights",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ]

    return Contestant(name, command, environment={"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(work.WORK)})


def mosec(name: str) -> Contestant:
    """With ONNX Runtime."""
    bin = _environment("mosec", "mosec==0.9.8", *ONNX)

    def command(port: int) -> Sequence[str | Path]:
        return [bin / "python", "-m", "contest.servers.mosec_server", "--port", str(port), "--address", "127.0.0.1"]

    return Contestant(name, command, path="/inference")


def litserve(name: str) -> Contestant:
    """With ONNX Runtime."""
    bin = _environment("litserve", "litserve==0.2.19", *ONNX)
    return Contestant(name, lambda port: [bin / "python", "-m", "contest.servers.litserve_server", str(port)])


def if_installed(contestant: Callable[[str], Contestant], name: str) -> list[Contestant]:
    """The contestant in an environment of its own; none if that cannot be made here."""
    try:
        return [contestant(name)]
    except subprocess.CalledProcessError as error:
        print(f"{name} cannot be installed here ({error}); it is left out.", file=sys.stderr)
        return []


def _environment(name: str, *packages: str) -> Path:
    """The folder of the programs of a virtual environment with these packages, which is made if it is not there."""
    folder = work.ROOT / f".venv-{name}"
    if not (folder / "installed").exists():
        venv.create(folder, with_pip=True, clear=True)
        pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *packages], check=True, stdout=sys.stderr)
        (folder / "installed").touch()
    return folder / "bin"


@contextmanager
def running(contestant: Contestant) -> Iterator[Target]:
    """Start it and yield what is asked of it, once it answers as the pipeline does; stop it and all it started."""
    port = _free_port()
    environment = {"PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    log = (work.WORK / f"{contestant.name}.log").open("w")
    process = subprocess.Popen(
        contestant.command(port), env=os.environ | environment | contestant.environment, cwd=HERE,
        stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    try:
        target = Target(f"http://127.0.0.1:{port}{contestant.path}", contestant.rows)
        yield _ready(contestant, target, process, Path(log.name))
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            print(f"{contestant.name} did not stop by itself", file=sys.stderr)
        _kill_group(process.pid)
        log.close()


def _ready(contestant: Contestant, target: Target, process: subprocess.Popen[bytes], log: Path) -> Target:
    """The target, with the key of ours, once the rows that were checked beforehand are answered as they should."""
    deadline = time.monotonic() + START_TIMEOUT_S
    first = target.rows.open().readline()
    key_file = Path(work.settings().state, "development_key")
    with httpx.Client(headers={"content-type": "application/json"}, timeout=10) as client:
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{contestant.name} did not start. Its last words:\n{log.read_text()[-3000:]}")
            with suppress(httpx.TransportError, FileNotFoundError):
                if contestant.ours:
                    client.headers["authorization"] = f"Bearer {key_file.read_text().strip()}"
                if client.post(target.url, content=first).status_code == 200:
                    break
            time.sleep(0.3)
        target = replace(target, authorization=client.headers.get("authorization", ""))
        expect_answers(client, target, contestant)
    return target


def expect_answers(client: httpx.Client, target: Target, contestant: Contestant) -> None:
    """Raise SystemExit unless it answers the first rows as the fitted pipeline did."""
    wanted = work.facts()["key_answers" if target.rows == work.KEY_ROWS else "vector_answers"]
    with target.rows.open() as rows:
        for number, (row, expected) in enumerate(zip(rows, wanted, strict=False)):
            if expected is None:
                continue
            given = contestant.answer(client.post(target.url, content=row).raise_for_status().json())
            if not abs(given - expected) <= TOLERANCE:
                raise SystemExit(f"{contestant.name} answers row {number} with {given}; the pipeline gives {expected}.")


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
