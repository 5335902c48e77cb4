from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from mlops_ray.errors import DataError, IntegrityError
from mlops_ray.monitoring.build_reference import build_reference
from mlops_ray.monitoring.calibration import Null, Promise, calibrate
from mlops_ray.monitoring.coverage import Coverage
from mlops_ray.monitoring.judging import judge
from mlops_ray.monitoring.null_windows import null_windows
from mlops_ray.monitoring.reference import Reference
from mlops_ray.monitoring.windows import Window, WindowState, add
from mlops_ray.use_case import Feature
from mlops_ray.use_case.window_spec import WindowSpec

START = datetime(2013, 1, 1, tzinfo=UTC)
SPEC = WindowSpec(rows=600, minimum_rows=200)
FEATURES = (Feature("calm", "number"), Feature("moody", "number"), Feature("gappy", "number"), Feature("c", "category"))


def flow(days: int, seed: int, per_day: int = 120, first: int = 0) -> pl.DataFrame:
    """Rows of one day resemble each other in `moody`; `calm` is independent."""
    random = np.random.default_rng(seed)
    rows = days * per_day
    moods = np.repeat(random.normal(0, 1, days), per_day)
    gaps = random.random(rows) < np.repeat(random.random(days) * 0.2, per_day)
    micros = (first * 86_400_000_000 + np.arange(rows) * (86_400_000_000 // per_day)).tolist()
    return pl.DataFrame(
        {
            "time": pl.Series([START + timedelta(microseconds=m) for m in micros], dtype=pl.Datetime("us", "UTC")),
            "calm": random.normal(0, 1, rows),
            "moody": moods + random.normal(0, 0.5, rows),
            "gappy": pl.Series(np.where(gaps, np.nan, random.random(rows))).fill_nan(None),
            "c": random.choice(["a", "b", "c"], rows),
        }
    )


REFERENCE = build_reference(flow(600, 1), "time", FEATURES, [SPEC], false_alarm_days=100)


def windows(rows: pl.DataFrame, reference: Reference = REFERENCE, spec: WindowSpec = SPEC) -> tuple[Window, ...]:
    moment = rows["time"].to_physical().to_numpy().astype("datetime64[us]")
    return add(WindowState(spec, reference.empty_columns()), rows, moment, rows["time"][-1]).finished


def alarms(rows: pl.DataFrame) -> list[str]:
    """The first column named for each window, or "" for no drift."""
    verdicts = [judge(window, REFERENCE, SPEC.name) for window in windows(rows)]
    assert {verdict.answer for verdict in verdicts} <= {"drift", "no drift"}
    return [verdict.findings[0].column if verdict.findings else "" for verdict in verdicts]


def test_false_alarms_come_as_rarely_as_was_asked_for() -> None:
    assert REFERENCE.windows[SPEC.name].features[-1].rate <= 1 / 20
    found = [name for seed in (2, 3, 4) for name in alarms(flow(500, seed))]
    assert len(found) == 300
    assert sum(map(bool, found)) <= 300 / 20 + 2 * np.sqrt(300 / 20)


def test_thresholds_of_independent_rows_would_alarm_all_the_time() -> None:
    rows = flow(600, 1)
    shuffled = rows.with_columns(rows.select(pl.exclude("time")).sample(fraction=1, shuffle=True, seed=3))
    naive = build_reference(shuffled, "time", FEATURES, [SPEC], false_alarm_days=100)
    verdicts = [judge(window, naive, SPEC.name) for window in windows(flow(100, 5), naive)]
    assert sum(verdict.answer == "drift" for verdict in verdicts) >= 15


def test_a_shift_is_found_and_its_feature_named() -> None:
    shifted = flow(100, 6).with_columns(pl.col("calm") + 0.6)
    assert alarms(shifted).count("calm") >= 19
    fewer = flow(100, 7).with_columns(pl.when(pl.int_range(pl.len()) % 2 == 0).then("gappy").alias("gappy"))
    assert alarms(fewer).count("gappy") >= 19
    renamed = flow(100, 8).with_columns(pl.col("c").replace("b", "bb"))
    assert alarms(renamed).count("c") >= 19


def test_a_window_says_how_large_the_shift_is_and_how_much_it_matters() -> None:
    shifted = flow(10, 9).with_columns(pl.col("calm") + 2)
    verdict = judge(windows(shifted)[0], REFERENCE, SPEC.name, importance={"calm": 3.0, "moody": -1.0})
    finding = verdict.findings[0]
    assert (finding.column, finding.importance, verdict.importance) == ("calm", 0.75, 0.75)
    assert finding.value > finding.threshold
    assert "standard deviations" in finding.shift
    assert "calm" in verdict.reason


def test_too_few_rows_are_never_no_drift() -> None:
    spec = WindowSpec(length=timedelta(days=5), minimum_rows=200)
    reference = build_reference(flow(200, 1), "time", FEATURES, [spec])
    thin = flow(10, 2, per_day=20)
    verdict = judge(windows(thin, reference, spec)[0], reference, spec.name)
    assert verdict.answer == "not enough data"
    assert "at least 200" in verdict.reason
    assert judge(windows(thin, reference, spec)[0], reference, spec.name, "prediction").answer == "not enough data"


def test_a_short_reference_says_what_it_supports() -> None:
    long, short, shorter = (
        build_reference(flow(days, 1), "time", FEATURES, [SPEC]).windows[SPEC.name].features[-1]
        for days in (600, 60, 40)
    )
    assert (short.independent, short.acts(), long.acts()) == (12, True, True)
    assert "12 windows" in short.words
    assert short.rate_high / short.rate_low > 10 * long.rate_high / long.rate_low, "less is known of it"
    assert (shorter.independent, shorter.acts()) == (8, False)
    assert "too vague to act on" in shorter.words
    tiny = build_reference(flow(10, 1), "time", FEATURES, [SPEC])
    assert judge(windows(flow(10, 2), tiny)[0], tiny, SPEC.name).answer == "not enough data"


def test_windows_of_one_day_count_once_however_many_they_are() -> None:
    moment = flow(8, 1)["time"].to_physical().to_numpy().astype("datetime64[us]")
    assert null_windows(moment, WindowSpec(rows=20, minimum_rows=5)).independent == 8
    assert null_windows(moment, WindowSpec(rows=240, minimum_rows=5)).independent == 4


def test_a_window_is_not_compared_with_itself() -> None:
    moment = flow(60, 1)["time"].to_physical().to_numpy().astype("datetime64[us]")
    for pair in null_windows(moment, SPEC).pairs:
        low, high = pair.without
        assert low <= pair.first < pair.last <= high
        assert high - low < null_windows(moment, SPEC).steps / 2


def test_a_column_that_never_changed_does_not_alarm_at_a_few_rows() -> None:
    rows = flow(100, 1).with_columns(calm=pl.lit(1.0))
    reference = build_reference(rows, "time", FEATURES, [SPEC], false_alarm_days=100)
    window = pl.int_range(pl.len()) % 600
    few = flow(100, 2).with_columns(calm=pl.when(window < 4).then(None).when(window < 8).then(2.0).otherwise(1.0))
    many = flow(100, 2).with_columns(calm=pl.when(window < 30).then(2.0).otherwise(1.0))
    for changed, expected in ((few, False), (many, True)):
        for part in windows(changed, reference):
            columns = {finding.column for finding in judge(part, reference, SPEC.name).findings}
            assert ("calm" in columns) == expected


def test_missing_and_constant_columns_have_a_reference_too() -> None:
    rows = flow(100, 1).with_columns(calm=pl.lit(None, dtype=pl.Float64), c=pl.lit(None, dtype=pl.String))
    reference = build_reference(rows, "time", FEATURES, [SPEC], false_alarm_days=100)
    found = [judge(window, reference, SPEC.name).findings for window in windows(flow(20, 2), reference)]
    assert all({"calm", "c"} <= {finding.column for finding in findings} for findings in found)


def test_files_bring_the_reference_back() -> None:
    scored = flow(100, 4).with_columns(probability=pl.col("calm").clip(-2, 2) / 5 + 0.5)
    scored = scored.with_columns(label=pl.col("probability") > pl.Series(np.random.default_rng(0).random(len(scored))))
    reference = build_reference(flow(100, 1), "time", FEATURES, [SPEC], scored, ["c"], seasonal={"moody": "weekday"})
    files = reference.to_files()
    back = Reference.from_files(files)
    assert back.to_files() == files
    window = windows(flow(5, 2), back)[0]
    # As text: from Python 3.13 on, dataclasses with the same NaN are not equal.
    assert repr(judge(window, back, SPEC.name)) == repr(judge(window, reference, SPEC.name))
    assert set(back.reliability) == {"all", "c=a", "c=b", "c=c"}
    with pytest.raises(IntegrityError, match="does not fit"):
        Reference.from_files({**files, "reference.json": b"{}"})


def test_a_daily_cycle_is_found_and_its_times_are_compared_with_the_same_times() -> None:
    """Nights differ from days: days that are like nights are told, and calm nights are not."""
    night = pl.col("time").dt.hour() < 6
    rows = flow(80, 1).with_columns(moody=pl.col("calm") + 3 * night)
    spec = WindowSpec(length=timedelta(hours=6), minimum_rows=20)
    reference = build_reference(rows, "time", FEATURES, [spec], false_alarm_days=5)
    assert {name: part.season for name, part in reference.seasonal.items()} == {"moody": "hour"}
    found = {}
    for name, when in (("as ever", night), ("turned round", ~night)):
        later = flow(20, 2, first=80).with_columns(moody=pl.col("calm") + 3 * when)
        verdicts = [judge(window, reference, spec.name) for window in windows(later, reference, spec)]
        found[name] = [one for verdict in verdicts for one in verdict.findings if one.column == "moody"]
    assert len(found["turned round"]) > 60
    assert len(found["as ever"]) <= 4
    befores = [float(one.shift.split()[1]) for one in found["turned round"]]
    assert {round(mean) for mean in befores} == {0, 3}, "a night is told from the mean of nights, not of all year"


def test_missing_columns_are_named() -> None:
    with pytest.raises(DataError, match="moody"):
        build_reference(flow(5, 1).drop("moody"), "time", FEATURES, [SPEC])
    with pytest.raises(DataError, match="0 rows"):
        build_reference(flow(5, 1).head(0), "time", FEATURES, [SPEC])


def test_the_largest_score_exceeds_the_threshold_as_rarely_as_was_asked_for() -> None:
    random = np.random.default_rng(4)
    nulls = [Null(str(column), "d", "values", 0.001, random.chisquare(5, 400)) for column in range(10)]
    coverage = Coverage(span_s=86_400, rows=1000, step_s=86_400)
    calibration = calibrate(nulls, "w", coverage, independent=400, overlap=1, promise=Promise(days=20))
    fresh = random.chisquare(5, (10, 4000))
    scores = [[normal.score(value) for value in row] for normal, row in zip(calibration.normals, fresh, strict=True)]
    rate = (np.max(scores, axis=0) > calibration.thresholds["values"]).mean()
    assert 0.015 < rate < 0.06
    limit = calibration.thresholds["values"]
    assert calibration.normals[0].score(calibration.normals[0].value_at(limit)) == pytest.approx(limit)
