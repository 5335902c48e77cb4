"""What an endpoint depends on fails under twenty requests a second by keys: each answer is right, or what the use case
says; all is right again within 5 s of the return; and the ledger has every answer that was given, once."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
import numpy as np
import psutil
import pytest
import yaml

from mlops_ray.config import Settings, load_settings
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.keys import create_key
from mlops_ray.predictions.writer import LedgerWriter
from mlops_ray.registry.onnx_model import OnnxModel
from mlops_ray.serving.environment import serve_environment
from mlops_ray.testing.example_model import FEATURES, example_onnx
from tests.chaos.dependencies_example import DELAYS, MODELS
from tests.integration.store_servers import Server, started
from tests.integration.test_online_store import free_port
from tests.pipeline_run import ROOT, kill_group
from tests.raw_ledger import raw_rows

EXAMPLE = ROOT / "tests" / "chaos" / "dependencies_example.py"
PORT, PER_S, BACK_WITHIN_S = 18_230, 20, 5.0
REFUSE, MISSING = MODELS
# MLflow is away for so long; five minutes show no more than this, and are for who wants to see them.
MLFLOW_AWAY_S = float(os.environ.get("CHAOS_MLFLOW_AWAY_S", "30"))
DEPARTURE = (datetime.now(UTC) + timedelta(days=1)).replace(hour=17, minute=0, second=0, microsecond=0)
HOUR = float(DEPARTURE.astimezone(ZoneInfo("America/New_York")).hour)


class Mlflow:
    """A tracking server that can be stopped and started again on the same port."""

    def __init__(self, folder: Path):
        self._folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db"]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        wait_until(lambda: status_of("GET", f"{self.url}/health") == 200, 90)

    def stop(self) -> None:
        kill_group(self._process)


@dataclass
class Dependencies:
    """The servers that the endpoints use, and the small disk on which the ledger lies before it is moved."""

    postgresql: Server
    redis: Server
    control_store: Server
    mlflow: Mlflow
    disk: Path | None
    settings: dict[str, Settings]


@dataclass
class Service:
    """A running driver of two endpoints."""

    dependencies: Dependencies
    driver: "subprocess.Popen[str]"
    mark: str
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def url(self, model: str, path: str) -> str:
        return f"http://127.0.0.1:{PORT}/v2/models/{model}/{path}"

    def processes(self, name: str) -> list[psutil.Process]:
        return marked(self.mark, name)


def marked(mark: str, name: str = "") -> list[psutil.Process]:
    """Processes that inherited this mark, and have `name` in their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MLOPS_RAY_TEST") == mark and name in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@dataclass(frozen=True)
class Answer:
    """kind: right, degraded (and right for that), wrong, or the status or the transport's error."""

    asked_s: float
    took_s: float
    kind: str
    request_id: str = ""


@dataclass
class Asked:
    """All answers of one model, in no order."""

    answers: list[Answer] = field(default_factory=list)

    def kinds(self) -> Counter[str]:
        return Counter(answer.kind for answer in self.answers)

    def trouble_after_s(self, moment_s: float) -> float:
        """How long after that the last request began whose answer was not right; 0 if there was none."""
        return max((a.asked_s - moment_s for a in self.answers if a.kind != "right"), default=0.0)

    def given(self) -> list[str]:
        return [answer.request_id for answer in self.answers if answer.kind in ("right", "degraded", "wrong")]

    def in_words(self) -> str:
        took_ms = 1000 * np.percentile([answer.took_s for answer in self.answers], [50, 99, 100])
        return f"{dict(self.kinds())}, p50 {took_ms[0]:.0f}, p99 {took_ms[1]:.0f}, longest {took_ms[2]:.0f} ms"


def wait_until(true: Callable[[], bool], timeout_s: float) -> float:
    began_s = time.monotonic()
    while not true():
        assert time.monotonic() - began_s < timeout_s
        time.sleep(0.1)
    return time.monotonic() - began_s


def status_of(method: str, url: str, headers: dict[str, str] | None = None, body: object = None) -> int:
    """0 where nobody answers."""
    try:
        return httpx.request(method, url, headers=headers, json=body, timeout=20, trust_env=False).status_code
    except httpx.TransportError:
        return 0


@pytest.fixture(scope="module")
def dependencies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dependencies]:
    folder = tmp_path_factory.mktemp("dependencies")
    mlflow = Mlflow(folder)
    with ExitStack() as stack:
        postgresql, redis, control_store = (
            stack.enter_context(started(kind)) for kind in ("postgresql", "redis", "postgresql")
        )
        mlflow.start()
        stack.callback(mlflow.stop)
        wal = folder / "wal"
        wal.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(wal)], capture_output=True)
        if mounted.returncode == 0:
            stack.callback(subprocess.run, ["umount", "-l", str(wal)])
        settings = {}
        for model, store in ((REFUSE, postgresql), (MISSING, redis)):
            values = {
                "state": str(folder), "data": str(folder), "online_store": store.url, "mlflow_uri": mlflow.url,
                "control_store": control_store.url, "ledger_wal": str(wal), "ledger_rotate_s": 5, "http_port": PORT,
                "num_cpus": 4, "object_store_mb": 200,
            }  # fmt: skip
            (folder / f"{model}.yaml").write_text(yaml.safe_dump(values))
            settings[model] = load_settings(str(folder / f"{model}.yaml"))
        disk = wal if mounted.returncode == 0 else None
        yield Dependencies(postgresql, redis, control_store, mlflow, disk, settings)


@contextmanager
def serving(dependencies: Dependencies, **environment: str) -> Iterator[Service]:
    mark = environment.get("MLOPS_RAY_TEST", str(time.time_ns()))
    folder = dependencies.settings[REFUSE].state
    key = create_key(open_store(dependencies.settings[REFUSE]), SYSTEM, f"tests {time.time_ns()}", ["admin"])
    driver = subprocess.Popen(
        [sys.executable, str(EXAMPLE), *(f"{folder}/{model}.yaml" for model in MODELS)],
        env={**os.environ, "MLOPS_RAY_TEST": mark, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert driver.stdout is not None
        said = driver.stdout.readline().strip()
        assert said == f"http://127.0.0.1:{PORT}", driver.communicate()
        yield Service(dependencies, driver, mark, key.secret)
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGINT)
            driver.wait(60)
    finally:
        if driver.poll() is None:
            kill_group(driver)


@pytest.fixture(scope="module")
def service(dependencies: Dependencies) -> Iterator[Service]:
    with serving(dependencies) as service:
        yield service


_model = OnnxModel(example_onnx(), FEATURES)


def expected(origin: str, carrier: str, distance: float, delay: float) -> float:
    """What the model answers, to the last bit, in this process."""
    numbers = np.array([[distance, HOUR, delay]], np.float32)
    return float(_model.answers(numbers, np.array([[origin, carrier]], object))[0])


@contextmanager
def asked(service: Service) -> Iterator[dict[str, Asked]]:
    """Twenty requests a second to each model until the block ends."""
    seen, ended = {model: Asked() for model in MODELS}, threading.Event()
    client = httpx.Client(headers=service.headers, timeout=20, trust_env=False)

    def ask(model: str, key: tuple[str, str], distance: float) -> None:
        keys = {"origin": key[0], "carrier": key[1], "departure": DEPARTURE.isoformat(), "distance": distance}
        began_s, request_id = time.monotonic(), ""
        try:
            answer = client.post(service.url(model, "predict"), json={"keys": keys})
            kind = str(answer.status_code)
            if answer.status_code == 200:
                body = answer.json()
                degraded, request_id = body.get("degraded", False), body["request_id"]
                right = expected(*key, distance, float("nan") if degraded else DELAYS[key])
                kind = "degraded" if degraded else "right"
                if body["predictions"][0]["probability"] != right:
                    kind = "wrong"
        except httpx.TransportError as error:
            kind = type(error).__name__
        seen[model].answers.append(Answer(began_s, time.monotonic() - began_s, kind, request_id))

    def ask_at_a_rate(model: str) -> None:
        choose, due_s, pending = random.Random(model), time.monotonic(), []
        with ThreadPoolExecutor(32) as pool:
            while not ended.is_set():
                pending.append(pool.submit(ask, model, choose.choice(list(DELAYS)), float(choose.randrange(2_000))))
                due_s += 1 / PER_S
                time.sleep(max(0.0, due_s - time.monotonic()))
        for one in pending:
            one.result()

    threads = [threading.Thread(target=ask_at_a_rate, args=(model,)) for model in MODELS]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        ended.set()
        for thread in threads:
            thread.join()
        client.close()


def expect_recorded_once(service: Service, seen: dict[str, Asked]) -> None:
    """Every answer that was given lies once in the raw segments."""
    for model, of_model in seen.items():
        given, settings = of_model.given(), service.dependencies.settings[model]
        wait_until(lambda wanted=set(given), of=settings, name=model: wanted <= recorded(of, name).keys(), 60)
        counts = recorded(settings, model)
        assert len(set(given)) == len(given)
        assert {counts[request_id] for request_id in given} == {1}


def recorded(settings: Settings, model: str) -> Counter[str]:
    return Counter(raw_rows(settings, model)["request_id"])


def under_load(
    service: Service, what: str, trouble: Callable[[], float], meanwhile: dict[str, str], after_s: float = 7
) -> dict[str, Asked]:
    """trouble: does its work and gives the moment of the return. meanwhile: for each model that feels it, what kind of
    answer is allowed then; of the others every answer is right."""
    with asked(service) as seen:
        time.sleep(2)
        back_s = trouble()
        time.sleep(max(0.0, back_s + after_s - time.monotonic()))
    for model, of_model in seen.items():
        print(f"{what}: {model}: {of_model.in_words()}; right {max(0, of_model.trouble_after_s(back_s)):.1f} s after")
    expect_recorded_once(service, seen)
    for model, of_model in seen.items():
        allowed = {"right", meanwhile[model]} if model in meanwhile else {"right"}
        assert set(of_model.kinds()) == allowed
        assert of_model.trouble_after_s(back_s) < BACK_WITHIN_S
    return seen


def restart(server: Server, away_s: float) -> float:
    server.stop()
    time.sleep(away_s)
    server.start()
    return time.monotonic()


@pytest.mark.timeout(400)
def test_postgresql_restarted_is_503_where_the_use_case_refuses(service: Service) -> None:
    under_load(service, "PostgreSQL restarted", lambda: restart(service.dependencies.postgresql, 3), {REFUSE: "503"})


@pytest.mark.timeout(400)
def test_redis_restarted_is_degraded_where_the_use_case_goes_on_without(service: Service) -> None:
    under_load(service, "Redis restarted", lambda: restart(service.dependencies.redis, 3), {MISSING: "degraded"})


@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", ["redis", "postgresql"])
def test_a_frozen_store_is_no_slow_store(service: Service, kind: str) -> None:
    """Of the requests in 20 s of it, those wait that came before the breaker opened."""
    model, otherwise = (MISSING, "degraded") if kind == "redis" else (REFUSE, "503")
    server: Server = getattr(service.dependencies, kind)

    def freeze() -> float:
        server.signal(signal.SIGSTOP)
        time.sleep(20)
        server.signal(signal.SIGCONT)
        return time.monotonic()

    seen = under_load(service, f"{kind} frozen for 20 s", freeze, {model: otherwise})
    waited = [answer for answer in seen[model].answers if answer.took_s > 0.5]
    assert len(waited) < 3 * PER_S
    assert max(answer.took_s for answer in seen[model].answers) < 4


@pytest.mark.timeout(400)
def test_a_control_store_that_is_away_for_a_minute_is_noticed_by_no_caller(service: Service) -> None:
    def away() -> float:
        service.dependencies.control_store.stop()
        time.sleep(30)
        assert status_of("GET", service.url(REFUSE, "rollout"), service.headers) == 503
        time.sleep(30)
        service.dependencies.control_store.start()
        return time.monotonic()

    under_load(service, "control store away for 60 s", away, {})
    key = create_key(open_store(service.dependencies.settings[REFUSE]), SYSTEM, "new", ["predict"])
    headers = {"authorization": f"Bearer {key.secret}"}
    took_s = wait_until(lambda: status_of("GET", service.url(REFUSE, "ready"), headers) == 200, BACK_WITHIN_S)
    print(f"a key that was made then is known {took_s:.1f} s later")


@pytest.mark.timeout(900)
def test_mlflow_away_delays_nobody_and_no_rollback(service: Service) -> None:
    def move(path: str, body: dict[str, object]) -> int:
        revision = httpx.get(service.url(REFUSE, "rollout"), headers=service.headers, timeout=20).json()["revision"]
        return status_of("POST", service.url(REFUSE, path), service.headers, {**body, "revision": revision})

    def champion() -> int:
        shown = httpx.get(service.url(REFUSE, "rollout"), headers=service.headers, timeout=20).json()
        return int(shown["champion"]["version"]) if shown["rollout"] is None else 0

    to_second = {"version": 2, "plan": {"steps": []}}
    assert move("rollout", to_second) == 200
    wait_until(lambda: champion() == 2, 30)

    def away() -> float:
        service.dependencies.mlflow.stop()
        time.sleep(5)
        began_s = time.monotonic()
        assert move("rollout/rollback", {"to": 1, "reason": "MLflow is away"}) == 200
        wait_until(lambda: champion() == 1, BACK_WITHIN_S)
        print(f"rolled back without MLflow in {time.monotonic() - began_s:.1f} s")
        assert move("rollout", to_second) == 503
        time.sleep(max(0.0, MLFLOW_AWAY_S - 10))
        service.dependencies.mlflow.start()
        return time.monotonic()

    under_load(service, f"MLflow away for {MLFLOW_AWAY_S:.0f} s", away, {})
    began_s = time.monotonic()
    assert move("rollout", to_second) == 200
    wait_until(lambda: champion() == 2, 2 * BACK_WITHIN_S)
    print(f"a rollout after MLflow's return took {time.monotonic() - began_s:.1f} s")


@pytest.mark.timeout(400)
def test_a_full_disk_is_503_and_nothing_that_was_answered_is_lost(service: Service) -> None:
    disk = service.dependencies.disk
    if disk is None:
        pytest.skip("this machine lets nobody mount a small file system")

    def fill() -> float:
        filling = disk / "filling"
        with filling.open("wb", buffering=0) as file:
            for size in (4096, 1):
                try:
                    while True:
                        file.write(b"x" * size)
                except OSError:
                    continue
        time.sleep(15)
        filling.unlink()
        return time.monotonic()

    under_load(service, "the ledger's disk full for 15 s", fill, {REFUSE: "503", MISSING: "503"})


@pytest.mark.timeout(400)
def test_gcs_killed_without_a_redis_of_its_own_ends_the_command_and_loses_no_answer(service: Service) -> None:
    """The last test of this driver."""
    (gcs,) = service.processes("gcs_server")
    with asked(service) as seen:
        time.sleep(2)
        gcs.kill()
        began_s = time.monotonic()
        assert service.driver.wait(60) == 1
        ended_s = time.monotonic()
        time.sleep(2)
    assert service.driver.stderr is not None
    said = service.driver.stderr.read()
    print(f"gcs_server killed, no Redis: the command ended after {ended_s - began_s:.1f} s: {said[-200:]}")
    for model, of_model in seen.items():
        print(f"gcs_server killed, no Redis: {model}: {of_model.in_words()}")
        LedgerWriter(service.dependencies.settings[model], model).collect_leftovers()
    expect_recorded_once(service, seen)
    assert "error: Ray has ended: its gcs_server is gone" in said
    for of_model in seen.values():
        assert not of_model.kinds().keys() & {"wrong", "404", "500", "degraded"}
        assert of_model.answers[-1].kind == "ConnectError", "nothing keeps the port"


@contextmanager
def ray_head(redis: Server) -> Iterator[dict[str, str]]:
    """A Ray whose gcs_server keeps its state in Redis; the environment of who works with it."""
    port, mark = free_port(), str(time.time_ns())
    environment = {
        **serve_environment(), "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1", "MLOPS_RAY_TEST": mark,
        "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled",
    }  # fmt: skip
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", f"--port={port}"]
    command += ["--node-ip-address=127.0.0.1", "--num-cpus=4", "--object-store-memory=200000000"]
    command += ["--include-dashboard=false", "--disable-usage-stats"]
    own = {"RAY_REDIS_ADDRESS": f"127.0.0.1:{redis.port}"}
    subprocess.run(command, check=True, env={**os.environ, **environment, **own}, stdout=subprocess.DEVNULL)
    try:
        yield {**environment, "RAY_ADDRESS": f"127.0.0.1:{port}"}
    finally:
        for process in marked(mark):
            with suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.mark.timeout(400)
def test_gcs_killed_with_a_redis_of_its_own_is_noticed_by_no_caller(dependencies: Dependencies) -> None:
    """As a supervisor would, gcs_server is started again with the same command; then Ray still replaces what dies."""
    with started("redis") as redis, ray_head(redis) as environment, serving(dependencies, **environment) as service:
        (gcs,) = service.processes("gcs_server")
        command, variables, folder = gcs.cmdline(), gcs.environ(), gcs.cwd()

        def away() -> float:
            gcs.kill()
            time.sleep(10)
            quiet = subprocess.DEVNULL
            subprocess.Popen(command, env=variables, cwd=folder, stdout=quiet, stderr=quiet, start_new_session=True)
            return time.monotonic()

        under_load(service, "gcs_server, with Redis, away for 10 s", away, {}, after_s=20)
        (replica,) = service.processes("ServeReplica:missing")
        replica.kill()
        time.sleep(1)
        ready = service.url(MISSING, "ready")
        took_s = wait_until(lambda: status_of("GET", ready, service.headers) == 200, 30)
        print(f"a replica that was killed afterwards is replaced in {1 + took_s:.1f} s")
        assert [one.pid for one in service.processes("ServeReplica:missing")] != [replica.pid]
