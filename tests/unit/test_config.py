"""Settings refuse what would surprise later, and say what to write instead."""

from pathlib import Path

import pytest

from mlops_ray.config import load_settings
from mlops_ray.errors import ConfigurationError


def test_everything_has_a_default_below_state() -> None:
    settings = load_settings(state="/s", data="/d")
    assert settings.artifacts == "/s/artifacts"
    assert settings.mlflow_uri == "sqlite:////s/mlflow.db"
    assert settings.online_store == "sqlite:////s/online_store.db"


def test_a_file_is_read_and_arguments_override_it(tmp_path: Path) -> None:
    file = tmp_path / "production.yaml"
    file.write_text("state: /s\ndata: s3://bucket/raw\nmlflow_uri: https://mlflow.example\nhttp_port: 9000\n")
    settings = load_settings(str(file), http_port=9001, state="/other", data=None)
    assert (settings.state, settings.data, settings.http_port) == ("/other", "s3://bucket/raw", 9001)
    assert settings.mlflow_uri == "https://mlflow.example"


def test_a_typo_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ConfigurationError, match=r"Unknown setting 'artefacts'. Did you mean 'artifacts'?"):
        load_settings(state="/s", data="/d", artefacts="/a")


@pytest.mark.parametrize("name", ["state", "data", "artifacts"])
def test_a_relative_path_is_refused_with_a_sentence(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is the relative path 'here'"):
        load_settings(**{"state": "/s", "data": "/d"} | {name: "here"})


def test_a_missing_and_a_wrong_value_are_named() -> None:
    with pytest.raises(ConfigurationError, match="Setting 'data' is missing"):
        load_settings(state="/s")
    with pytest.raises(ConfigurationError, match=r"'http_port'.*65535"):
        load_settings(state="/s", data="/d", http_port=70000)
    for rate in (0, 5e-324, float("inf"), float("nan")):
        with pytest.raises(ConfigurationError, match=r"'oidc_requests_per_s'"):
            load_settings(state="/s", data="/d", oidc_requests_per_s=rate)


@pytest.mark.parametrize("text", ["a: [", "just text", "- list"])
def test_a_file_that_is_no_settings_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=r"x\.yaml"):
        load_settings(str(tmp_path / "x.yaml"), state="/s")
