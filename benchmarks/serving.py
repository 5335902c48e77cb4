"""Serving: our whole path and what else could serve the same model, asked for one row a request on this machine.

All answer with the same fitted scikit-learn pipeline, or its ONNX export where they take ONNX, each in two processes
(FastAPI with scikit-learn also in one, which is how it starts unless told otherwise); that their answers agree is
checked first. Servers are measured one after another, ours first and last. *Vector*
requests carry the features, *keys* requests the entity keys, whose features are read from the online store.

What the ledger and a shadow cost ours are parts by themselves: `python benchmarks/run.py serving:ledger`.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

from contest import work
from contest.contestants import (
    HERE,
    Contestant,
    bare_ray,
    bentoml,
    fastapi,
    if_installed,
    litserve,
    mlflow_server,
    mosec,
    ours,
    running,
)
from contest.costs import Cost, ledger_cost, shadow_cost
from contest.load import Load, Target, expect_wrk, load

WARM_S, SECONDS, RUNS = 3, 5, 3
CLIENTS = 16
CACHE_S = 600.0


@dataclass(frozen=True)
class Measured:
    """Medians of some runs: with many clients, and with one."""

    many: Load
    one: Load


Figures = Iterator[tuple[str, float, str]]


@cache
def _prepare() -> None:
    """Once for all parts that are measured together."""
    expect_wrk()
    subprocess.run(
        [sys.executable, "-m", "contest.prepare"],
        cwd=HERE,
        env=os.environ | {"PYTHONPATH": str(HERE)},
        check=True,
        stdout=sys.stderr,
    )


def contest() -> Figures:
    _prepare()
    found: dict[str, list[Measured]] = {}
    keys: dict[str, list[Measured]] = {}
    with running(ours()) as target:
        found["ours"] = [_measure("ours", target)]
        keys["ours"] = [_measure("ours, keys", replace(target, rows=work.KEY_ROWS))]
    for rival in _rivals():
        with running(rival) as target:
            found[rival.name] = [_measure(rival.name, target)]
    with running(fastapi("fastapi_feast", "fastapi_feast", work.KEY_ROWS)) as target:
        keys["fastapi_sklearn"] = [_measure("FastAPI + Feast + scikit-learn, keys", target)]
    with running(ours("ours_cached", CACHE_S)) as target:
        found["ours"].append(_measure("ours", target))
        keys["ours_cached"] = [_measure("ours, keys, cached", replace(target, rows=work.KEY_ROWS), warm_s=15)]
    with running(ours()) as target:
        keys["ours"].append(_measure("ours, keys", replace(target, rows=work.KEY_ROWS)))
        found["ours"].append(_measure("ours", target))
    yield from _vector_figures(found)
    yield from _key_figures(keys)


def _cost(name: str, of: Callable[[Target, float], Cost]) -> Figures:
    """At half of the requests that ours answers a second."""
    _prepare()
    with running(ours()) as target:
        cost = of(target, _measure("ours", target).many.requests_per_s / 2)
    yield name, cost.percent, "%"
    yield f"{name}_low", cost.low, "%"
    yield f"{name}_high", cost.high, "%"


def _rivals() -> list[Contestant]:
    return [
        bare_ray("ray_haproxy", haproxy=True),
        bare_ray("ray_proxy", haproxy=False),
        fastapi("fastapi_onnx", "fastapi_onnx"),
        fastapi("fastapi_sklearn", "fastapi_sklearn"),
        fastapi("fastapi_sklearn_1_process", "fastapi_sklearn", processes=1),
        mlflow_server("mlflow_server"),
        *if_installed(bentoml, "bentoml"),
        *if_installed(mosec, "mosec"),
        *if_installed(litserve, "litserve"),
    ]


def _measure(name: str, target: Target, warm_s: float = WARM_S) -> Measured:
    load(target, CLIENTS, warm_s)
    measured = Measured(_median([load(target, CLIENTS, SECONDS) for _ in range(RUNS)]), load(target, 1, SECONDS))
    print(f"{name}: {CLIENTS} clients {measured.many}, one client {measured.one}", file=sys.stderr)
    return measured


def _median(loads: Sequence[Load]) -> Load:
    return Load(
        statistics.median(found.requests_per_s for found in loads),
        statistics.median(found.p50_ms for found in loads),
        statistics.median(found.p99_ms for found in loads),
    )


def _vector_figures(found: dict[str, list[Measured]]) -> Figures:
    rates = {name: _median([run.many for run in runs]).requests_per_s for name, runs in found.items()}
    for name, rate in rates.items():
        yield f"requests_per_s_{name}", rate, "requests/s"
    for name in list(rates)[1:]:
        yield f"vs_{name}", rates["ours"] / rates[name], "x"
    yield "p50_ms_1_client", _median([run.one for run in found["ours"]]).p50_ms, "ms"
    yield "p99_ms_16_clients", _median([run.many for run in found["ours"]]).p99_ms, "ms"


def _key_figures(keys: dict[str, list[Measured]]) -> Figures:
    rates = {name: _median([run.many for run in runs]).requests_per_s for name, runs in keys.items()}
    for name, rate in rates.items():
        yield f"keys_requests_per_s_{name}", rate, "requests/s"
    yield "keys_vs_fastapi_sklearn", rates["ours"] / rates["fastapi_sklearn"], "x"
    yield "keys_p50_ms_1_client", _median([run.one for run in keys["ours"]]).p50_ms, "ms"
    yield "keys_hit_rate_percent", 100 * work.facts()["hit_rate"], "%"


PARTS = {
    "contest": contest,
    "ledger": partial(_cost, "ledger_p50_percent", ledger_cost),
    "shadow": partial(_cost, "shadow_p99_percent", shadow_cost),
}
