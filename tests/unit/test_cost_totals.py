"""What the database adds up is what was written, row by row."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_ray.config import Prices
from mlops_ray.cost.prices import Cost, priced
from mlops_ray.cost.show import lines
from mlops_ray.cost.spending import spent_in, spent_of_each
from mlops_ray.cost.totals import read_totals
from mlops_ray.cost.usage import Usage
from mlops_ray.governance.budgets import Budget, budget_of, budgets_of_month, set_budget
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.usage import Part, keep_prices, read_prices, read_usage, write_usage

MONTH = datetime(2026, 11, 1, tzinfo=UTC)
USED = st.builds(
    Usage,
    wall_s=st.integers(0, 10**6).map(float),
    cpu_s=st.integers(0, 10**6).map(float),
    peak_bytes=st.integers(0, 2**40),
    read_bytes=st.integers(0, 2**40),
    asked_cpus=st.sampled_from([0.0, 0.5, 2.0]),
    predictions=st.integers(0, 10**6),
)
ROW = st.tuples(
    st.sampled_from(["step", "trial", "replica"]),
    st.sampled_from("ab"),
    st.integers(0, 2),
    st.sampled_from(["", "p"]),
    USED,
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW, max_size=8), case=st.uuids())
def test_totals_are_what_rows_add_up_to(store: ControlStore, rows: list[tuple], case: object) -> None:  # type: ignore[type-arg]
    name = str(case)
    keep_prices(store, "p", Prices(currency="EUR", cpu_hour=2.0, read_gb=0.5).model_dump())
    for number, (kind, what, hour, prices, usage) in enumerate(rows):
        part = Part(f"{name}-{number % 2}-{prices}", kind, what, name, "key", prices)
        write_usage(store, part, MONTH + timedelta(hours=hour), usage.to_json(), "ended")
    every = read_usage(store, name)
    totals = read_totals(store, name, MONTH, MONTH + timedelta(days=30))
    assert len(totals) == len({(one.run, one.kind, one.name) for one in every})
    for by in ("use-case", "step", "trial", "run", "prediction"):
        found = {one.name: (one.usage, one.cost, one.state) for one in lines(totals, {}, by, {})}  # type: ignore[arg-type]
        assert found == {one.name: (one.usage, one.cost, one.state) for one in lines(every, {}, by, {})}  # type: ignore[arg-type]
    assert read_totals(store, name, MONTH, MONTH) == []
    counts, tables = [one for one in every if one.kind != "trial"], read_prices(store)
    spent = spent_of_each(store, MONTH).get(name, Cost())
    assert spent.unpriced == priced(counts, tables).unpriced
    assert spent.amounts == pytest.approx(priced(counts, tables).amounts)
    assert spent == spent_in(store, name, MONTH)
    assert spent_in(store, name, MONTH + timedelta(days=30)) == Cost()


def test_a_month_has_its_own_budget_or_that_of_each(store: ControlStore) -> None:
    for case, month, amount in (("a", "", 1.0), ("a", "2026-11", 2.0), ("b", "", 3.0), ("c", "2026-12", 4.0)):
        set_budget(store, SYSTEM, Budget(case, month, amount, "EUR"), "")
    found = budgets_of_month(store, "2026-11")
    assert {case: one.amount for case, one in found.items()} == {"a": 2.0, "b": 3.0}
    assert all(one == budget_of(store, case, "2026-11") for case, one in found.items())


_COUNTS = st.integers(0, 10**9)
_QUANTITIES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("wall_s", "cpu_s", "byte_s", "asked_cpus"), _COUNTS.map(lambda count: count / 4)),
        **dict.fromkeys(("peak_bytes", "read_bytes", "predictions"), _COUNTS),
        "cpus": st.dictionaries(st.sampled_from("123"), st.integers(1, 8).map(float)),
    },
)


@given(st.lists(_QUANTITIES, max_size=6))
def test_usages_summed_at_once_are_what_they_add_up_to_one_by_one(values: list[dict[str, object]]) -> None:
    assert Usage.sum_of(values) == sum(map(Usage.from_json, values), Usage())
