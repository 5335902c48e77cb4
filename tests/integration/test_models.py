"""The registry: a version is registered once, whoever is killed when, and comes back as it was sealed."""

import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from sqlalchemy import Engine, event

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, IntegrityError, UnavailableError
from mlops_ray.governance.versions import VersionRef
from mlops_ray.registry.artifact_check import check_artifact
from mlops_ray.registry.model_registry import MlflowRegistry
from mlops_ray.registry.model_signature import sign
from mlops_ray.registry.models import ModelVersion, champion, download, missing_version, register, set_champion
from mlops_ray.registry.sealed_model import load
from mlops_ray.registry.trace import read_lineage
from mlops_ray.serving.loader import can_pass
from mlops_ray.testing.example_lineage import example_lineage
from mlops_ray.testing.example_model import example_answer, example_schema, seal_example
from mlops_ray.testing.signing_keys import with_signing_keys
from mlops_ray.training.mlflow_database import has_alias, has_run, has_version
from mlops_ray.training.tracking import connect, experiment_id

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes seconds to create its tables, so tests begin with a copy."""
    folder = tmp_path_factory.mktemp("mlflow")
    connect(Settings(state=str(folder), data=str(folder)))
    return folder / "mlflow.db"


@pytest.fixture
def settings(tmp_path: Path, empty_database: Path) -> Settings:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return Settings(state=str(tmp_path), data=str(tmp_path / "data"))


@pytest.fixture
def run_id(settings: Settings) -> str:
    client = connect(settings)
    return client.create_run(experiment_id(client, settings, "planes")).info.run_id


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    folder = tmp_path / "sealed"
    (folder / "deep").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"onnx")
    (folder / "schema.json").write_text(json.dumps(example_schema().to_json()))
    (folder / "deep" / "golden.json").write_text("[]")
    return folder


def register_planes(
    settings: Settings, sealed: Path, run_id: str, key: str = "k1", digest: str = "f", recorded: Mapping[int, str] = {}
) -> ModelVersion:
    lineage = example_lineage("planes", digest * 64, snapshot="s1", training_set="t1", code_version="c1")
    return register(settings, "planes", sealed, lineage, run_id, {"roc_auc": 0.75}, key, recorded)


def test_version_carries_its_files_and_its_lineage(
    settings: Settings, sealed: Path, run_id: str, tmp_path: Path
) -> None:
    version = register_planes(settings, sealed, run_id)
    assert (version.version, version.digest, version.run_id) == (1, "f" * 64, run_id)
    folder = download(settings, version, tmp_path / "copy")
    assert (folder / "model.onnx").read_bytes() == b"onnx"
    assert (folder / "deep" / "golden.json").read_text() == "[]"
    assert {file.name for file in folder.rglob("*")} == {"model.onnx", "schema.json", "deep", "golden.json"}
    client = MlflowClient(settings.mlflow_uri)
    tags = client.get_model_version("planes", "1").tags
    assert {name: tags[f"mlops_ray.{name}"] for name in ("snapshot", "training_set", "code_version")} == {
        "snapshot": "s1",
        "training_set": "t1",
        "code_version": "c1",
    }
    assert client.get_run(run_id).data.metrics == {"test_roc_auc": 0.75}


@pytest.mark.filterwarnings("ignore")
def test_mlflows_own_tools_load_a_registered_version(settings: Settings, run_id: str, tmp_path: Path) -> None:
    import mlflow
    import mlflow.onnx

    digest = seal_example(tmp_path / "sealed")
    lineage = example_lineage("departures", digest)
    version = register(settings, "departures", tmp_path / "sealed", lineage, run_id, {}, "k1")
    mlflow.set_tracking_uri(settings.mlflow_uri)
    try:
        plain = mlflow.onnx.load_model("models:/departures/1")
        assert [part.name for part in plain.graph.input] == ["numbers", "categories"]
        model = mlflow.pyfunc.load_model("models:/departures/1")
        inputs = {part.name: (part.type.name, part.shape) for part in model.metadata.signature.inputs.inputs}
        assert inputs == {"numbers": ("float32", (-1, 3)), "categories": ("str", (-1, 2))}
        rows = {"numbers": np.array([[500, 8, np.nan]], np.float32), "categories": np.array([["JFK", "AA"]])}
        row = {"origin": "JFK", "carrier": "AA", "distance": 500.0, "hour": 8.0, "recent_delay": None}
        assert model.predict(rows)["probability"][0] == pytest.approx(example_answer(row), abs=1e-6)
    finally:
        mlflow.set_tracking_uri(None)
    assert load(download(settings, version, tmp_path / "copy"), digest).digest == digest
    assert check_artifact(tmp_path / "copy" / "sealed_model" / digest) == ()


def test_a_signature_holds_for_what_comes_back_from_mlflow_and_a_replica_takes_nothing_else(
    settings: Settings, run_id: str, tmp_path: Path
) -> None:
    signing = with_signing_keys(settings, tmp_path / "keys")
    digest = seal_example(tmp_path / "sealed")
    sign(signing, tmp_path / "sealed")
    register(signing, "departures", tmp_path / "sealed", example_lineage("departures", digest), run_id, {}, "k1")
    replica = MlflowRegistry(signing.model_copy(update={"model_signing_key": ""}))
    ref = VersionRef(1, digest)
    assert load(replica.fetch("departures", ref, tmp_path / "replica"), digest).digest == digest
    others = MlflowRegistry(with_signing_keys(settings, tmp_path / "other_keys"))
    with pytest.raises(IntegrityError, match="does not hold") as refused:
        others.fetch("departures", ref, tmp_path / "others")
    assert not can_pass(refused.value)
    unsigned = seal_example(tmp_path / "unsigned")
    Artifacts(settings.artifacts).upload(tmp_path / "unsigned", "sealed_models", "departures", unsigned)
    with pytest.raises(IntegrityError, match="has no signature") as refused:
        replica.fetch("departures", VersionRef(1, unsigned), tmp_path / "again")
    assert not can_pass(refused.value)


def test_same_key_gives_the_same_version_and_another_key_a_new_one(
    settings: Settings, sealed: Path, run_id: str, tmp_path: Path
) -> None:
    first = register_planes(settings, sealed, run_id)
    assert register_planes(settings, sealed, run_id) == first
    (sealed / "model.onnx").write_bytes(b"other")
    second = register_planes(settings, sealed, run_id, key="k2", digest="e")
    assert second.version == 2
    assert (download(settings, first, tmp_path / "first") / "model.onnx").read_bytes() == b"onnx"
    assert (download(settings, second, tmp_path / "second") / "model.onnx").read_bytes() == b"other"


def test_an_mlflow_restored_from_an_older_backup_gives_no_number_twice(
    settings: Settings, sealed: Path, run_id: str
) -> None:
    backup = Path(settings.state) / "backup.db"
    recorded = {1: "1" * 64}
    register_planes(settings, sealed, run_id, "k1", "1")
    shutil.copy(Path(settings.state) / "mlflow.db", backup)
    for number in (2, 3):
        register_planes(settings, sealed, run_id, f"k{number}", str(number), recorded)
        recorded[number] = str(number) * 64
    shutil.copy(backup, Path(settings.state) / "mlflow.db")
    assert register_planes(settings, sealed, run_id, "k3", "3", recorded).version == 3  # the very version that is lost
    assert register_planes(settings, sealed, run_id, "k4", "4", recorded).version == 4
    client = MlflowClient(settings.mlflow_uri)
    assert sorted(int(one.version) for one in client.search_model_versions("name = 'planes'")) == [1, 3, 4]


@pytest.mark.parametrize("call", [1, 2])
def test_killed_between_giving_a_number_back_and_the_next_it_registers_one_version(
    settings: Settings, sealed: Path, run_id: str, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    recorded, calls = {number: str(number) * 64 for number in (1, 2)}, 0
    create = MlflowClient.create_model_version

    def create_and_die(*arguments: object, **named: object) -> object:
        nonlocal calls
        made, calls = create(*arguments, **named), calls + 1  # type: ignore[arg-type]
        if calls == call:
            raise Killed
        return made

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "create_model_version", create_and_die)
        with pytest.raises(Killed):
            register_planes(settings, sealed, run_id, recorded=recorded)
    assert register_planes(settings, sealed, run_id, recorded=recorded).version == 3
    client = MlflowClient(settings.mlflow_uri)
    assert [int(one.version) for one in client.search_model_versions("name = 'planes'")] == [3]


@pytest.mark.parametrize(
    "call", ["log_artifact", "log_text", "log_dict", "log_metric", "create_registered_model", "create_model_version"]
)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_around_any_call_it_registers_one_version(
    call: str, moment: str, settings: Settings, sealed: Path, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(MlflowClient, call)

    def killed(*args: object, **kwargs: object) -> None:
        if moment == "after":
            real(*args, **kwargs)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, call, killed)
        with pytest.raises(Killed):
            register_planes(settings, sealed, run_id)
    version = register_planes(settings, sealed, run_id)
    client = MlflowClient(settings.mlflow_uri)
    assert [found.version for found in client.search_model_versions("name = 'planes'")] == [version.version]
    assert len(client.get_metric_history(run_id, "test_roc_auc")) == 1


@pytest.mark.parametrize("call", ["log_dict", "create_registered_model", "create_model_version"])
def test_mlflow_gone_in_the_middle_is_said_and_the_rerun_completes(
    call: str, settings: Settings, sealed: Path, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*args: object, **kwargs: object) -> None:
        raise MlflowException("Connection refused", error_code=TEMPORARILY_UNAVAILABLE)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, call, gone)
        with pytest.raises(UnavailableError, match=r"does not answer: Connection refused.*then run the same again"):
            register_planes(settings, sealed, run_id)
    assert MlflowClient(settings.mlflow_uri).search_model_versions("name = 'planes'") == []
    assert register_planes(settings, sealed, run_id).version == 1


def test_sixteen_at_once_register_sixteen_versions(settings: Settings, sealed: Path, url: str) -> None:
    if url.startswith("postgresql"):
        settings = settings.model_copy(update={"mlflow_uri": url.replace("://", "+psycopg://")})
    client = connect(settings)
    run_id = client.create_run(experiment_id(client, settings, "planes")).info.run_id

    def one(number: int) -> ModelVersion:
        return register_planes(settings, sealed, run_id, key=f"k{number}", digest=f"{number:x}")

    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(one, range(16)))
    assert sorted(version.version for version in made) == list(range(1, 17))
    known = MlflowClient(settings.mlflow_uri).search_model_versions("name = 'planes'")
    assert {(int(one.version), one.tags["mlops_ray.digest"]) for one in known} == {
        (version.version, f"{number:x}" * 64) for number, version in enumerate(made)
    }


def test_two_processes_at_once_register_one_version(settings: Settings, sealed: Path, run_id: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        versions = list(pool.map(lambda _: register_planes(settings, sealed, run_id), range(2)))
    assert versions[0].version == versions[1].version
    assert len(MlflowClient(settings.mlflow_uri).search_model_versions("name = 'planes'")) == 1


def test_a_version_that_another_process_gives_back_while_it_is_looked_for_is_none(
    settings: Settings, sealed: Path, run_id: str
) -> None:
    """MLflow reads the tags of what it has found with a second statement, and has none then."""
    made = register_planes(settings, sealed, run_id)
    client, given_back = connect(settings), False

    def give_back(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        nonlocal given_back
        if not given_back and statement.startswith("SELECT model_version_tags."):
            given_back = True
            client.delete_model_version("planes", str(made.version))

    event.listen(Engine, "before_cursor_execute", give_back)
    try:
        assert register_planes(settings, sealed, run_id).version == made.version + 1
    finally:
        event.remove(Engine, "before_cursor_execute", give_back)
    assert given_back


@pytest.mark.parametrize("recorded", [{}, {1: "e" * 64}], ids=["of one key", "of a number that is another's"])
def test_what_two_processes_find_too_many_is_given_back_by_both(
    settings: Settings, sealed: Path, run_id: str, recorded: dict[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = register_planes(settings, sealed, run_id)
    client, real = connect(settings), MlflowClient.delete_model_version
    same = client.get_model_version("planes", str(first.version))
    client.create_model_version("planes", same.source, run_id, tags=same.tags)

    def after_another(self: MlflowClient, name: str, version: str) -> None:
        real(self, name, version)
        real(self, name, version)

    monkeypatch.setattr(MlflowClient, "delete_model_version", after_another)
    kept = register_planes(settings, sealed, run_id, recorded=recorded)
    assert kept.version == (2 if recorded else 1)
    assert [int(one.version) for one in client.search_model_versions("name = 'planes'")] == [kept.version]


def test_champion_is_what_the_alias_points_to(settings: Settings, sealed: Path, run_id: str) -> None:
    assert champion(settings, "planes") is None
    first = register_planes(settings, sealed, run_id)
    assert champion(settings, "planes") is None
    second = register_planes(settings, sealed, run_id, key="k2", digest="e")
    set_champion(settings, "planes", first.version)
    assert champion(settings, "planes") == first
    set_champion(settings, "planes", second.version)
    assert champion(settings, "planes") == second


def test_a_look_into_mlflows_database_finds_what_mlflow_finds(
    settings: Settings, sealed: Path, run_id: str, tmp_path: Path
) -> None:
    version, client, uri = register_planes(settings, sealed, run_id), connect(settings), settings.mlflow_uri
    tag = "mlops_ray.digest"
    assert has_run(uri, run_id)
    assert not has_run(uri, "0" * 32)
    assert has_version(uri, "planes", 1, tag, version.digest)
    for other in (("planes", 2, version.digest), ("planes", 1, "e" * 64), ("trains", 1, version.digest)):
        assert not has_version(uri, *other[:2], tag, other[2])
    assert not has_alias(uri, "planes", "champion", 1)
    set_champion(settings, "planes", 1)
    assert has_alias(uri, "planes", "champion", 1)
    assert not has_alias(uri, "planes", "champion", 2)
    assert missing_version(settings, "planes", 1, version.digest) is None
    client.delete_model_version("planes", "1")
    client.delete_run(run_id)
    assert not has_run(uri, run_id)
    assert not has_version(uri, "planes", 1, tag, version.digest)
    assert not has_alias(uri, "planes", "champion", 1)
    assert missing_version(settings, "planes", 1, version.digest) is not None
    (tmp_path / "text.db").write_text("no database")
    for elsewhere in (f"sqlite:///{tmp_path}/text.db", f"sqlite:///{tmp_path}/none.db", "http://127.0.0.1:9"):
        assert not has_run(elsewhere, run_id)
    assert not (tmp_path / "none.db").exists()


def test_lineage_comes_back_from_mlflow_where_the_control_store_and_the_artifact_root_know_nothing(
    settings: Settings, sealed: Path, run_id: str, tmp_path: Path
) -> None:
    version = register_planes(settings, sealed, run_id)
    shutil.rmtree(tmp_path / "artifacts" / "lineage")
    record, lineage = read_lineage(settings, "planes", 1)
    assert (record, lineage.snapshot, lineage.digest) == (version.lineage, "s1", version.digest)
    copy = next((tmp_path / "artifacts").rglob(f"{record}.lineage.json"))
    copy.write_text(copy.read_text().replace('"s1"', '"s2"'))
    with pytest.raises(IntegrityError, match="planes@1 was changed"):
        read_lineage(settings, "planes", 1)
    copy.unlink()
    with pytest.raises(UnavailableError, match="Restore one of them"):
        read_lineage(settings, "planes", 1)
    with pytest.raises(ConfigurationError, match="planes has no version 2; registered are: 1"):
        read_lineage(settings, "planes", 2)
    with pytest.raises(UnavailableError, match="does not answer"):
        read_lineage(settings.model_copy(update={"mlflow_uri": "http://127.0.0.1:9"}), "planes", 1)


def test_incomplete_lineage_is_not_registered(settings: Settings, sealed: Path, run_id: str) -> None:
    with pytest.raises(IntegrityError, match="lacks training_set, lock_file"):
        register(settings, "planes", sealed, example_lineage("planes", training_set="", lock_file=""), run_id, {}, "k1")
    assert MlflowClient(settings.mlflow_uri).search_registered_models() == []


def test_mlflow_away_is_one_sentence(settings: Settings, sealed: Path) -> None:
    away = settings.model_copy(update={"mlflow_uri": "http://127.0.0.1:9"})
    with pytest.raises(UnavailableError, match=r"MLflow at http://127.0.0.1:9 does not answer"):
        champion(away, "planes")
