"""A retraining is metered as a run is; one that the budget stops has no result, so that it can go on."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Prices, Settings
from mlops_ray.cost.history import used_by
from mlops_ray.cost.prices import digest_of
from mlops_ray.errors import BudgetError
from mlops_ray.governance.budgets import Budget, set_budget
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.usage import Part, month_of, now, read_usage, write_usage
from mlops_ray.retraining import retrain as module
from mlops_ray.retraining.result import Result, find_result

AS_OF = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_retraining_that_the_budget_stops_has_no_result_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(
        state=str(tmp_path), data=str(tmp_path), prices=Prices(currency="EUR", cpu_hour=0, gpu_hour=3600.0)
    )
    store, case = open_store(settings), SimpleNamespace(name="flights")

    def work(case: Any, settings: Settings, repo: Path, id: str, as_of: datetime, notify: Any, meter: Any) -> Result:
        with meter.step("train", "key"):
            return Result(id, as_of, "better", "")

    monkeypatch.setattr(module, "_retrain", work)
    set_budget(store, SYSTEM, Budget("flights", "", 5.0, "EUR"), "")
    spent = Part("other", "step", "train", "flights", "", digest_of(settings.prices))
    with module.metered(settings, "flights"):
        write_usage(store, spent, month_of(now(store)), {"gpu_s": 5.0}, "ended")
    with pytest.raises(BudgetError):
        module.retrain(case, settings, tmp_path, "r1", AS_OF)  # type: ignore[arg-type]
    assert find_result(Artifacts(settings.artifacts), "flights", "r1") is None
    set_budget(store, SYSTEM, Budget("flights", "", 50.0, "EUR"), "raised")
    assert module.retrain(case, settings, tmp_path, "r1", AS_OF).outcome == "better"  # type: ignore[arg-type]
    assert [row.state for row in read_usage(store, "flights", keys=["key"])] == ["ended"]
    assert used_by(store, "flights", "r1").wall_s > used_by(store, "flights", "r_").wall_s == 0
    store.close()
