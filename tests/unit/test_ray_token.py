"""A Ray token is made once, for its user alone, and a machine without one is told so before Ray ends in a traceback."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlops_ray.cli.main import app
from mlops_ray.config import load_settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.operations.doctor import Examined, examine
from mlops_ray.operations.ray_token import make_token, token_place


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def looked(home: Path) -> Examined | None:
    settings = load_settings(state=f"{home}/state", data=str(home))
    return {one.name: one for one in examine(settings, home, {})}.get("ray_token")


def test_a_token_is_made_once_closed_to_others_and_never_printed(home: Path) -> None:
    file = home / ".ray" / "auth_token"
    first = CliRunner().invoke(app, ["cluster", "token"])
    secret = file.read_text()
    assert len(secret) == 64
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = CliRunner().invoke(app, ["cluster", "token"])
    assert file.read_text() == secret
    assert (first.output.split()[0], again.output.split()[0]) == ("Made", "Kept")
    assert secret not in first.output + again.output
    assert [one.name for one in file.parent.iterdir()] == ["auth_token"]


def test_an_open_file_is_closed(home: Path) -> None:
    file = home / "token"
    file.write_text("a" * 64)
    file.chmod(0o644)
    assert not make_token(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_one_that_is_mounted_is_kept_though_nothing_can_be_written_beside_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = home / "token"
    file.write_text("a" * 64)
    file.chmod(0o400)
    monkeypatch.setattr("os.open", lambda *_: pytest.fail("something was written"))
    assert not make_token(file)


def test_of_several_makers_one_counts(home: Path) -> None:
    file = home / ".ray" / "auth_token"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: (make_token(file), file.read_text()), range(32)))
    assert sum(one for one, _ in made) == 1
    assert len({text for _, text in made}) == 1


def test_ray_looks_where_we_do(home: Path) -> None:
    assert token_place({"RAY_AUTH_TOKEN": "x", "RAY_AUTH_TOKEN_PATH": "/y"}) is None
    assert token_place({"RAY_AUTH_TOKEN_PATH": "/y"}) == Path("/y")
    assert token_place({"HOME": "/root", "RAY_AUTH_TOKEN": ""}) == Path("/root/.ray/auth_token")


def test_an_empty_token_is_refused_with_what_to_do(home: Path) -> None:
    (home / "token").write_text("\n")
    with pytest.raises(ConfigurationError, match=r"is empty\. Delete the file"):
        make_token(home / "token")


def test_where_none_can_be_written_the_cause_is_said(home: Path) -> None:
    (home / ".ray").write_text("a file")
    with pytest.raises(ConfigurationError, match=r"\.ray/auth_token cannot be made"):
        make_token(home / ".ray" / "auth_token")


def test_doctor_asks_for_it_where_ray_would(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert looked(home) is None
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    missing = looked(home)
    assert missing is not None
    assert missing.state == "error"
    assert "mlops-ray cluster token" in missing.sentence
    make_token(home / ".ray" / "auth_token")
    found = looked(home)
    assert found is not None
    assert found.state == "ok"
    (home / ".ray" / "auth_token").chmod(0o644)
    opened = looked(home)
    assert opened is not None
    assert opened.state == "warning"
