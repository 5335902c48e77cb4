"""The commands about features: what they are given, and rounds that go on."""

import re
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlops_ray.cli.features import again_and_again, duration_of
from mlops_ray.cli.main import app
from mlops_ray.errors import ConfigurationError, DataError, UseCaseError
from mlops_ray.features.declared_views import declared_views
from mlops_ray.features.definitions import project_of, read_definitions
from mlops_ray.features.transform import FeatureRows
from mlops_ray.features.view_code import view_code
from mlops_ray.use_case import UseCase, load_use_case

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("15m", 900), ("2h", 7_200), ("1d", 86_400)])
def test_a_length_of_time_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert duration_of("--every", text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "15", "0m", "-1h", "1.5h", "15 m", "1w", "15m\n"])
def test_what_is_no_length_of_time_is_refused_by_its_option(text: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(f"--every {text!a} is no length of time")):
        duration_of("--every", text)


def test_rounds_go_on_over_what_another_round_may_mend_and_end_with_what_none_will(
    capsys: pytest.CaptureFixture[str],
) -> None:
    errors: list[Exception | None] = [DataError("the file is torn"), None, UseCaseError("a column is gone"), None]
    done = []

    def work() -> None:
        error = errors.pop(0)
        if error:
            raise error
        done.append(1)

    with pytest.raises(UseCaseError):
        again_and_again(work, timedelta(milliseconds=1))
    assert (len(done), len(errors)) == (1, 1)
    assert "the file is torn" in capsys.readouterr().err
    again_and_again(work, timedelta(hours=1), rounds=1)  # which waits for nobody after the last one
    assert len(done) == 2


def test_every_and_a_moment_do_not_go_together() -> None:
    options = ["--every", "15m", "--as-of", "2030-01-01T00:00Z"]
    refused = CliRunner().invoke(app, ["features", "refresh", "flights", *options])
    assert isinstance(refused.exception, ConfigurationError)
    assert "--every takes what is new" in str(refused.exception)


def test_arrivals_adds_no_feature_code_and_reads_the_project_of_flights(tmp_path: Path) -> None:
    flights, arrivals = (load_use_case(str(ROOT / f"use_cases/{name}.py")) for name in ("flights", "arrivals"))
    definitions = [
        read_definitions(ROOT / "feature_repo", one.feature_service, declared=declared_views(one))
        for one in (flights, arrivals)
    ]

    def project(case: UseCase, number: int) -> str:
        found = definitions[number]
        assert found is not None
        rows = [FeatureRows(v.name, "", "", 0, view_code(v.name, case.feature_views[v.name])) for v in found.views]
        return project_of(found, rows)

    assert project(flights, 0) == project(arrivals, 1)
    text = (ROOT / "use_cases/arrivals.py").read_text()
    assert "def " not in text
    assert flights.label.name != arrivals.label.name
