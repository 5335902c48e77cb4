"""Which code is running: the user's repository and the framework are named apart (F34)."""

import subprocess
from pathlib import Path

import pytest

from mlops_ray import code_version as module
from mlops_ray.code_version import COMMIT, DIRTY, CodeVersion, code_version, environment_digest, framework_version


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    run = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return run.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(COMMIT, raising=False)
    folder = tmp_path / "shop"
    (folder / "use_cases").mkdir(parents=True)
    (folder / "use_cases" / "orders.py").write_text("use_case = None\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def test_the_commit_is_that_of_the_use_cases_repository(repository: Path) -> None:
    assert code_version(repository / "use_cases") == CodeVersion(git(repository, "rev-parse", "HEAD"), False)
    (repository / "use_cases" / "orders.py").write_text("use_case = 1\n")
    assert code_version(repository / "use_cases").dirty


def test_a_folder_that_does_not_exist_is_in_the_repository_all_the_same(repository: Path) -> None:
    assert code_version(repository / "feature_repo").commit == git(repository, "rev-parse", "HEAD")


def test_outside_of_any_repository_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(COMMIT, raising=False)
    assert code_version(tmp_path) == CodeVersion("unknown", True)


def test_a_job_says_which_commit_was_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CodeVersion("1" * 40, False).to_environment().items():
        monkeypatch.setenv(name, value)
    assert code_version(tmp_path) == CodeVersion("1" * 40, False)
    monkeypatch.setenv(DIRTY, "1")
    assert code_version(tmp_path).dirty


def test_the_framework_is_named_by_its_own_version(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed below a user's repository, as in a virtual environment, it does not take that one's commit."""
    installed = repository / ".venv" / "mlops_ray"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    monkeypatch.setattr(module, "_PACKAGE", installed)
    framework_version.cache_clear()
    assert framework_version() == module.version("mlops_ray")
    framework_version.cache_clear()


def test_the_environment_is_another_when_a_package_is(monkeypatch: pytest.MonkeyPatch) -> None:
    before = environment_digest()
    environment_digest.cache_clear()
    assert environment_digest() == before
    environment_digest.cache_clear()
    monkeypatch.setattr(module, "distributions", list)
    assert environment_digest() != before
    environment_digest.cache_clear()
