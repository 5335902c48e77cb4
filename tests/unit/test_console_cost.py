"""Cost on the console is what the commands say, against a budget, and for who may look."""

import json
import re
import threading
from collections.abc import Iterator
from datetime import timedelta
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mlops_ray.cli.main import app
from mlops_ray.config import Prices
from mlops_ray.console import cost
from mlops_ray.console.cost import Budgets
from mlops_ray.cost.prices import digest_of
from mlops_ray.cost.steps import STEPS
from mlops_ray.cost.usage import Usage
from mlops_ray.governance.budgets import Budget, set_budget
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.usage import Part, hour_of, keep_prices, month_of, now, write_usage
from mlops_ray.testing.example_lineage import AUTHOR, example_lineage, register_example
from tests.console_server import ConsoleServer, console, whole

EUR = Prices(currency="EUR", cpu_hour=36.0, memory_gb_hour=0, read_gb=0, written_gb=0)
CASE = "/console/use-cases/flights"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ConsoleServer]:
    with console(tmp_path, prices=EUR) as server:
        yield server


def used(server: ConsoleServer, run: str, cpu_s: float, state: Any = "ended") -> None:
    """A run of all steps, and what runs beside them."""
    store = server.store
    keep_prices(store, digest_of(EUR), EUR.model_dump())
    for number, step in enumerate((*STEPS, "around")):
        part = Part(run, "step", step, "flights", f"key {step}", digest_of(EUR))
        usage = Usage(wall_s=cpu_s, cpu_s=cpu_s * (1 + number), peak_bytes=2 * 10**9, byte_s=3.6e12)
        write_usage(store, part, month_of(now(store)), usage.to_json(), state)


def answered(server: ConsoleServer) -> None:
    part = Part("replica", "replica", "1", "flights", "", digest_of(EUR))
    usage = Usage(wall_s=3600, cpu_s=100, predictions=2_000)
    write_usage(server.store, part, hour_of(now(server.store)), usage.to_json(), "running")


def command(server: ConsoleServer, folder: Path, *arguments: str) -> Any:
    file = folder / "settings.yaml"
    file.write_text(f"prices: {json.dumps(EUR.model_dump(exclude_none=True))}\n")
    wanted = [*arguments, "--json", "--state", server.settings.state, "--config", str(file)]
    result = CliRunner().invoke(app, ["cost", *wanted], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def read(server: ConsoleServer, path: str, who: str = "ann") -> str:
    """What a page says, once it says all."""
    for _ in range(300):
        page = server.browser(who).get(path).text
        if "data-soon" not in page.partition('id="cost"')[2].partition("</section>")[0]:
            break
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", page)))


def test_a_month_so_far_is_what_cost_show_and_cost_budget_say(server: ConsoleServer, tmp_path: Path) -> None:
    used(server, "run-a", 3.0)
    used(server, "run-b", 4.0, "failed")
    answered(server)
    set_budget(server.store, AUTHOR, Budget("flights", "", 4.0, "EUR"), "plan")
    page = read(server, CASE)
    month = f"{now(server.store):%Y-%m}"
    steps = command(server, tmp_path, "show", "flights", "--month", month)["lines"]
    assert {one["name"] for one in steps} == {*STEPS, "around", "serving"}
    for line in steps:
        amount, used_ = line["cost"]["amounts"]["EUR"], line["used"]
        cells = f"{line['name']} {amount:.4g} EUR {used_['cpu_s'] / 3600:.4f}"
        assert cells in page, cells
    (budget,) = command(server, tmp_path, "budget", "flights")
    assert f"{budget['spent']:.4g} of 4 EUR ▲ nearly spent" in page
    for run in command(server, tmp_path, "show", "flights", "--by", "run", "--month", month)["lines"]:
        state = "▲ failed" if run["name"] == "run-b" else "ended"
        assert re.search(rf"{run['name']} {state} .{{20}} {run['cost']['amounts']['EUR']:.4g} EUR", page), page
    (served,) = command(server, tmp_path, "show", "flights", "--by", "prediction")["lines"]
    assert f"flights@1 1 EUR {served['per_thousand']['amounts']['EUR']:.4g} EUR 2,000" in page
    middle = command(server, tmp_path, "estimate", "flights")["estimate"]["cost"]["middle"]
    assert f"the next run {middle:.3g} EUR" in page


def test_a_version_tells_what_it_cost_to_make(server: ConsoleServer, tmp_path: Path) -> None:
    made = {step: {"key": f"key {step}"} for step in STEPS[:6]}
    register_example(server.settings, server.store, example_lineage(digest="e" * 64, used=made), 4)
    used(server, "run-a", 3.0)
    page = read(server, f"{CASE}/versions/4")
    (line,) = command(server, tmp_path, "show", "flights", "--by", "version", "--version", "4")["lines"]
    assert f"What it cost to make {line['cost']['amounts']['EUR']:.4g} EUR" in page
    assert f"{line['used']['cpu_s'] / 3600:.4f} CPU hours in 6 steps" in page
    assert "What it cost to make" not in read(server, f"{CASE}/versions/1")


def test_the_overview_tells_of_a_budget_only_where_it_warns(
    server: ConsoleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    used(server, "run-a", 3.0)
    set_budget(server.store, AUTHOR, Budget("flights", "", 100.0, "EUR"), "plan")
    assert "EUR" not in read(server, "/console")
    set_budget(server.store, AUTHOR, Budget("flights", "", 1.0, "EUR"), "less")
    monkeypatch.setattr(Budgets, "again_s", 0.0)
    assert any("of 1 EUR ▲ spent" in read(server, "/console") for _ in range(100))
    assert "EUR" not in read(server, "/console", "foreign")


def test_a_budget_names_the_prices_that_what_counts_against_it_lacks(server: ConsoleServer) -> None:
    answered(server)
    part = Part("run-a", "step", "train", "flights", "key", digest_of(EUR))
    write_usage(server.store, part, month_of(now(server.store)), Usage(cpu_s=100.0, gpu_s=60.0).to_json(), "ended")
    keep_prices(server.store, digest_of(EUR), EUR.model_dump())
    set_budget(server.store, AUTHOR, Budget("flights", "", 2.0, "EUR"), "plan")
    lacking = "2 of 2 EUR (without gpu_hour) ▲ spent"
    assert lacking in read(server, CASE)
    assert any(lacking in read(server, "/console") for _ in range(100))


def test_without_prices_or_runs_a_page_says_so(tmp_path: Path) -> None:
    with console(tmp_path) as server:
        page = read(server, CASE)
        assert "Nothing was measured this month" in page
        assert "it has none" in page
        usage = Usage(cpu_s=3600.0, wall_s=1)
        part = Part("r", "step", "<script>x", "flights", "", "")
        write_usage(server.store, part, month_of(now(server.store)) - timedelta(days=40), usage.to_json(), "ended")
        assert "Nothing was measured this month" in read(server, CASE)


def test_names_of_steps_and_runs_are_text(server: ConsoleServer) -> None:
    part = Part("<img src=x>", "step", "<img src=y>", "flights", "", digest_of(EUR))
    write_usage(server.store, part, month_of(now(server.store)), Usage(cpu_s=9.0).to_json(), "ended")
    for _ in range(300):
        page = server.browser("ann").get(CASE).text
        if "img src=y" in page:
            break
    assert "&lt;img src=y&gt;" in page
    assert "<img" not in page


def test_an_overview_whose_budgets_are_not_read_yet_comes_again(
    server: ConsoleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_them, may_read = cost.nearly_spent, threading.Event()

    def slowly(store: ControlStore) -> Any:
        may_read.wait(30)
        return read_them(store)

    monkeypatch.setattr(cost, "nearly_spent", slowly)
    used(server, "run-a", 20.0)
    set_budget(server.store, AUTHOR, Budget("flights", "", 4.0, "EUR"), "plan")
    browser = server.browser("ann")
    first = browser.get("/console").text
    assert "data-soon" in first
    assert "spent</span>" not in first
    may_read.set()
    assert "▲ spent" in whole(browser, "/console").text
