"""`mlops-ray doctor` says what would stop work, where it stands, and how it is mended, and changes nothing."""

import json
import os
import re
import socket
import subprocess
from collections.abc import Callable
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mlops_ray.cli.main import app
from mlops_ray.config import load_settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.control_store import open_store
from mlops_ray.operations.doctor import Examined, examine
from tests.lesser_environment import ROOT, environment_with, remove


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def told_by(python: Path, folder: Path) -> dict[str, Any]:
    """What the command says in another environment, without the variables of this one."""
    code = "from mlops_ray.cli.entry import main; main()"
    done = subprocess.run([str(python), "-c", code, "doctor", "--json"], cwd=folder, capture_output=True, text=True)
    return {one["name"]: one for one in json.loads(done.stdout)}


def looked(folder: Path, **settings: Any) -> dict[str, Examined]:
    (folder / "data").mkdir(exist_ok=True)
    read = load_settings(state=f"{folder}/state", **{"data": f"{folder}/data", **settings})
    return {one.name: one for one in examine(read, folder, {})}


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


def test_a_new_machine_is_well_but_for_versions_that_nobody_pinned(tmp_path: Path) -> None:
    found = looked(tmp_path)
    assert {name for name, one in found.items() if one.state != "ok"} == {"packages"}
    assert not (tmp_path / "state").exists()


def test_a_folder_that_is_there_is_looked_at_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    found = looked(tmp_path, control_store=f"sqlite:///{tmp_path}/elsewhere/deep/control.db")
    assert {name for name, one in found.items() if one.state != "ok"} == {"packages"}
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["data", "state"]


def test_stores_that_share_a_database_are_a_warning_as_no_backup_can_be_made(tmp_path: Path) -> None:
    found = looked(tmp_path, feast_registry=f"sqlite:///{tmp_path}/state/mlflow.db")["databases"]
    assert found.state == "warning"
    assert "'mlflow_uri' and 'feast_registry' name one database" in found.sentence


def test_versions_that_differ_from_the_lock_file_are_named(tmp_path: Path) -> None:
    pins = (f"polars=={version('polars')}", "typer==0.0.1  # old", "old==1; python_version < '3'")
    (tmp_path / "requirements.lock").write_text("\n".join([*pins, "-e ."]))
    said = looked(tmp_path)["packages"]
    assert said.state == "warning"
    assert "1 of 2 packages are not as requirements.lock has them: typer" in said.sentence
    (tmp_path / "requirements.lock").write_text(f"polars=={version('polars')}\n")
    assert looked(tmp_path)["packages"].state == "ok"


def test_a_node_that_only_serves_is_well_without_what_trains(tmp_path: Path) -> None:
    python = environment_with(tmp_path / "serve", "serve")
    (tmp_path / "requirements.lock").symlink_to(ROOT / "requirements.lock")
    said = told_by(python, tmp_path)["packages"]
    assert said["state"] == "ok", said
    assert re.search(r"\d+ more are of what is not installed here \(watch, train, torch, lightgbm, ", said["sentence"])
    remove(python, distribution("onnxruntime"))
    remove(python, distribution("mmh3"))  # not ours to ask for: Feast needs it
    said = told_by(python, tmp_path)["packages"]
    assert said["state"] == "warning"
    assert {"onnxruntime is missing", "mmh3 is missing"} <= set(re.findall(r"[\w-]+ is missing", said["sentence"]))


@pytest.mark.parametrize(
    ("extra", "extras"),
    [
        ("", []),
        ("train", ["train", "delta"]),
        ("watch", ["watch"]),
        ("lightgbm", ["lightgbm"]),
    ],  # train has all of delta
)
def test_the_extras_of_a_machine_are_told_by_what_they_alone_bring(
    extra: str, extras: list[str], tmp_path: Path
) -> None:
    python = environment_with(tmp_path / "here", extra)
    code = """from mlops_ray.operations.installed_packages import extras_here
print(*(name for name, is_here in extras_here().items() if is_here))"""
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == extras


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("mlflow_uri", "http://127.0.0.1:{port}", "127.0.0.1:{port} takes no connections"),
        (
            "online_store",
            "redis://:hunter2x@127.0.0.1:{port}/0",  # pragma: allowlist secret
            "127.0.0.1:{port} takes no connections",
        ),
        (
            "control_store",
            "postgresql://me:hunter2x@127.0.0.1:{port}/db",  # pragma: allowlist secret
            "127.0.0.1:{port} takes no connections",
        ),
        ("model_signing_key", "env:DOCTOR_NOWHERE", "env:DOCTOR_NOWHERE cannot be read"),
        ("audit_public_key", "/nowhere/key.pem", "/nowhere/key.pem cannot be read"),
        ("artifacts", "/dev/null/artifacts", "cannot be"),
        ("artifacts", "file:///dev/null/artifacts", "cannot be written"),
        ("artifacts", "s3://me:hunter2x@[::1/bucket?x=hunter2x", "s3://[::1/bucket cannot"),  # pragma: allowlist secret
        ("data", "s3://me:hunter2x@[::1/bucket", "s3://[::1/bucket cannot"),  # pragma: allowlist secret
    ],
)
def test_what_cannot_be_reached_is_an_error_without_its_password(
    setting: str, value: str, said: str, tmp_path: Path
) -> None:
    port = free_port()
    found = looked(tmp_path, **{setting: value.format(port=port)})
    assert [name for name, one in found.items() if one.state == "error"] == [setting]
    assert said.format(port=port) in found[setting].sentence
    assert "hunter2x" not in found[setting].sentence


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("mlflow_uri", "http://mlflow:50x0", "cannot be read as an address"),
        ("mlflow_uri", "http://[::1/mlflow", "cannot be read as an address"),
        ("mlflow_uri", "http://mlflow..internal:5000", "mlflow..internal:5000 takes no connections"),
        ("oidc_keys", "https://:443/keys", "cannot be read as an address"),
        ("control_store", "postgresql://me:hunter2x@db:54x2/cs", "is not a database URL"),  # pragma: allowlist secret
        ("control_store", "postgresql://me:hunter2x@[::1/cs", "is not a database URL"),  # pragma: allowlist secret
        ("control_store", "postgresql://me:hunter2x@a..b,c/cs", "is not a database URL"),  # pragma: allowlist secret
        ("online_store", "redis://me:hunter2x#y@127.0.0.1/0", "# as %23"),  # pragma: allowlist secret
        ("online_store", "redis://me:1234/hunter2x@127.0.0.1/0", "/ as %2F"),  # pragma: allowlist secret
        ("feast_registry", "postgresql://me:12?hunter2x@127.0.0.1/f", "? as %3F"),  # pragma: allowlist secret
    ],
)  # fmt: skip
def test_what_is_no_address_is_said_of_its_setting_alone_and_without_its_password(
    setting: str, value: str, said: str, tmp_path: Path
) -> None:
    oidc = {"oidc_issuer": "https://issuer.invalid", "oidc_audience": "us"} if setting == "oidc_keys" else {}
    found = looked(tmp_path, **oidc, **{setting: value})
    assert [name for name, one in found.items() if one.state == "error"] == [setting]
    assert said in found[setting].sentence
    assert not re.search("hunter2x|1234", found[setting].sentence)


def test_a_password_that_the_store_can_read_is_no_fault_of_the_address(tmp_path: Path) -> None:
    port = free_port()
    url = f"postgresql://me:hunter#2x/@127.0.0.1:{port}/cs"  # pragma: allowlist secret
    said = looked(tmp_path, control_store=url)["control_store"].sentence
    assert said.startswith(f"127.0.0.1:{port} takes no connections")


def test_a_control_store_without_a_host_is_tried_itself(tmp_path: Path) -> None:
    said = looked(tmp_path, control_store=f"postgresql:///cs?host={tmp_path}")["control_store"]
    assert said.state == "error"
    assert f'"{tmp_path}/.s.PGSQL.5432"' in said.sentence


def test_backups_of_postgresql_need_its_client_and_others_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = "postgresql://me:hunter2x@127.0.0.1/feast"  # pragma: allowlist secret
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert "backups" not in looked(tmp_path, feast_registry=registry)
    assert looked(tmp_path, backups=f"{tmp_path}/kept")["backups"].state == "ok"
    said = looked(tmp_path, backups=f"{tmp_path}/kept", feast_registry=registry)["backups"]
    assert said.state == "error"
    assert "pg_dump is not on this machine" in said.sentence
    assert "hunter2x" not in said.sentence
    (tmp_path / "bin" / "pg_dump").touch(0o700)
    assert looked(tmp_path, backups=f"{tmp_path}/kept", feast_registry=registry)["backups"].state == "ok"


def test_a_server_that_listens_is_reached(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        assert looked(tmp_path, online_store=url)["online_store"].state == "ok"


def test_one_of_two_servers_that_is_away_is_a_warning(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        there, away = server.getsockname()[1], free_port()
        url = f"http://127.0.0.1:{away},127.0.0.1:{there}"
        found = looked(tmp_path, mlflow_uri=url)["mlflow_uri"]
    assert found.state == "warning"
    assert f"127.0.0.1:{away} takes no connections" in found.sentence
    assert f"127.0.0.1:{there} takes" not in found.sentence


def test_an_object_store_is_written_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    assert looked(tmp_path, artifacts=f"file://{tmp_path}/lake")["artifacts"].sentence.endswith("can be written")
    assert list((tmp_path / "lake").iterdir()) == []


def test_the_schema_of_the_control_store_is_said(tmp_path: Path) -> None:
    open_store(load_settings(state=f"{tmp_path}/state", data=f"{tmp_path}/data"))
    assert looked(tmp_path)["control_store"].sentence.startswith("schema 00")


def test_a_folder_without_data_is_a_warning(tmp_path: Path) -> None:
    assert looked(tmp_path, data=f"{tmp_path}/nothing")["data"].state == "warning"


def test_a_further_look_that_fails_is_an_error(tmp_path: Path) -> None:
    def fails() -> None:
        raise ConfigurationError("No room.")

    settings = load_settings(state=f"{tmp_path}/state", data=f"{tmp_path}")
    looks: dict[str, Callable[[], None]] = {"room": fails, "air": lambda: None}
    found = {one.name: one for one in examine(settings, tmp_path, looks)}
    assert (found["room"], found["air"].state) == (Examined("room", "error", "No room."), "ok")


def test_the_command_ends_with_3_where_a_port_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("MLOPS_RAY_", "RAY_ADDRESS"))]:
        monkeypatch.delenv(name)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        taken.close()
        well = CliRunner().invoke(app, ["doctor", "--port", str(port)])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        ill = CliRunner().invoke(app, ["doctor", "--json", "--port", str(taken.getsockname()[1])])
    assert (well.exit_code, ill.exit_code) == (0, 3)
    assert [one["name"] for one in json.loads(ill.output) if one["state"] == "error"] == ["port"]
