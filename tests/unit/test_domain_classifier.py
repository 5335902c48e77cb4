"""The domain classifier finds features that go together in a new way, and is calibrated like every other detector."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from mlops_ray.monitoring import judging
from mlops_ray.monitoring.build_reference import build_reference
from mlops_ray.monitoring.detectors import DETECTORS
from mlops_ray.monitoring.detectors.domain_classifier import DomainClassifier
from mlops_ray.monitoring.judging import judge
from mlops_ray.monitoring.reference import Reference
from mlops_ray.monitoring.verdicts import Verdict
from mlops_ray.monitoring.windows import WindowState, add
from mlops_ray.use_case import Feature
from mlops_ray.use_case.window_spec import WindowSpec

START = datetime(2013, 1, 1, tzinfo=UTC)
SPEC = WindowSpec(rows=600, minimum_rows=200)
FEATURES = [Feature("x", "number"), Feature("y", "number"), Feature("z", "number"), Feature("c", "category")]


def rows_of(count: int, seed: int, together: float = 0.0) -> pl.DataFrame:
    """`y` follows `x` as much as `together` says; each of them alone is as ever."""
    random = np.random.default_rng(seed)
    x, own, z = random.normal(size=(3, count))
    return pl.DataFrame(
        {
            "time": [START + timedelta(minutes=10 * number) for number in range(count)],
            "x": x,
            "y": together * x + np.sqrt(1 - together**2) * own,
            "z": z,
            "c": random.choice(["a", "b"], count),
        }
    )


def matrix_of(rows: pl.DataFrame) -> np.ndarray:
    return rows.select("x", "y", "z").to_numpy().astype(np.float32)


OLD = matrix_of(rows_of(1000, 1))


def test_alike_is_near_zero_and_the_same_rows_are_zero() -> None:
    detector = DomainClassifier()
    assert detector.statistic(OLD, OLD) == 0
    assert detector.statistic(OLD, matrix_of(rows_of(1000, 2))) < 0.1
    assert detector.statistic(OLD, OLD) == detector.statistic(OLD, OLD)


def test_the_more_changes_the_further() -> None:
    near, far = (DomainClassifier().statistic(OLD, matrix_of(rows_of(1000, 3, rho))) for rho in (0.5, 0.9))
    assert 0.1 < near < far <= 1
    assert set(DomainClassifier().tell_apart(OLD, matrix_of(rows_of(1000, 3, 0.9)), ["x", "y", "z"], 2)) == {"x", "y"}


def test_odd_windows() -> None:
    detector = DomainClassifier()
    assert np.isnan(detector.statistic(OLD, OLD[:99]))
    assert np.isnan(detector.statistic(OLD[:0], OLD))
    constant, gone = OLD.copy(), OLD.copy()
    constant[:, 0], gone[:, 0] = 7, np.nan
    for odd in (constant, gone):
        assert detector.statistic(OLD, odd) > 0.9
        assert detector.tell_apart(OLD, odd, ["x", "y", "z"])[0] == "x"
    assert detector.statistic(constant, constant) == 0


@pytest.fixture(scope="module")
def reference() -> Reference:
    past = rows_of(6000, 4)
    return build_reference(past, "time", FEATURES, [SPEC], false_alarm_days=80, domain_classifier=True)


def judged(reference: Reference, rows: pl.DataFrame) -> list[Verdict]:
    moment = rows["time"].to_physical().to_numpy().astype("datetime64[us]")
    state = WindowState(SPEC, reference.empty_columns(), reference.sample_rows)
    found = add(state, rows, moment, rows["time"][-1]).finished
    return [judge(window, reference, SPEC.name, importance={"x": 1.0, "y": 3.0}) for window in found]


def test_entities_that_are_asked_about_again_are_not_learned_by_heart() -> None:
    """A hundred entities of one kind, each ten times, in the window; as many others in the reference."""
    old, new = (np.repeat(matrix_of(rows_of(100, seed)), 10, axis=0) for seed in (1, 2))
    found = [DomainClassifier().statistic(old, np.repeat(matrix_of(rows_of(100, seed)), 10, axis=0)) for seed in (2, 3)]
    assert max(found) < 0.4
    assert DomainClassifier().statistic(old, new + np.float32(3)) > 0.9


def test_what_only_the_features_together_show_is_found_and_named(reference: Reference) -> None:
    assert sum(verdict.answer == "drift" for verdict in judged(reference, rows_of(3000, 5))) <= 1
    for verdict in judged(reference, rows_of(1200, 6, together=0.9)):
        (finding,) = verdict.findings
        assert finding.detector == "domain_classifier"
        assert finding.column in ("x", "y")
        assert finding.importance in (0.25, 0.75)
        assert "can be told from the reference's (ROC AUC 0." in finding.shift
        assert finding.value > finding.threshold > 0


def test_the_sealed_sample_comes_back_and_judges_the_same(reference: Reference) -> None:
    back = Reference.from_files(reference.to_files())
    assert back.to_files() == reference.to_files()
    assert back.sample is not None
    assert back.sample.shape == (1000, len(back.inputs)), "what is not watched, as it is personal, is not in it"
    rows = rows_of(600, 7, together=0.9)
    assert repr(judged(back, rows)) == repr(judged(reference, rows)), "NaN is not NaN"


def test_without_the_option_each_feature_alone_is_as_ever_and_no_sample_is_sealed() -> None:
    without = build_reference(rows_of(6000, 4), "time", FEATURES, [SPEC], false_alarm_days=80)
    assert without.sample is None
    answers = [verdict.answer for verdict in judged(without, rows_of(6000, 6, together=0.9))]
    assert answers.count("drift") <= 2


def test_a_node_without_scikit_learn_judges_the_rest_and_says_what_it_did_not_look_at(
    reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "can_learn", lambda: False)
    apart = judged(reference, rows_of(1000, 3, 0.9))
    assert {one.detector for verdict in apart for one in verdict.findings} <= {one.name for one in DETECTORS}
    assert all("pip install 'mlops_ray[watch]'" in verdict.reason for verdict in apart)
    assert apart
