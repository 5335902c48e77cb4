"""What runs again and what is reused, with steps that do nothing but say that they ran."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mlops_ray.config import Prices, Settings
from mlops_ray.cost.meter import AROUND, Meter
from mlops_ray.cost.prices import digest_of
from mlops_ray.errors import BudgetError, ConfigurationError, DataError
from mlops_ray.governance.budgets import Budget, set_budget
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.usage import Part, month_of, now, read_usage, write_usage
from mlops_ray.ingestion.sources import SourceFile
from mlops_ray.pipeline import pipeline as pipeline_module
from mlops_ray.pipeline.part import part
from mlops_ray.pipeline.pipeline import PIPELINE, Pipeline
from mlops_ray.pipeline.plan import Again
from mlops_ray.pipeline.steps.step import Given, Step, StepName, StepRuns, Where
from mlops_ray.training.candidates import GradientBoosting
from mlops_ray.training.trial import SearchResult, Trial
from mlops_ray.use_case import Column, Label, Search, Source, UseCase

CASE = UseCase(
    name="orders",
    sources={"orders": Source("*.csv", (Column("id", "text"), Column("at", "timestamp"), Column("late", "boolean")))},
    entities=("id",),
    event_time="at",
    label=Label("late", pl.col("late"), pl.col("at")),
    candidates=(GradientBoosting(),),
)
CHAIN: tuple[StepName, ...] = ("ingest", "features", "training_set", "train")
FIRST, SECOND = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Inputs:
    use_case: UseCase
    as_of: datetime | None
    before: Any


@dataclass
class Work:
    """ran: (step, key) of every run. missing: what a step's verification says. broken: steps whose function raises."""

    ran: list[tuple[str, str]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    given: Callable[[str, Inputs], Any] = lambda step, inputs: inputs.as_of and inputs.as_of.isoformat()
    verified_with: list[bool] = field(default_factory=list)

    def step(self, name: StepName) -> Step:
        def inputs(given: Given) -> Inputs:
            at = CHAIN.index(name)
            before = given.results[CHAIN[at - 1]] if at else None
            seen = {"ingest": ("name", "sources"), "train": ("name", "candidates")}.get(name, ("name",))
            return Inputs(part(given.use_case, *seen), given.as_of if name == "ingest" else None, before)

        def run(inputs: Inputs, where: Where) -> dict[str, Any]:
            self.ran.append((name, where.key))
            if name in self.broken:
                raise DataError("broken")
            return {"content": self.given(name, inputs) if name == "ingest" else inputs.before}

        def verify(inputs: Inputs, result: Mapping[str, Any], where: Where) -> str | None:
            self.verified_with.append(where.retry_failed)
            return self.missing.get(name)

        return Step(name, inputs, run, verify)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    found = Work()
    for name in CHAIN:
        monkeypatch.setitem(PIPELINE, name, found.step(name))
    return found


@pytest.fixture
def pipeline(tmp_path: Path, work: Work) -> Callable[..., Pipeline]:
    def make(case: UseCase = CASE, as_of: datetime | None = FIRST, **more: Any) -> Pipeline:
        settings = Settings(state=str(tmp_path / "state"), data=str(tmp_path / "data"))
        files = {"orders": [SourceFile("/orders.csv", "orders.csv", "f" * 64)]}
        return Pipeline(case, settings, tmp_path, as_of, files=files, **more)

    return make


def steps(work: Work) -> list[str]:
    found = [name for name, _ in work.ran]
    work.ran.clear()
    return found


def test_unchanged_it_runs_once(pipeline: Callable[..., Pipeline], work: Work) -> None:
    pipeline().run(until="train")
    assert steps(work) == list(CHAIN)
    done = pipeline().run(until="train")
    assert steps(work) == []
    assert all(one.reused for one in done.values())


def test_it_seems_unchanged_where_every_step_has_ended(pipeline: Callable[..., Pipeline], work: Work) -> None:
    assert not pipeline().seems_unchanged("train")
    pipeline().run(until="training_set")
    assert not pipeline().seems_unchanged("train")
    pipeline().run(until="train")
    steps(work)
    assert pipeline().seems_unchanged("train")
    assert not pipeline(as_of=SECOND).seems_unchanged("train")
    assert not pipeline().seems_unchanged("train", Again(force=("features",)))
    work.missing["train"] = "its run is gone"  # which `run` finds out
    assert pipeline().seems_unchanged("train")
    assert steps(work) == []


def test_what_a_step_gives_is_the_same_whether_it_ran_or_was_reused(
    pipeline: Callable[..., Pipeline], work: Work
) -> None:
    work.given = lambda step, inputs: {"b": (1, 2), "a": 3}
    pipeline().run(until="train")
    assert steps(work) == list(CHAIN)
    pipeline().run(until="train")
    assert steps(work) == []


def test_only_what_depends_on_the_change_runs_and_says_why(pipeline: Callable[..., Pipeline], work: Work) -> None:
    pipeline().run(until="train")
    steps(work)
    told: list[Any] = []
    pipeline(replace(CASE, candidates=(GradientBoosting(name="other"),)), notify=told.append).run(until="train")
    assert steps(work) == ["train"]
    assert "gradient_boosting" in next(event.why for event in told if isinstance(event, StepRuns))


def test_a_step_that_gives_the_same_again_stops_the_change(pipeline: Callable[..., Pipeline], work: Work) -> None:
    work.given = lambda step, inputs: "the same rows"
    pipeline().run(until="train")
    steps(work)
    pipeline(as_of=SECOND).run(until="train")
    assert steps(work) == ["ingest"]


def test_first_second_first_again_is_reused_only_if_all_is_still_there(
    pipeline: Callable[..., Pipeline], work: Work
) -> None:
    for moment in (FIRST, SECOND):
        pipeline(as_of=moment).run(until="train")
    steps(work)
    pipeline(as_of=FIRST).run(until="train")
    assert steps(work) == []
    work.missing["train"] = "the online store has 3 of 9 keys"
    told: list[Any] = []
    pipeline(as_of=SECOND, notify=told.append).run(until="train")
    assert steps(work) == ["train"]
    assert StepRuns("train", "the online store has 3 of 9 keys") in told


def test_a_step_that_is_verified_and_runs_again_keeps_its_key(pipeline: Callable[..., Pipeline], work: Work) -> None:
    pipeline().run(until="train")
    before = dict(work.ran)
    work.ran.clear()
    work.missing["train"] = "gone"
    pipeline().run(until="train")
    assert work.ran == [("train", before["train"])]


def test_a_forced_step_runs_under_another_key(pipeline: Callable[..., Pipeline], work: Work) -> None:
    pipeline().run(until="train")
    before = dict(work.ran)
    work.ran.clear()
    pipeline().run(until="train", again=Again(force=("train",)))
    assert [name for name, _ in work.ran] == ["train"]
    assert work.ran[0][1] != before["train"]
    work.ran.clear()
    pipeline().run(until="train")
    assert work.ran == []


def test_a_forced_step_that_was_killed_is_taken_up_again(pipeline: Callable[..., Pipeline], work: Work) -> None:
    pipeline().run(until="train")
    work.ran.clear()
    work.broken.add("train")
    with pytest.raises(DataError):
        pipeline().run(until="train", again=Again(force=("train",)))
    work.broken.clear()
    pipeline().run(until="train")
    assert len(work.ran) == 2
    assert work.ran[0] == work.ran[1]


def test_from_runs_the_step_and_all_after_it(pipeline: Callable[..., Pipeline], work: Work) -> None:
    pipeline().run(until="train")
    steps(work)
    pipeline().run(until="train", again=Again(start="training_set"))
    assert steps(work) == ["training_set", "train"]


def test_from_is_refused_where_what_stands_before_would_run(pipeline: Callable[..., Pipeline], work: Work) -> None:
    with pytest.raises(ConfigurationError, match=r"ingest would run: it has not run yet.*from ingest"):
        pipeline().run(until="train", again=Again(start="train"))
    pipeline().run(until="train")
    steps(work)
    with pytest.raises(ConfigurationError, match=r"ingest would run: as_of: .* → "):
        pipeline(as_of=SECOND).run(until="train", again=Again(start="train"))
    assert steps(work) == []


def test_from_after_until_is_refused(pipeline: Callable[..., Pipeline]) -> None:
    with pytest.raises(ConfigurationError, match="--from train comes after --until ingest"):
        pipeline().run(until="ingest", again=Again(start="train"))


def test_retry_failed_reaches_the_verification(pipeline: Callable[..., Pipeline], work: Work) -> None:
    pipeline().run(until="train")
    work.verified_with.clear()
    pipeline().run(until="train", again=Again(retry_failed=True))
    assert all(work.verified_with)
    assert len(work.verified_with) == len(CHAIN)


def test_a_step_that_fails_leaves_no_result(pipeline: Callable[..., Pipeline], work: Work) -> None:
    work.broken.add("features")
    with pytest.raises(DataError):
        pipeline().run(until="train")
    work.broken.clear()
    steps(work)
    pipeline().run(until="train")
    assert steps(work) == ["features", "training_set", "train"]


def test_a_spent_budget_stops_a_run_that_repeats_nothing_once_it_is_raised(
    pipeline: Callable[..., Pipeline], work: Work, tmp_path: Path
) -> None:
    settings = Settings(
        state=str(tmp_path / "state"), data=str(tmp_path), prices=Prices(currency="EUR", cpu_hour=0, gpu_hour=3600.0)
    )
    (tmp_path / "state").mkdir()
    store, of_steps = open_store(settings), work.given
    set_budget(store, SYSTEM, Budget("orders", "", 10.0, "EUR"), "")

    def spend(step: str, inputs: Inputs) -> Any:
        part = Part("other", "step", "train", "orders", "", digest_of(settings.prices))
        write_usage(store, part, month_of(now(store)), {"gpu_s": 10.0}, "ended")
        return of_steps(step, inputs)

    work.given = spend  # while the first step runs, another run spends all of it
    with pytest.raises(BudgetError, match="10 of 10 EUR"), Meter(store, settings, "orders") as meter:
        pipeline(meter=meter).run(until="train")
    assert steps(work) == ["ingest"]
    with pytest.raises(BudgetError), Meter(store, settings, "orders"):
        pass
    set_budget(store, SYSTEM, Budget("orders", "", 11.0, "EUR"), "raised")
    with Meter(store, settings, "orders") as meter:
        pipeline(meter=meter).run(until="train")
    assert steps(work) == ["features", "training_set", "train"]
    measured = {row.name: row for row in read_usage(store, "orders", kinds=("step",)) if row.run == meter.run}
    assert set(measured) == {"features", "training_set", "train", AROUND}
    store.close()


def test_explain_says_what_would_run_and_runs_nothing(pipeline: Callable[..., Pipeline], work: Work) -> None:
    assert [(plan.outcome, plan.why) for plan in pipeline().explain("train")] == [("runs", "it has not run yet")] * 4
    assert steps(work) == []
    pipeline().run(until="train")
    steps(work)
    assert [plan.outcome for plan in pipeline().explain("train")] == ["unchanged"] * 4
    found = pipeline(as_of=SECOND).explain("train")
    assert [plan.outcome for plan in found] == ["runs", "open", "open", "open"]
    assert [str(change) for change in found[0].changes] == [
        "as_of: 2026-01-01T00:00:00+00:00 → 2026-02-01T00:00:00+00:00"
    ]
    assert found[1].why == "depends on what comes of ingest"
    changed = replace(CASE, candidates=(GradientBoosting(name="other"),))
    found = pipeline(changed).explain("train")
    assert [plan.outcome for plan in found] == ["unchanged", "unchanged", "unchanged", "runs"]
    assert steps(work) == []


def test_explain_says_what_is_asked_for_and_what_is_missing(pipeline: Callable[..., Pipeline], work: Work) -> None:
    pipeline().run(until="train")
    work.missing["features"] = "gone"
    found = {plan.step: plan.why for plan in pipeline().explain("train", Again(force=("train",)))}
    assert found["features"] == "gone"
    assert found["train"] == "asked for (--force train)"


def test_the_raw_files_are_listed_once(
    pipeline: Callable[..., Pipeline], work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []
    files = [SourceFile("/orders.csv", "orders.csv", "f" * 64)]
    monkeypatch.setattr(
        pipeline_module, "find_all_files", lambda settings, sources: listed.extend(sources) or {"orders": files}
    )
    replace(pipeline(), files=None).run(until="train")
    assert listed == ["orders"]
    pipeline().run(until="train")
    assert listed == ["orders"]


def test_a_search_in_money_without_prices_is_refused_before_any_step(
    pipeline: Callable[..., Pipeline], work: Work
) -> None:
    case = replace(CASE, search=Search(cost=5.0))
    with pytest.raises(ConfigurationError, match=r"the settings have no prices\. Set `prices`"):
        pipeline(case).run(until="train")
    assert steps(work) == []
    pipeline(case).run(until="training_set")


def test_the_last_fit_is_told_how_long_it_may_take(
    pipeline: Callable[..., Pipeline], work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = Trial("gradient_boosting", 0, {}, status="finished")
    results = {"training_set": {"rows": 9}, "train": SearchResult("run", "roc_auc", best, (best,)).to_json()}
    told: list[float | None] = []

    def fake(name: StepName) -> Step:
        def run(inputs: Inputs, where: Where) -> dict[str, Any]:
            told.append(where.fit_limit_s)
            return results.get(name, {})

        return Step(name, lambda given: Inputs(part(given.use_case, "name"), None, name), run, lambda *_: None)

    for name in ("training_set", "train", "evaluate"):
        monkeypatch.setitem(PIPELINE, name, fake(name))
    pipeline().run(until="evaluate")
    assert told == [None, None, 2 * 14_400.0]
    pipeline(replace(CASE, search=Search(last_fit_seconds=60.0))).run("evaluate", Again(force=("evaluate",)))
    assert told[3:] == [60.0]
