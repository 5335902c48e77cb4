"""Before libraries are upgraded, every version that may have to answer is loaded with the new ones."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from mlops_ray.artifacts import Artifacts
from mlops_ray.cli.main import app
from mlops_ray.config import Settings
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.live import Plan, VersionRef
from mlops_ray.governance.rollouts import start_rollout
from mlops_ray.serving.preflight import preflight
from mlops_ray.testing.example_model import seal_example
from tests.unit.test_golden_requests import FORMAT_1, FORMAT_1_DIGEST
from tests.unit.test_sealed_model import reseal

ROOT = Path(__file__).parents[2]
OTHER_POLARS = "1.44.2"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state=str(tmp_path / "state"), data=str(tmp_path))


@pytest.fixture
def store(settings: Settings) -> Iterator[ControlStore]:
    Path(settings.state).mkdir()
    store = open_store(settings)
    yield store
    store.close()


def put(settings: Settings, number: int, name: str = "departures", hour: str = "Hour") -> VersionRef:
    """A version as sealing leaves it. hour: what stands in its schema for polars' function of that name."""
    with tempfile.TemporaryDirectory() as folder:
        digest = seal_example(Path(folder), salt=number)
        if hour != "Hour":
            schema = (Path(folder) / "schema.json").read_text()
            assert "Hour" in schema
            digest = reseal(Path(folder), "schema.json", schema.replace("Hour", hour).encode())
        Artifacts(settings.artifacts).upload(Path(folder), "sealed_models", name, digest)
    return VersionRef(number, digest)


def make_live(store: ControlStore, *versions: VersionRef, name: str = "departures") -> None:
    for version in versions:
        set_champion(store, SYSTEM, name, version, "a test")


def test_champion_rollout_and_previous_are_loaded_and_replayed(settings: Settings, store: ControlStore) -> None:
    one, two, three = (put(settings, number) for number in (1, 2, 3))
    make_live(store, one, two)
    start_rollout(store, SYSTEM, "departures", three, Plan())
    make_live(store, put(settings, 1, "arrivals"), name="arrivals")
    found = {(one.use_case, one.version.version, one.part): one for one in preflight(store, settings)}
    assert set(found) == {
        ("departures", 2, "champion"), ("departures", 3, "rollout"), ("departures", 1, "previous"),
        ("arrivals", 1, "champion"),
    }  # fmt: skip
    assert {(one.problem, one.golden_requests) for one in found.values()} == {(None, 3)}
    assert [one.use_case for one in preflight(store, settings, "arrivals")] == ["arrivals"]


def test_what_would_not_load_is_named_with_its_reason_and_the_exit_code_is_one(
    settings: Settings, store: ControlStore
) -> None:
    make_live(store, put(settings, 1), put(settings, 2, hour="HourOfDay"))
    damaged = put(settings, 3)
    start_rollout(store, SYSTEM, "departures", damaged, Plan())
    onnx = Path(settings.artifacts) / "sealed_models" / "departures" / damaged.digest / "model.onnx"
    onnx.write_bytes(onnx.read_bytes()[:-1])
    result = CliRunner().invoke(app, ["versions", "preflight", "departures", "--state", settings.state])
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert "departures@2 (champion): IntegrityError: Request feature 'hour'" in lines[0]
    assert f"here is {pl.__version__}" in lines[0]
    assert lines[1].startswith("departures@3 (rollout): IntegrityError: ")
    assert "model.onnx has SHA-256" in lines[1]
    assert lines[2] == "departures@1 (previous): loads, and answers 3 golden requests as when it was sealed"
    assert "2 of 3 versions would not serve in this environment" in result.output


def test_where_nothing_is_live_it_says_so(settings: Settings, store: ControlStore) -> None:
    result = CliRunner().invoke(app, ["versions", "preflight", "--state", settings.state])
    assert result.exit_code != 0
    assert "has no version that is live" in str(result.exception or result.output)


@pytest.fixture(scope="session")
def other_polars() -> Path:
    """A folder with another polars to put in front of the path; kept for the next run of the tests."""
    folder = Path(tempfile.gettempdir()) / f"mlops-ray-tests-polars-{OTHER_POLARS}"
    if not (folder / "polars").is_dir():
        made = Path(tempfile.mkdtemp(dir=tempfile.gettempdir()))
        packages = [f"polars=={OTHER_POLARS}", f"polars-runtime-32=={OTHER_POLARS}"]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(made), *packages]
        done = subprocess.run(pip, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode != 0:
            shutil.rmtree(made)
            pytest.skip(f"polars {OTHER_POLARS} cannot be installed: {done.stderr[-300:]}")
        if not folder.exists():
            made.rename(folder)
    return folder


def run_with(other: Path, settings: Settings) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{other}{os.pathsep}{ROOT}"}
    command = "import polars; print(polars.__version__); from mlops_ray.cli.main import app; app()"
    arguments = [sys.executable, "-c", command, "versions", "preflight", "--state", settings.state]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120, env=environment, check=False)


def test_what_was_sealed_with_this_polars_answers_the_same_with_another(
    settings: Settings, store: ControlStore, other_polars: Path
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(FORMAT_1, folder, dirs_exist_ok=True)
        Artifacts(settings.artifacts).upload(Path(folder), "sealed_models", "departures", FORMAT_1_DIGEST)
    make_live(store, VersionRef(1, FORMAT_1_DIGEST), put(settings, 2))
    result = run_with(other_polars, settings)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        OTHER_POLARS,
        "departures@2 (champion): loads, and answers 3 golden requests as when it was sealed",
        "departures@1 (previous): loads, and answers 0 golden requests as when it was sealed",
    ]


def test_what_another_polars_cannot_read_is_found_before_replicas_get_it(
    settings: Settings, store: ControlStore, other_polars: Path
) -> None:
    make_live(store, put(settings, 1, hour="HourOfDay"))
    result = run_with(other_polars, settings)
    assert result.returncode == 1
    assert f"written by polars {pl.__version__}, and here is {OTHER_POLARS}" in result.stdout
    assert "1 of 1 versions would not serve" in result.stderr
