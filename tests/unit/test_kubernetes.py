"""The files for Kubernetes are valid, and what they name is there: images, programs, variables, paths and ports."""

import copy
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from mlops_ray.cli.main import app
from mlops_ray.code_version import COMMIT, DIRTY
from mlops_ray.config import load_settings
from mlops_ray.operations.backup.databases import copied_databases
from tests.kuberay import cluster_of, pod_templates, validate

ROOT = Path(__file__).parents[2]
HERE = ROOT / "deploy" / "kubernetes"
RENDERED = ["overlays/production", "overlays/staging", "job"]
SETTINGS = load_settings(str(ROOT / "deploy" / "production.yaml"))


@cache
def rendered(folder: str) -> tuple[dict[str, Any], ...]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed, so nothing is rendered (1.27 or later; that of Debian 12 is too old)")
    done = subprocess.run(["kubectl", "kustomize", HERE / folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def objects(kind: str = "", folder: str = "overlays/production") -> list[dict[str, Any]]:
    return [copy.deepcopy(one) for one in rendered(folder) if kind in ("", one["kind"])]


def containers() -> list[dict[str, Any]]:
    every = [one for folder in RENDERED for one in objects(folder=folder)]
    return [one for document in every for pod in pod_templates(document) for one in pod["spec"]["containers"]]


@pytest.mark.parametrize("folder", RENDERED)
def test_every_object_is_valid(folder: str) -> None:
    for document in objects(folder=folder):
        validate(document)
    assert {one["kind"] for one in objects(folder="job")} == {"RayJob"}


@pytest.mark.parametrize(
    "path",
    [
        ("spec",),
        ("spec", "gcsFaultToleranceOptions"),
        ("spec", "headGroupSpec"),
        ("spec", "workerGroupSpecs", 0),
        ("spec", "headGroupSpec", "template", "spec"),
        ("spec", "workerGroupSpecs", 0, "template", "spec", "containers", 0, "livenessProbe"),
    ],
)
def test_a_mistyped_field_is_caught(path: tuple[Any, ...]) -> None:
    (cluster,) = objects("RayCluster")
    validate(cluster)
    part = cluster
    for key in path:
        part = part[key]
    part["mistpyed"] = 1
    with pytest.raises(Exception, match="mistpyed"):
        validate(cluster)


def test_copies_are_of_the_files_that_they_repeat() -> None:
    spec = importlib.util.spec_from_file_location("write_copies", HERE / "write_copies.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for file, written in module.COPIES.items():
        assert file.read_text() == written(), "Run `python deploy/kubernetes/write_copies.py`."
    (service,) = objects("RayService")
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == yaml.safe_load(module.SERVE.read_text())
    (rule,) = objects("PrometheusRule")
    assert rule["spec"] == yaml.safe_load(module.ALERTS.read_text())


def test_every_cluster_asks_for_a_token_and_survives_its_head() -> None:
    for document in (one for folder in RENDERED for one in objects(folder=folder)):
        if (cluster := cluster_of(document)) is not None:
            assert cluster["authOptions"] == {"mode": "token"}
            assert "secretKeyRef" in cluster["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]
            assert f"ray=={cluster['rayVersion']}" in (ROOT / "requirements.lock").read_text().splitlines()


def test_containers_are_bounded_watched_and_may_do_little() -> None:
    for container in containers():
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    for pod in (pod for folder in RENDERED for one in objects(folder=folder) for pod in pod_templates(one)):
        assert pod["spec"]["securityContext"]["runAsNonRoot"]


def test_no_secret_is_in_a_file() -> None:
    text = "".join(file.read_text() for file in HERE.rglob("*") if file.is_file() and file.suffix != ".pyc")
    assert "kind: Secret\n" not in text
    assert not re.search(r"(?i)(password|token|secret)\S*: *['\"]?[A-Za-z0-9+/]{16}", text)


def test_programs_variables_and_paths_are_those_of_the_code() -> None:
    known = {"MLOPS_RAY_SETTINGS", "MLOPS_RAY_PROJECT", COMMIT, DIRTY}
    for container in containers():
        (script,) = container["args"]
        assert script.index("mlops-ray cluster serve-env") < script.index("$KUBERAY_GEN_RAY_START_CMD")
        given = {one["name"]: one["value"] for one in container["env"]}
        assert given.keys() <= known
        assert [line for line in image()["ENV"] if f"MLOPS_RAY_SETTINGS={given['MLOPS_RAY_SETTINGS']}" in line]
        mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
        for file in (given["MLOPS_RAY_SETTINGS"], SETTINGS.ledger_secret_file):
            assert str(Path(file).parent) == mounts["settings"]
        assert SETTINGS.state == mounts["state"]
        assert Path(SETTINGS.ledger_wal).is_relative_to(mounts["state"])


def test_ports_are_ours() -> None:
    serve = yaml.safe_load((ROOT / "serve_configs" / "production.yaml").read_text())["http_options"]["port"]
    assert serve == SETTINGS.http_port
    for container in containers():
        ports = {one["name"]: one["containerPort"] for one in container["ports"]}
        assert (ports["serve"], ports["metrics"]) == (serve, 8080)
    (policy,) = objects("NetworkPolicy")
    opened = {port["port"] for rule in policy["spec"]["ingress"] for port in rule.get("ports", ())}
    assert opened == {serve, 8080, 8265, 52365}
    (ingress,) = objects("Ingress")
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    (service,) = objects("RayService")
    assert path["backend"]["service"] == {"name": f"{service['metadata']['name']}-serve-svc", "port": {"number": serve}}


def every_pod() -> list[dict[str, Any]]:
    return [pod for folder in RENDERED for one in objects(folder=folder) for pod in pod_templates(one)]


def test_whoever_submits_a_job_is_let_in_where_policies_are_enforced() -> None:
    """The operator is. A pod that it makes to submit (K8sJobMode, its own default) has the labels of
    `submitterPodTemplate` alone, none without one."""
    (policy,) = objects("NetworkPolicy")
    ours = policy["spec"]["podSelector"]["matchLabels"]
    assert {"from": [{"podSelector": {"matchLabels": ours}}]} in policy["spec"]["ingress"]
    (job,) = objects("RayJob", "job")
    submitting = [] if job["spec"].get("submissionMode") == "HTTPMode" else [job["spec"].get("submitterPodTemplate")]
    for pod in (*every_pod(), *submitting):
        assert pod is not None
        assert ours.items() <= pod["metadata"]["labels"].items()


def test_the_operator_s_services_find_the_heads() -> None:
    """`endpoints-head-svc` selects by KubeRay's own values of these, which a template would override (labelPod and
    BuildHeadServiceForRayService of 1.5.1)."""
    own = {"app.kubernetes.io/name", "app.kubernetes.io/created-by", "ray.io/identifier", "ray.io/is-ray-node"}
    for pod in every_pod():
        assert not own.intersection(pod["metadata"]["labels"])
    selecting = {"NetworkPolicy": "podSelector", "PodMonitor": "selector", "PodDisruptionBudget": "selector"}
    for kind, selector in selecting.items():
        (one,) = objects(kind)
        assert not own.intersection(one["spec"][selector]["matchLabels"])


def test_the_job_is_a_command_that_there_is() -> None:
    (job,) = objects("RayJob", "job")
    python, program, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert python == "python"
    assert (ROOT / Path(program).relative_to("/opt/mlops-ray")).is_file()
    run = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    run.make_context("run", [*arguments, "--explain"])


def image() -> dict[str, list[str]]:
    """The Dockerfile's instructions by name."""
    text = re.sub(r"\\\n", " ", (HERE / "Dockerfile").read_text())
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            found.setdefault(name, []).append(rest)
    return found


def test_the_image_has_what_manifests_run() -> None:
    parts = image()
    assert parts["USER"] == ["1000"]
    probes = {one[kind]["exec"]["command"][0] for one in containers() for kind in ("startupProbe", "readinessProbe")}
    assert all(re.search(rf"apt-get install [^&]*\b{program}\b", " ".join(parts["RUN"])) for program in probes)
    sources = [word for line in parts["COPY"] for word in line.split()[:-1]]
    assert all((ROOT / one).exists() for one in sources)
    assert [name for name in (COMMIT, DIRTY) if f"{name}=" not in " ".join(parts["ENV"])] == []


def test_a_node_can_back_up_the_databases_of_production() -> None:
    assert "postgresql" in copied_databases(SETTINGS).values()
    everywhere = [" ".join(image()["RUN"]), *yaml.safe_load((ROOT / "cluster.yaml").read_text())["setup_commands"]]
    client = re.compile(r"apt-get install [^&]*\bpostgresql-client-")
    assert client.search(everywhere[0])
    assert any(map(client.search, everywhere[1:]))


def test_what_git_ignores_is_not_in_the_image() -> None:
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    left_out = (HERE / "Dockerfile.dockerignore").read_text().splitlines()
    for name in ("production.yaml", "ledger_secret", "state", "data"):
        assert name in ignored
        assert name in left_out


def test_a_container_starts_ray_with_the_variables_of_serve_and_closed_files(tmp_path: Path) -> None:
    """The manifest's own command, with another one in place of the `ray start` that the operator puts into its
    environment."""
    container = containers()[0]
    program = tmp_path / "ray"
    program.write_text('#!/bin/sh\necho "$RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH $1 $(umask)"\n')
    program.chmod(0o700)
    environment = {
        **os.environ, "KUBERAY_GEN_RAY_START_CMD": "ray start --head", "PYTHONPATH": str(ROOT),
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    done = subprocess.run(
        [*container["command"], *container["args"]], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["mlops_ray.serving.middleware:middlewares", "start", "0077"], done.stderr
