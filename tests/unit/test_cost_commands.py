"""The commands `mlops-ray cost`: what they show, and what they refuse."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mlops_ray.cli.cost import outlook
from mlops_ray.cli.main import app
from mlops_ray.config import Prices, Settings, load_settings
from mlops_ray.cost.meter import AROUND
from mlops_ray.cost.prices import digest_of
from mlops_ray.cost.spending import Spending, month_name
from mlops_ray.cost.usage import Usage, histogram
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.budgets import Budget, set_budget
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.declared_resources import Resources, resources_of
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.usage import Part, keep_prices, month_of, now, write_usage
from mlops_ray.pipeline.steps.step import STEPS

EUR = Prices(currency="EUR", cpu_hour=3600.0, memory_gb_hour=0, read_gb=0, written_gb=0)
Cost = Callable[..., Result]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "settings.yaml").write_text(f"prices: {json.dumps(EUR.model_dump(exclude_none=True))}\n")
    return Settings(state=str(tmp_path / "state"), data=str(tmp_path), prices=EUR)


@pytest.fixture
def cost(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cost:
    (tmp_path / "state").mkdir()
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Result:
        return CliRunner().invoke(app, ["cost", *words, "--state", settings.state])

    return run


def ran(settings: Settings, run: str, seconds: float = 2.0) -> None:
    store = open_store(settings)
    keep_prices(store, digest_of(EUR), EUR.model_dump())
    for step in (*STEPS, AROUND):
        usage = Usage(
            wall_s=seconds, cpu_s=seconds, process_peak_bytes=200 << 20, asked_cpus=4, cpus=histogram(1.0, seconds)
        )
        part = Part(run, "step", step, "flights", f"key {step}", digest_of(EUR))
        write_usage(store, part, month_of(now(store)), usage.to_json(), "ended")


def test_a_use_case_without_runs_has_no_cost_no_estimate_and_no_advice(cost: Cost) -> None:
    assert "Nothing was measured" in cost("show", "flights").output
    assert "not known before flights has run once" in cost("estimate", "flights").output
    assert json.loads(cost("estimate", "flights", "--json").output)["estimate"] is None
    assert "long enough" in cost("advice", "flights").output
    assert "Nothing changes" in cost("apply", "flights").output
    assert "No budget is set" in cost("budget").output


def test_what_is_shown_adds_up(cost: Cost, settings: Settings) -> None:
    for run in ("a", "b", "c"):
        ran(settings, run)
    shown = json.loads(cost("show", "flights", "--by", "use-case", "--json").output)
    (line,) = shown["lines"]
    assert line["cost"] == {"amounts": {"EUR": 48.0}}
    steps = json.loads(cost("show", "flights", "--json").output)["lines"]
    assert sum(one["cost"]["amounts"]["EUR"] for one in steps) == 48.0
    found = json.loads(cost("estimate", "flights", "--until", "train", "--json").output)["estimate"]
    assert found["cost"]["middle"] == pytest.approx(10.0)
    assert found["runs"] == 3


def test_an_estimate_that_exceeds_what_is_left_is_said_before_a_run(cost: Cost, settings: Settings) -> None:
    ran(settings, "a")
    assert cost("budget", "flights", "--amount", "20").exit_code == 0
    text = outlook(settings, "flights", "materialize")
    assert "16 EUR" in text
    assert "4 of 20 EUR are left. It may not be enough" in text
    assert cost("budget", "flights", "--amount", "200").exit_code == 0
    assert "not be enough" not in outlook(settings, "flights", "materialize")
    assert "16 spent" in cost("budget").output


def test_advice_is_applied_and_undone_without_code(cost: Cost, settings: Settings) -> None:
    ran(settings, "a")
    store = open_store(settings)
    assert "evaluate" in cost("apply", "flights", "--only", "evaluate", "--reason", "measured").output
    assert resources_of(store, "flights") == {"evaluate": Resources(1.0, 230)}
    assert "nothing to declare" in str(cost("apply", "flights", "--only", "nothing").exception)
    cost("apply", "flights", "--undo")
    assert resources_of(store, "flights") == {}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--amount", "-1"), "--amount is -1"),
        (("--amount", "nan"), "--amount is nan"),
        (("--amount", "5", "--currency", "USD"), "prices are in EUR"),
        (("--amount", "5", "--currency", "euro"), "three letters"),
        (("--amount", "5", "--warn-at", "0"), "--warn-at is 0"),
        (("--amount", "5", "--month", "2026-13"), "is no month"),
        (("--amount", "5", "--month", "9999-12"), "from 1970 to 2200"),
        (("--amount", "5", "--remove"), "Give one of them"),
        (("--warn-at", "0.5"), "Give --amount, too"),
        (("--currency", "EUR"), "Give --amount, too"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(cost: Cost, words: tuple[str, ...], why: str) -> None:
    found = cost("budget", "flights", *words)
    assert isinstance(found.exception, ConfigurationError)
    assert why in str(found.exception)


def test_a_budget_without_a_price_of_what_every_run_uses_is_refused(
    cost: Cost, settings: Settings, tmp_path: Path
) -> None:
    store = open_store(settings)
    set_budget(store, SYSTEM, Budget("flights", "", 1.0, "EUR"), "x")
    (tmp_path / "settings.yaml").write_text("prices: {currency: EUR, gpu_hour: 2.5}\n")
    assert "have no cpu_hour" in str(cost("budget", "flights", "--amount", "5").exception)
    with pytest.raises(ConfigurationError, match="have no cpu_hour"):
        Spending(store, "flights", Prices(currency="EUR", gpu_hour=2.5), "r").expect_something_left()


def test_what_is_spent_says_which_prices_are_missing(cost: Cost, settings: Settings) -> None:
    store, prices = open_store(settings), Prices(currency="EUR", cpu_hour=3600.0)
    keep_prices(store, digest_of(prices), prices.model_dump())
    part = Part("r", "step", "train", "flights", "k", digest_of(prices))
    write_usage(store, part, month_of(now(store)), Usage(cpu_s=4.0, gpu_s=9.0).to_json(), "ended")
    cost("budget", "flights", "--amount", "3")
    assert "4 spent in" in cost("budget").output
    assert "(without gpu_hour)" in cost("budget").output
    why = Spending(store, "flights", prices, "r").decide()
    assert why is not None
    assert "is spent: 4 of 3 EUR (without gpu_hour)" in why
    assert "cost budget flights --amount" in why


def test_a_month_with_its_own_budget_is_raised_by_the_command_that_is_told(cost: Cost, settings: Settings) -> None:
    ran(settings, "a")
    store = open_store(settings)
    month = month_name(now(store))
    cost("budget", "flights", "--amount", "1", "--month", month)
    why = Spending(store, "flights", EUR, "r").decide()
    assert why is not None
    assert f"`mlops-ray cost budget flights --month {month} --amount ...`" in why
    assert f"This month ({month}) keeps its own: 1 EUR." in cost("budget", "flights", "--amount", "100").output
    assert "keeps its own" not in cost("budget", "flights", "--amount", "100", "--month", month).output


def test_a_budget_of_a_use_case_that_nobody_knows_is_set_with_a_warning(cost: Cost, settings: Settings) -> None:
    ran(settings, "a")
    assert "Nothing is known of flihgts yet" in cost("budget", "flihgts", "--amount", "5").output
    assert "Nothing is known" not in cost("budget", "flights", "--amount", "5").output


@pytest.mark.parametrize("price", ["-1", ".nan", ".inf", "dear", "yes"])
def test_a_price_that_is_none_is_one_sentence(tmp_path: Path, price: str) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(f"state: /s\ndata: /d\nprices: {{currency: EUR, cpu_hour: {price}}}\n")
    with pytest.raises(ConfigurationError, match=r"prices\.cpu_hour"):
        load_settings(str(file))
    file.write_text("state: /s\ndata: /d\nprices: {currency: EUR, cpu_our: 1}\n")
    with pytest.raises(ConfigurationError, match="Did you mean 'cpu_hour'"):
        load_settings(str(file))
