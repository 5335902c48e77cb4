"""What a run will cost is said from earlier runs, with an interval that covers eight of ten."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import ValidationError

from mlops_ray.config import Prices
from mlops_ray.cost.estimate import estimate, interval
from mlops_ray.cost.history import PastRun, past_runs
from mlops_ray.cost.prices import NO_PRICES, Cost, digest_of, price, priced
from mlops_ray.cost.sizing import HEAD_ROOM, advise, advised_cpus, advised_mb
from mlops_ray.cost.usage import Usage, histogram, quantile
from mlops_ray.governance.declared_resources import Resources
from mlops_ray.governance.usage import Used

EUR = Prices(currency="EUR", cpu_hour=1.0, memory_gb_hour=0.1, read_gb=0.0, written_gb=0.0)
NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)


def used(name: str, usage: Usage, run: str = "r", prices: Prices | None = EUR, **more: Any) -> Used:
    row = {"kind": "step", "since": NOVEMBER, "use_case": "flights", "key": "", "state": "ended", "seen_at": NOVEMBER}
    return Used(run=run, name=name, prices=digest_of(prices), quantities=usage.to_json(), **(row | more))


@pytest.mark.parametrize(
    "draw",
    [
        lambda random: random.lognormal(3, 0.3),
        lambda random: random.normal(100, 8),
        lambda random: random.uniform(50, 90),
        lambda random: random.gamma(4, 10),
    ],
)
@pytest.mark.parametrize("count", [5, 10, 30])
def test_the_interval_covers_eight_of_ten_runs_that_it_has_not_seen(draw: Any, count: int) -> None:
    random, covered, asked = np.random.default_rng(7), 0, 0
    for _ in range(150):
        values = [float(draw(random)) for _ in range(count)]
        for left_out in range(count):
            found = interval(values[:left_out] + values[left_out + 1 :])
            assert found.low is not None
            assert found.high is not None
            covered += found.low <= values[left_out] <= found.high
            asked += 1
    assert 0.8 <= covered / asked <= 0.92


def test_the_interval_is_no_wider_than_what_runs_differ_by() -> None:
    found = interval([100.0, 102.0, 99.0, 101.0, 98.0])
    assert found.low is not None
    assert found.high is not None
    assert 90 < found.low < 100 < found.high < 110


def test_where_some_runs_used_nothing_the_interval_is_of_what_was_seen() -> None:
    for values in ([0.0, 0.0, 3600.0], [0.0, 0.0, 9.0, 10.0, 11.0]):
        found = interval(values)
        assert found.low == 0.0
        assert found.middle == pytest.approx(sum(values) / len(values))
        assert found.high is not None
        assert max(values) <= found.high <= 2 * max(values)


def test_one_run_says_nothing_of_others_and_none_nothing_at_all() -> None:
    one = [PastRun("r", {"train": Usage(wall_s=10, cpu_s=20)})]
    found = estimate(one, ["train"], EUR)
    assert found is not None
    assert found.runs == 1
    assert (found.cpu_s.middle, found.cpu_s.low) == (pytest.approx(20), None)
    assert estimate(one, ["train", "evaluate"], EUR) is None
    assert estimate([], ["train"], EUR) is None
    assert estimate(one, [], EUR) is None
    assert interval([0.0, 0.0]).high == 0.0
    assert math.isfinite(interval([1e-9, 1e12]).high or math.inf)


def test_two_whole_runs_are_compared_as_wholes() -> None:
    runs = [PastRun("a", {"train": Usage(cpu_s=100), "around": Usage(cpu_s=1)})]
    runs.append(PastRun("b", {"train": Usage(cpu_s=101), "around": Usage(cpu_s=8)}))
    found = estimate(runs, ["train", "around"], EUR)
    assert found is not None
    assert found.cpu_s.high is not None
    assert found.cpu_s.high < 200


def test_steps_that_never_ran_together_are_estimated_one_by_one() -> None:
    runs = [PastRun(str(number), {"ingest": Usage(cpu_s=10, wall_s=5)}) for number in range(4)]
    runs += [PastRun(f"b{number}", {"train": Usage(cpu_s=100, wall_s=50)}) for number in range(4)]
    found = estimate(runs, ["ingest", "train"], EUR)
    assert found is not None
    assert found.cpu_s.middle == pytest.approx(110)


def test_what_failed_or_was_killed_is_no_example() -> None:
    rows = [used("train", Usage(cpu_s=1), state="failed"), used("train", Usage(cpu_s=50), run="s")]
    rows += [used("ingest", Usage(cpu_s=1), run="t", state="running")]
    assert [run.steps for run in past_runs(rows)] == [{}, {"train": Usage(cpu_s=50)}, {}]


def test_a_step_that_was_taken_up_again_has_taken_what_all_its_attempts_did() -> None:
    def train(run: str, seconds: float, state: str = "ended", **more: Any) -> Used:
        return used("train", Usage(cpu_s=seconds), run=run, state=state, **({"key": "k"} | more))

    december = NOVEMBER.replace(month=12)
    rows = [train("a", 50, "failed"), train("b", 30, "running"), train("c", 10), train("c", 10, since=december)]
    rows += [train("d", 70, "failed"), train("e", 1, key="changed"), train("f", 90), train("g", 95)]
    assert [run.steps["train"].cpu_s for run in past_runs(rows) if run.steps] == [100, 1, 160, 95]


def test_an_old_cost_does_not_change_with_the_prices() -> None:
    dear = EUR.model_copy(update={"cpu_hour": 10.0})
    tables = {digest_of(one): one.model_dump() for one in (EUR, dear)}
    rows = [used("train", Usage(cpu_s=3600)), used("train", Usage(cpu_s=3600), run="s", prices=dear)]
    assert priced(rows, tables).amounts == {"EUR": 11.0}


def test_a_table_of_another_release_is_read_as_far_as_it_is_known() -> None:
    tables = {digest_of(EUR): EUR.model_dump() | {"water_litre": 2.0}}
    assert priced([used("train", Usage(cpu_s=3600))], tables).amounts == {"EUR": 1.0}


def test_currencies_are_never_added_up() -> None:
    dollars = EUR.model_copy(update={"currency": "USD"})
    tables = {digest_of(one): one.model_dump() for one in (EUR, dollars)}
    rows = [used("train", Usage(cpu_s=3600)), used("train", Usage(cpu_s=7200), run="s", prices=dollars)]
    assert priced(rows, tables).amounts == {"EUR": 1.0, "USD": 2.0}
    assert str(priced(rows, tables)) == "1 EUR + 2 USD"


def test_a_missing_price_is_named_and_is_not_0() -> None:
    assert price(Usage(cpu_s=3600), None) == Cost({}, frozenset({NO_PRICES}))
    assert str(price(Usage(cpu_s=3600), None)) == "-"
    found = price(Usage(cpu_s=3600, gpu_s=10), EUR)
    assert (found.amounts, found.unpriced) == ({"EUR": 1.0}, {"gpu_hour"})
    assert str(found) == "1 EUR (without gpu_hour)"


@pytest.mark.parametrize("value", [-0.01, math.nan, math.inf, "much"])
def test_a_price_is_a_number_of_0_or_more(value: Any) -> None:
    with pytest.raises(ValidationError):
        Prices(currency="EUR", cpu_hour=value)
    with pytest.raises(ValidationError):
        Prices(currency="euro", cpu_hour=1)


@given(some.lists(some.tuples(some.floats(0.02, 64), some.floats(0.2, 5)), min_size=1, max_size=30))
def test_a_size_that_is_read_from_a_histogram_is_within_4_percent(sizes: list[tuple[float, float]]) -> None:
    total = Usage()
    for cpus, seconds in sizes:
        total += Usage(cpus=histogram(cpus, seconds))
    largest = max(cpus for cpus, _ in sizes)
    assert largest * 0.999 <= quantile(total.cpus, 1.0) <= largest * 1.0401


@given(some.floats(0.1, 64))
def test_advice_on_cpus_is_within_25_percent_of_what_is_used(cpus: float) -> None:
    assert cpus / 1.04 <= advised_cpus(cpus) <= cpus * 1.25


@pytest.mark.parametrize(
    ("used", "advised"),
    [(0.02, 0.1), (0.12, 0.14), (0.61, 0.71), (0.97, 1.0), (1.8, 2.0), (2.05, 2.0), (5.5, 6.0), (7.49, 8.0)],
)
def test_advice_is_whole_cpus_only_where_these_are_used(used: float, advised: float) -> None:
    assert advised_cpus(used) == advised


@given(some.integers(100 << 20, 1 << 40))
def test_advice_on_memory_is_within_25_percent_of_the_peak_and_above_it(peak: int) -> None:
    assert peak <= advised_mb(peak) << 20 <= 1.25 * peak


def test_advice_is_of_what_was_used_and_not_of_what_was_asked_for() -> None:
    busy = Usage(
        wall_s=100, cpu_s=140, process_peak_bytes=1 << 30, asked_cpus=8, cpus=histogram(1.4, 100), asked_bytes=4 << 30
    )
    trial = Usage(wall_s=10, cpu_s=9.8, process_peak_bytes=300 << 20, asked_cpus=1)
    rows = [used("evaluate", busy), used("ingest", busy), used("hgb-000", trial, kind="trial")]
    found = {one.name: one for one in advise(rows)}
    assert set(found) == {"evaluate", "train"}
    assert found["evaluate"].asked.cpus == 8
    assert 1.4 < (found["evaluate"].advised.cpus or 0) <= 1.75
    assert found["evaluate"].advised.memory_mb == pytest.approx(1024 * HEAD_ROOM, abs=1)
    assert found["train"].advised.cpus == 1.0


def test_nothing_is_advised_of_what_was_too_short_or_failed() -> None:
    assert advise([used("evaluate", Usage(wall_s=0.4, cpu_s=0.4))]) == []
    assert advise([used("evaluate", Usage(wall_s=40, cpu_s=4), state="failed")]) == []


def test_an_endpoint_is_advised_as_many_replicas_as_its_busiest_hours_want() -> None:
    rows = []
    for hour in range(20):
        cpus = 0.9 if hour == 19 else 0.2
        since, usage = NOVEMBER.replace(hour=hour), Usage(wall_s=3600, cpu_s=3600 * cpus, cpus=histogram(cpus, 3600))
        rows += [used("3", usage, run=f"{replica}", kind="replica", since=since) for replica in range(2)]
    (found,) = advise(rows)
    assert (found.advised.min_replicas, found.advised.max_replicas) == (1, 3)


def served(run: str, begin_min: float, minutes: float, cpus: float = 1.0, version: str = "3") -> Used:
    """A replica that began so many minutes after midnight, and was seen for as long in one hour."""
    begin, wall_s = NOVEMBER + timedelta(minutes=begin_min), 60 * minutes
    usage = Usage(wall_s=wall_s, cpu_s=cpus * wall_s, cpus=histogram(cpus, wall_s))
    hour, until = begin.replace(minute=0, second=0, microsecond=0), begin + timedelta(minutes=minutes)
    return used(version, usage, run=run, kind="replica", since=hour, seen_at=until)


FOUR = range(4)


@pytest.mark.parametrize(
    ("rows", "least", "most"),
    [
        pytest.param([served(f"{n}", 0, 60) for n in FOUR], 5, 6, id="for an hour"),
        pytest.param([served(f"{n}", 20, 15) for n in FOUR], 5, 6, id="for a quarter of it"),
        pytest.param(
            [served(f"{n}", 50, 10) for n in FOUR] + [served(f"{n}", 60, 20) for n in FOUR], 5, 6, id="over two"
        ),
        pytest.param(
            [served(f"{n} {at}", at, 30) for n in FOUR for at in (0, 30)], 5, 6, id="deployed again in between"
        ),
        pytest.param(
            [served(f"{n}", at, 20, version=f"{at}") for n in FOUR for at in (0, 20, 40)], 5, 6, id="of three versions"
        ),
        pytest.param(
            [served("0", 0, 60)] + [served(f"{n}", 60 - 15 * n, 15 * n) for n in (1, 2, 3)], 3, 4, id="started for load"
        ),
        pytest.param(
            [served("0", 59, 1, cpus=8.0)] + [served("0", 60 * hour, 60, cpus=0.9) for hour in range(1, 4)],
            2, 3, id="loading its model before",
        ),
    ],
)  # fmt: skip
def test_an_hour_counts_for_as_long_as_the_endpoint_was_measured_in_it(rows: list[Used], least: int, most: int) -> None:
    (found,) = advise(rows)
    assert (found.advised.min_replicas, found.advised.max_replicas) == (least, most)


def test_a_replica_is_advised_for_99_percent_of_the_time_of_the_last_month() -> None:
    def served(hours: int, cpus: float, peak: int, wall_s: float = 3600) -> Used:
        usage = Usage(wall_s=wall_s, cpu_s=cpus * wall_s, process_peak_bytes=peak, cpus=histogram(cpus, wall_s))
        return used("3", usage, run=str(hours), kind="replica", since=NOVEMBER + timedelta(hours=hours))

    steady = [served(hour, 0.4, 500 << 20) for hour in range(700)]
    start = served(3, 3.6, 600 << 20, wall_s=30)  # it loads its model
    long_ago = served(-2000, 3.6, 8 << 30)
    (found,) = advise([long_ago, start, *steady])
    assert found.used == Resources(pytest.approx(0.41, abs=0.02), 600)
    assert found.samples == 701


def test_an_endpoint_that_nobody_has_asked_yet_is_not_advised_on() -> None:
    few = used("3", Usage(wall_s=40, cpu_s=1, cpus=histogram(0.1, 40)), kind="replica")
    assert advise([few]) == []
    idle = used("3", Usage(wall_s=3600, cpu_s=36, cpus=histogram(0.01, 3600)), kind="replica")
    assert advise([idle])[0].advised.max_replicas == 2
