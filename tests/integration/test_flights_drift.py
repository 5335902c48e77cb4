"""A year of real flights with planted changes: of the inputs alone, and of what they mean alone, told apart in words.

The year is dealt out in stretches of twelve days to training, reference and test, so that all three have its seasons.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from mlops_ray.monitoring.alarms import diagnose
from mlops_ray.monitoring.build_reference import build_reference
from mlops_ray.monitoring.judging import judge, judge_concept
from mlops_ray.monitoring.observation import moments_of
from mlops_ray.monitoring.reference import Reference
from mlops_ray.monitoring.reliability import Reliability
from mlops_ray.monitoring.verdicts import Verdict
from mlops_ray.monitoring.windows import WindowState, add
from mlops_ray.use_case.window_spec import WindowSpec

SPEC = WindowSpec(rows=5000)
WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")


@dataclass(frozen=True)
class Judged:
    data: list[Verdict]
    concept: list[Verdict]

    def drifted(self, question: str) -> float:
        return float(np.mean([verdict.answer == "drift" for verdict in getattr(self, question)]))

    @property
    def words(self) -> list[str]:
        return [diagnose(data, concept) for data, concept in zip(self.data, self.concept, strict=True)]


@pytest.fixture(scope="module")
def year() -> pl.DataFrame:
    """Flights with their features, the probability of a model that was trained on a third of the year, and `part`."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    from drift.flights_rows import TIME, flights

    rows, features = flights()
    day = pl.col(TIME).dt.epoch("d")
    rows = rows.drop_nulls("late").with_columns(part=(day - day.min()) // 12 % 3)
    inputs = [
        pl.col(f.name).rank("dense").cast(pl.Float32) if f.kind == "category" else pl.col(f.name).cast(pl.Float32)
        for f in features
    ]
    matrix, late = rows.select(inputs).fill_null(np.nan).to_numpy(), rows["late"].to_numpy()
    training = (rows["part"] == 0).to_numpy()
    model = HistGradientBoostingClassifier(max_iter=60, random_state=0).fit(matrix[training], late[training])
    return rows.rename({TIME: "time", "late": "label"}).with_columns(probability=model.predict_proba(matrix)[:, 1])


@pytest.fixture(scope="module")
def reference(year: pl.DataFrame) -> Reference:
    from drift.flights_rows import flights

    # The weather of twelve days is unlike that of any other; what a planted shift does is seen without it.
    features = [feature for feature in flights()[1] if feature.name not in WEATHER]
    part = year.filter(pl.col("part") == 1)
    return build_reference(part, "time", features, [SPEC], part)


def windows(rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    for start in range(0, len(rows) - SPEC.rows + 1, SPEC.rows):  # type: ignore[operator]
        yield rows[start : start + SPEC.rows]  # type: ignore[operator]


def judged(reference: Reference, rows: pl.DataFrame) -> Judged:
    data, concept = [], []
    for part in windows(rows):
        moment = moments_of(part["time"])
        state = WindowState(SPEC, reference.empty_columns())
        (window,) = add(state, part.rename({"probability": "prediction"}), moment, part["time"][-1]).finished
        told = Reliability.of(part["probability"], part["label"], reference.reliability["all"].edges)
        data.append(judge(window, reference, SPEC.name))
        concept.append(judge_concept({"all": told}, window.start, window.end, reference, SPEC.name))
    return Judged(data, concept)


def test_planted_changes_of_inputs_and_of_labels_are_told_apart(year: pl.DataFrame, reference: Reference) -> None:
    test, random = year.filter(pl.col("part") == 2), np.random.default_rng(0)
    calm = judged(reference, test)
    few = pl.Series(random.random(len(test))) < 0.3
    # Flights of old planes are left out by chance: P(X) is another, and each row that stays has its own label.
    inputs = judged(reference, test.filter((pl.col("plane_year") >= 2001) | pl.col("plane_year").is_null() | few))
    # Flights of the morning are left out: the evening is as it was, and is compared with evenings.
    hours = judged(reference, test.filter((pl.col("hour") >= 14) | few))
    flipped = pl.Series(random.random(len(test))) < 0.25
    labels = judged(
        reference, test.with_columns(pl.when(flipped).then(~pl.col("label")).otherwise("label").alias("label"))
    )
    shares = {name: (one.drifted("data"), one.drifted("concept")) for name, one in
              (("calm", calm), ("inputs", inputs), ("hours", hours), ("labels", labels))}  # fmt: skip
    print(f"\nwindows with data drift and with concept drift: {shares}")
    assert max(*shares["calm"], *shares["hours"]) <= 0.2
    assert shares["inputs"][0] == 1
    assert shares["inputs"][1] <= 0.2
    assert shares["labels"][0] == shares["calm"][0]
    assert shares["labels"][1] >= 0.95
    # Of windows that span a gap between the stretches alone there are as long ones to learn labels from.
    told = [words for words, one in zip(inputs.words, inputs.concept, strict=True) if one.answer != "not enough data"]
    assert len(told) >= len(inputs.words) / 2
    assert sum("data drift without loss of quality" in words for words in told) >= 0.8 * len(told)
    assert sum("But what they mean has changed" in words for words in labels.words) >= 0.8 * len(labels.words)
    assert all(verdict.findings[0].column == "plane_year" for verdict in inputs.data)
