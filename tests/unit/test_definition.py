"""A reference for other windows, slices and detectors is made of what was sealed, without a new model."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops_ray.errors import ConfigurationError, IntegrityError
from mlops_ray.governance.monitoring_definitions import MonitoringRevision
from mlops_ray.monitoring.definition import defined_reference, watched_by
from mlops_ray.monitoring.reference import Reference
from mlops_ray.monitoring.reference_rows import ROWS_FILE, ReferenceRows
from mlops_ray.monitoring.sealed_reference import SealedReference, read_reference
from mlops_ray.testing.example_stream import BY_COUNT, START
from mlops_ray.use_case import Monitoring, WindowSpec
from tests.unit.test_sealed_reference import files, sealed, use_case


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SealedReference:
    folder = tmp_path_factory.mktemp("sealed")
    found = read_reference(folder, sealed(folder, files(use_case())))
    assert found is not None
    return found


def revision(wanted: Monitoring) -> MonitoringRevision:
    return MonitoringRevision("departures", 3, wanted.to_json(), "d", "ann", None, START, "why")


def without_sums(reference: Reference) -> Reference:
    """Of the values by season there is the mean of each bin."""
    return replace(reference, seasonal={name: replace(one, sums=None) for name, one in reference.seasonal.items()})


def test_what_is_made_of_the_sealed_rows_is_what_sealing_would_have_made(model: SealedReference) -> None:
    options: dict[str, Any] = {
        "windows": (WindowSpec(rows=500, minimum_rows=200), WindowSpec(length=timedelta(hours=12), minimum_rows=50)),
        "false_alarm_days": 60,
        "slices": ("carrier",),
        "number_detector": "wasserstein",
        "category_detector": "psi",
        "error_detectors": ("page_hinkley",),
    }
    made = defined_reference(model, Monitoring(**options))
    anew = Reference.from_files(files(use_case(**options)))
    assert without_sums(made).to_files() == without_sums(anew).to_files()
    seasonal = defined_reference(model, Monitoring(windows=(BY_COUNT,), seasonal={"hour": "weekday"}))
    exact = Reference.from_files(files(use_case(seasonal={"hour": "weekday"}, false_alarm_days=30)))
    np.testing.assert_array_equal(seasonal.seasonal["hour"].counts, exact.seasonal["hour"].counts)
    sums, known = seasonal.seasonal["hour"].sums, exact.seasonal["hour"].sums
    assert sums is not None
    assert known is not None
    np.testing.assert_allclose(sums, known, rtol=0.02)


def test_what_was_sealed_holds_until_another_is_set_and_where_the_same_is(model: SealedReference) -> None:
    assert watched_by(model, "7", None).reference is model.reference
    as_sealed = replace(revision(Monitoring()), definition=None)
    assert watched_by(model, "7", as_sealed).reference is model.reference
    assert watched_by(model, "7", as_sealed).revision == 3
    assert model.monitoring is not None
    later = replace(model.monitoring, labels_count_for=timedelta(days=7))
    assert watched_by(model, "7", revision(later)).reference is model.reference
    found = watched_by(model, "7", revision(replace(model.monitoring, slices=None, false_alarm_days=90)))
    assert (found.revision, found.slices) == (3, ("origin",))
    assert found.reference.windows[BY_COUNT.name].features[0].days == 90


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Monitoring(slices=("destination",)), "slices by destination need that column"),
        (Monitoring(seasonal={"speed": "hour"}), "no feature that is watched"),
        (Monitoring(domain_classifier=True), "a sample alone is sealed"),
    ],
)
def test_what_the_sealed_rows_do_not_have_is_refused_with_what_is_missing(
    model: SealedReference, wanted: Monitoring, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"Version 7 cannot be watched so: .*{said}"):
        watched_by(model, "7", revision(wanted))
    with pytest.raises(ConfigurationError, match="no rows were sealed"):
        watched_by(replace(model, rows=None, monitoring=None), "7", revision(Monitoring()))


def test_rows_too_many_to_seal_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlops_ray.monitoring.reference_rows.MOST_VALUES", 1_000)
    assert ROWS_FILE not in files(use_case())


def test_damaged_rows_are_refused(model: SealedReference, tmp_path: Path) -> None:
    assert model.rows is not None
    assert ReferenceRows.from_bytes(model.rows).to_bytes() == model.rows
    for content in (model.rows[:-5], b"", b"\x80"):
        with pytest.raises(IntegrityError, match=r"reference\.rows"):
            ReferenceRows.from_bytes(content)
