"""A sealed model says who sealed it, and nothing else passes for it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, IntegrityError
from mlops_ray.registry.artifact_check import check_artifact
from mlops_ray.registry.model_signature import (
    SIGNATURE,
    expect_demanded_signature,
    expect_signature,
    expect_signing_key,
    is_signed,
    sign,
)
from mlops_ray.testing.signing_keys import with_signing_keys


def settings_with_keys(folder: Path) -> Settings:
    return with_signing_keys(Settings(state=str(folder), data=str(folder)), folder)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_with_keys(tmp_path / "keys")


@pytest.fixture
def sealed(tmp_path: Path, settings: Settings) -> Path:
    folder = tmp_path / "sealed"
    folder.mkdir()
    (folder / "manifest.json").write_text('{"files": {"schema.json": ""}}')
    (folder / "schema.json").write_text("{}")
    sign(settings, folder)
    return folder


def test_the_signature_verifies_with_the_command_line_also_beside_what_mlflow_adds(
    settings: Settings, sealed: Path
) -> None:
    (sealed / "MLmodel").write_text("flavors: {}")
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(sealed)]
    command += ["--signature", str(sealed / SIGNATURE), "--public_key", settings.model_signing_public_key]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (sealed / "schema.json").write_text("[]")
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_a_signature_is_no_file_that_nothing_covers(settings: Settings, sealed: Path) -> None:
    expect_signature(settings, sealed)
    assert not check_artifact(sealed)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda folder: (folder / "schema.json").write_text("[]"), "schema.json"),
        (lambda folder: (folder / "more.json").write_text("[]"), "more.json"),
        (lambda folder: (folder / ".gitignore").write_text("[]"), "gitignore"),
        (lambda folder: (folder / "schema.json").unlink(), "schema.json"),
        (lambda folder: (folder / SIGNATURE).write_text("{}"), "does not hold"),
        (lambda folder: (folder / SIGNATURE).unlink(), "has no signature"),
    ],
)
def test_other_files_are_refused(
    settings: Settings, sealed: Path, change: Callable[[Path], object], sentence: str
) -> None:
    change(sealed)
    with pytest.raises(IntegrityError, match=sentence):
        expect_signature(settings, sealed)


def test_another_key_is_refused(tmp_path: Path, sealed: Path) -> None:
    with pytest.raises(IntegrityError, match="does not hold"):
        expect_signature(settings_with_keys(tmp_path / "others"), sealed)


def test_a_key_may_stand_in_a_variable(settings: Settings, sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNING_KEY", Path(settings.model_signing_key).read_text())
    (sealed / SIGNATURE).unlink()
    sign(settings.model_copy(update={"model_signing_key": "env:SIGNING_KEY"}), sealed)
    expect_signature(settings, sealed)
    with pytest.raises(ConfigurationError, match="variable is not set"):
        sign(settings.model_copy(update={"model_signing_key": "env:NO_SUCH_KEY"}), sealed)


def test_nothing_is_signed_without_a_key_and_nothing_sealed_where_a_signature_is_asked_for(
    settings: Settings, sealed: Path
) -> None:
    without = settings.model_copy(update={"model_signing_key": ""})
    with pytest.raises(ConfigurationError, match="model_signing_key"):
        expect_signing_key(without)
    nothing = without.model_copy(update={"model_signing_public_key": ""})
    (sealed / SIGNATURE).unlink()
    expect_signing_key(nothing)
    sign(nothing, sealed)
    expect_signature(nothing, sealed)
    assert not (sealed / SIGNATURE).exists()


def test_who_demands_signed_models_has_to_have_the_keys_before_training(settings: Settings, sealed: Path) -> None:
    expect_signing_key(settings, demanded=True)
    nothing = settings.model_copy(update={"model_signing_key": "", "model_signing_public_key": ""})
    with pytest.raises(ConfigurationError, match="demands signed models"):
        expect_signing_key(nothing, demanded=True)
    with pytest.raises(ConfigurationError, match="so nothing can be checked"):
        expect_demanded_signature(nothing, sealed)
    assert (is_signed(settings, sealed), is_signed(nothing, sealed)) == (True, False)
    (sealed / SIGNATURE).unlink()
    assert not is_signed(settings, sealed)
