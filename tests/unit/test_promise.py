"""At most one false alarm in so many days about an endpoint, whatever traffic it gets; what drifts is still found."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from mlops_ray.monitoring.alarm_change import AlarmChange
from mlops_ray.monitoring.alarms import Step, step
from mlops_ray.monitoring.build_reference import build_reference
from mlops_ray.monitoring.calibration import Null, Promise, calibrate
from mlops_ray.monitoring.coverage import Coverage, fitting, rungs
from mlops_ray.monitoring.judging import judge
from mlops_ray.monitoring.observation import moments_of, observe
from mlops_ray.monitoring.recalibration import MOST_WIDENED, Lived, taught
from mlops_ray.monitoring.reference import Reference, to_datetime
from mlops_ray.monitoring.verdicts import Finding, Verdict
from mlops_ray.monitoring.version_watch import VersionWatch, Watched
from mlops_ray.monitoring.windows import WindowState, add
from mlops_ray.use_case import Feature
from mlops_ray.use_case.window_spec import WindowSpec

START = datetime(2024, 1, 1, tzinfo=UTC)
BY_ROWS, WEEKLY = WindowSpec(rows=1000), WindowSpec(length=timedelta(days=7))
FEATURES = [*(Feature(f"x{number}", "number") for number in range(4)), Feature("c", "category")]
DAYS = 120


def world(days: int, per_day: int, seed: int, first: int = 0) -> pl.DataFrame:
    """x0 and x1 have a daily cycle as large as they are; the others none. Nothing ever changes."""
    random = np.random.default_rng(seed)
    rows = days * per_day
    micros = first * 86_400_000_000 + np.arange(rows) * (86_400_000_000 // per_day)
    daily = np.sin(2 * np.pi * micros / 86_400e6)
    numbers = {f"x{n}": random.normal(0, 1, rows) + (daily if n < 2 else 0) for n in range(4)}
    moments = np.datetime64("2024-01-01", "us") + micros.astype("timedelta64[us]")
    return pl.DataFrame(
        {"time": pl.Series(moments).dt.replace_time_zone("UTC"), **numbers, "c": random.choice(["a", "b"], rows)}
    )


@pytest.fixture(scope="module")
def watched() -> Watched:
    return Watched("7", build_reference(world(DAYS, 200, 1), "time", FEATURES, [BY_ROWS, WEEKLY]))


def watch(watched: Watched, rows: pl.DataFrame) -> tuple[VersionWatch, list[AlarmChange]]:
    """What is announced while the rows come in batches of a tenth."""
    seen, changes = VersionWatch("7"), []
    for part in rows.iter_slices(-(-len(rows) // 10)):
        moment = moments_of(part["time"])
        found = observe(seen, watched, part, moment, moment, to_datetime(moment[-1]), lambda: "id")
        seen, changes = found.watch, [*changes, *found.changes]
    return VersionWatch.from_bytes(seen.to_bytes()), changes


@pytest.mark.parametrize(("per_day", "days"), [(20, 200), (200, 60), (10_000, 10), (100_000, 2)])
def test_a_daily_cycle_alarms_as_rarely_as_promised_at_any_traffic(watched: Watched, per_day: int, days: int) -> None:
    """Windows of 1,000 rows cover five days of the reference, and fifty days, two hours or a quarter of one later."""
    _, changes = watch(watched, world(days, per_day, 2, first=DAYS + 1))
    assert sum(change.kind == "raised" for change in changes) <= days // 30


@pytest.mark.parametrize(("per_day", "days"), [(200, 30), (10_000, 10)])
def test_a_shift_is_found_at_any_traffic(watched: Watched, per_day: int, days: int) -> None:
    rows = world(days, per_day, 3, first=DAYS + 1).with_columns(pl.col("x3") + 0.6)
    _, changes = watch(watched, rows)
    assert [(change.kind, change.question, change.payload["columns"]) for change in changes] == [
        ("raised", "data", ["x3"])
    ]


def test_windows_that_are_too_short_say_so_and_are_judged_together(watched: Watched) -> None:
    seen, _ = watch(watched, world(10, 10_000, 4, first=DAYS + 1))
    records = seen.streams[BY_ROWS.name].records
    waiting = [one for one in records if one.data.answer == "not enough data"]
    judged = [one for one in records if one.data.answer == "no drift"]
    assert len(waiting) > 10 * len(judged) > 0
    assert (
        "covers 2.4 hours. It is judged together with the next ones, once they cover 72 hours" in waiting[0].data.reason
    )
    assert all(one.data.end - one.data.start > timedelta(days=2) for one in judged)
    assert judged[0].rows == 1000


def test_what_a_window_spends_is_in_proportion_to_its_time(watched: Watched) -> None:
    for monitored in watched.reference.windows.values():
        for one in monitored.features:
            a_day = one.rate / one.coverage.step_s * 86_400
            assert a_day <= 1 / 30 / 2, "two kinds of windows share one false alarm in thirty days"


def test_windows_are_compared_with_those_that_cover_no_more() -> None:
    learned = rungs(BY_ROWS, rows=24_000, span=timedelta(days=120))
    assert [one.coverage.span_s / 3600 for one in learned] == [72, pytest.approx(120)]
    spans = [one.coverage.span_s for one in learned]
    assert fitting(learned, spans[-1], 1000) is learned[-1]
    assert fitting(learned, 10 * spans[-1], 1000) is learned[-1], "less traffic"
    assert fitting(learned, spans[0] / 2, 1000) is None
    by_time = rungs(WEEKLY, rows=120_000, span=timedelta(days=120))
    assert [round(one.coverage.rows) for one in by_time] == [500, 1750, 7000]
    assert fitting(by_time, 7 * 86_400, 3000) is by_time[1], "never with windows of more rows, which differ less"
    assert fitting(by_time, 7 * 86_400, 10**6) is by_time[2]


def test_each_model_says_how_rare_its_false_alarms_are_and_is_right() -> None:
    """Forty references of 60 windows: what each says of itself, and what becomes of it in 20,000 new windows."""
    coverage, within, rates = Coverage(86_400, 1000, 86_400), [], []
    for seed in range(40):
        random = np.random.default_rng(seed)
        nulls = [Null(str(column), "d", "values", 0.01, random.chisquare(5, 60)) for column in range(5)]
        found = calibrate(nulls, "w", coverage, independent=60, overlap=1, promise=Promise(days=40))
        fresh = np.cbrt(random.chisquare(5, (20_000, 5)) + 0.01)
        centre, scale = (np.array([getattr(one, name) for one in found.normals]) for name in ("centre", "scale"))
        rates.append(float((((fresh - centre) / scale).max(axis=1) > found.thresholds["values"]).mean()))
        within.append(rates[-1] <= found.rate_high)
    assert np.mean(rates) <= 1 / 40
    assert np.mean(within) >= 0.9


def verdict(answer: str, score: float = 1.0) -> Verdict:
    findings = (Finding("x", "d", 1.0, 0.5, score, 0.5, "shift"),) if answer == "drift" else ()
    return Verdict("data", answer, START, START, 1000, findings, 0.5, "", rate=0.01)  # type: ignore[arg-type]


def played(answers: str) -> float:
    """How wide thresholds are after windows with drift (d) and without (.)."""
    alarm, lived = None, Lived()
    for letter in answers:
        one = verdict("drift" if letter == "d" else "no drift")
        stepped: Step = step(alarm, one)
        alarm, lived = stepped.alarm, taught(lived, one, stepped)
    return lived.widened


def test_alarms_that_are_over_by_themselves_teach_and_drift_that_stays_does_not() -> None:
    assert played("." * 500) == 0
    assert played("d" + "." * 10) == pytest.approx(1 - 8 * 0.01)
    assert played("d" + "." * 200) == 0, "calm traffic takes back what one alarm has taught"
    assert played("d" * 50) == 0
    assert played("d" * 10 + "..") == 0, "it was there for ten windows: that is a change, not how far windows differ"
    assert played("d.." * 50) == MOST_WIDENED, "and no world teaches more than this"


def test_slow_drift_is_not_learned_away(watched: Watched) -> None:
    """A tenth of a deviation a week, for five months: each week is much like the one before it."""
    rows = world(150, 200, 5, first=DAYS + 1)
    slow = rows.with_columns(pl.col("x2") + pl.int_range(pl.len()) / 1400 * 0.1)
    _, changes = watch(watched, slow)
    assert "x2" in changes[0].payload["columns"]


def with_identifiers(days: int, per_day: int, seed: int, first: int = 0, unknown: float = 0.0) -> pl.DataFrame:
    """Of 300 identifiers, three are replaced each day; of the rows, `unknown` have one that is never seen again."""
    random = np.random.default_rng(seed)
    rows = world(days, per_day, seed, first)
    day = first + np.arange(len(rows)) // per_day
    number = (day * 3 + random.integers(0, 300, len(rows))).astype(str)
    new = np.where(random.random(len(rows)) < unknown, np.char.add("new", np.arange(len(rows)).astype(str)), number)
    return rows.with_columns(c=pl.Series(new))


def test_identifiers_that_were_always_replaced_are_no_drift_and_many_new_ones_at_once_are() -> None:
    reference = build_reference(with_identifiers(DAYS, 200, 1), "time", FEATURES, [WEEKLY])
    assert reference.churn["c"].replaces
    answers = {}
    for unknown in (0.0, 0.6):
        rows = with_identifiers(29, 200, 2, DAYS, unknown)
        state = WindowState(WEEKLY, reference.empty_columns())
        found = add(state, rows, moments_of(rows["time"]), to_datetime(moments_of(rows["time"])[-1])).finished
        verdicts = [judge(window, reference, WEEKLY.name) for window in found[1:]]
        answers[unknown] = ["c" in {finding.column for finding in one.findings} for one in verdicts]
    assert not any(answers[0.0])
    assert all(answers[0.6])


def test_what_cannot_be_calibrated_acts_on_nothing() -> None:
    """Six weeks of reference: a flood is seen, and told as information."""
    reference: Reference = build_reference(world(45, 200, 1), "time", FEATURES, [WEEKLY])
    assert not reference.windows[WEEKLY.name].features[-1].acts()
    rows = world(21, 200, 2, first=49).with_columns(pl.col("x3") + 3)
    _, changes = watch(Watched("7", reference), rows)
    assert [(change.kind, change.severity) for change in changes] == [("raised", "info")]
    assert "too short to act on" in changes[0].title
    calm = pl.concat([world(49, 200, 3, first=49), rows.with_columns(pl.col("time") + timedelta(days=49))])
    _, changes = watch(Watched("7", reference), calm)
    assert {change.severity for change in changes} == {"warning"}, "after seven calm weeks there are enough"
