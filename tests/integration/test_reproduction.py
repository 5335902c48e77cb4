"""Reproduction: from the raw files and the registry's records alone the same model comes, or what differs is named."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
import ray

from mlops_ray.catalogue.erase import erase_person_from_data
from mlops_ray.catalogue.person import Person
from mlops_ray.cli.lineage import refuse
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, IntegrityError
from mlops_ray.governance.audit import verify_store
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import SYSTEM
from mlops_ray.operations.backup.create import create
from mlops_ray.operations.backup.place import Place
from mlops_ray.operations.backup.restore import restore
from mlops_ray.pipeline.pipeline import Pipeline
from mlops_ray.pipeline.reproduction import Reproduction, compare_inputs, reproduce
from mlops_ray.registry.lineage import Lineage
from mlops_ray.registry.models import champion, download, find_version
from mlops_ray.registry.sealed_model import load
from mlops_ray.registry.trace import erased_since, read_lineage, trace
from mlops_ray.training.candidates import GradientBoosting
from mlops_ray.use_case import Search, UseCase, load_use_case
from tests.pipeline_run import ROOT, SMALL, write_small_data

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
REPO = ROOT / "feature_repo"


@dataclass(frozen=True)
class Recorded:
    """A use case whose pipeline was run, the settings it ran with, and its first version's record."""

    case: UseCase
    settings: Settings
    lineage: Lineage


def small(file: Path) -> UseCase:
    split = load_use_case(str(SMALL)).split
    search, candidates = Search(trials_per_candidate=1), (GradientBoosting(),)
    return replace(load_use_case(str(file)), candidates=candidates, search=search, split=split, gates=())


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    folder = tmp_path_factory.mktemp("recorded")
    write_small_data(folder / "data")
    case = small(SMALL)
    settings = Settings(state=str(folder / "state"), data=str(folder / "data"))
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    Pipeline(case, settings, REPO).run(until="register")
    yield Recorded(case, settings, read_lineage(settings, "flights", 1)[1])
    ray.shutdown()


@pytest.fixture(scope="module")
def restored(recorded: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The installation as it comes from a backup, in another folder."""
    folder = tmp_path_factory.mktemp("restored")
    place = Place(str(folder / "backups"))
    create(recorded.settings, SYSTEM, place)
    settings = Settings(state=str(folder / "state"), data=recorded.settings.data)
    restore(settings, place, "latest")
    return settings


@pytest.fixture(scope="module")
def fresh(restored: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A state folder that holds the registry's records of a restored backup, and nothing that a step left."""
    folder = tmp_path_factory.mktemp("fresh")
    for file in Path(restored.state).glob("control_store.db*"):  # with its write-ahead log
        shutil.copy(file, folder)
    shutil.copytree(f"{restored.artifacts}/lineage", folder / "artifacts" / "lineage")
    return Settings(state=str(folder), data=restored.data)


def test_a_restored_backup_answers_and_goes_on_after_the_old_place_is_gone(
    recorded: Recorded, restored: Settings, tmp_path: Path
) -> None:
    old = Path(recorded.settings.state)
    old.rename(gone := old.with_name("gone"))
    try:
        store = open_store(restored)
        assert verify_store(store, restored).ok
        store.close()
        assert trace(restored, "flights@1").lineage == recorded.lineage
        version = champion(restored, "flights")
        assert version is not None
        load(download(restored, version, tmp_path), version.digest)
        Pipeline(recorded.case, restored, REPO).run(until="register")  # every step was made, and none is made again
        with pytest.raises(ConfigurationError, match="registered are: 1"):
            find_version(restored, "flights", 2)
        for file in (path for path in Path(restored.state).rglob("*") if path.is_file()):
            assert str(old).encode() not in file.read_bytes() or file.name.startswith("control_store"), file
    finally:
        gone.rename(old)


def again(recorded: Recorded, fresh: Settings, lineage: Lineage, case: UseCase | None = None) -> Reproduction:
    return reproduce(case or recorded.case, fresh, REPO, lineage)


def test_the_same_model_comes_from_the_raw_files_and_the_records(recorded: Recorded, fresh: Settings) -> None:
    found = again(recorded, fresh, read_lineage(fresh, "flights", 1)[1])
    assert found.difference is None
    assert found.exact
    compared = {"source file flights_2013-01.csv of flights", "snapshot", "training set", "metric roc_auc"}
    assert compared | {"sealed model.onnx", "sealed golden.json"} <= set(found.equal)


@pytest.mark.parametrize("name", ["delay", "outcome"])
def test_a_number_and_one_of_several_classes_are_reproduced(name: str, recorded: Recorded, tmp_path: Path) -> None:
    case, data = small(ROOT / "use_cases" / f"{name}.py"), recorded.settings.data
    first, second = (Settings(state=str(tmp_path / place), data=data) for place in ("first", "second"))
    Pipeline(case, first, REPO).run(until="register")
    lineage = read_lineage(first, name, 1)[1]
    found = reproduce(case, second, REPO, lineage)
    assert (found.difference, found.exact) == (None, True)
    assert {f"metric {case.metric}", "sealed model.onnx", "sealed golden.json"} <= set(found.equal)
    worse = {**lineage.evaluation, case.metric: {"value": lineage.evaluation[case.metric]["value"] * 1.02}}
    difference = reproduce(case, second, REPO, replace(lineage, evaluation=worse, lock_file="another")).difference
    assert difference is not None
    assert difference.name == f"metric {case.metric}"


def test_the_record_names_the_raw_files_and_the_trials(recorded: Recorded) -> None:
    found = trace(recorded.settings, "flights@1")
    assert len(found.lineage.source_files["flights"]) == 2
    assert [trial.trial_id for trial in found.lineage.trials] == ["gradient_boosting-000"]
    assert found.lineage.vulnerabilities["sentence"].startswith("Environment not audited: no advisories configured")
    assert [one.part for one in found.deployments] == ["champion"]
    shown = champion(recorded.settings, "flights")
    assert shown
    assert shown.version == 1


def test_a_changed_raw_file_is_named(recorded: Recorded, fresh: Settings, tmp_path: Path) -> None:
    shutil.copytree(recorded.settings.data, tmp_path / "data")
    changed = tmp_path / "data" / "weather_2013-01.csv"
    changed.write_text(changed.read_text().replace("39.02", "39.03", 1))
    elsewhere = fresh.model_copy(update={"data": str(tmp_path / "data")})
    difference = compare_inputs(recorded.case, elsewhere, REPO, recorded.lineage)
    assert difference is not None
    assert difference.name == "source file weather_2013-01.csv of weather"


def test_a_changed_parameter_is_found_by_its_effect(recorded: Recorded, fresh: Settings) -> None:
    parameters = {**recorded.lineage.parameters, "learning_rate": 0.2}
    difference = again(recorded, fresh, replace(recorded.lineage, parameters=parameters)).difference
    assert difference is not None
    assert difference.name.startswith("metric ")


def test_a_changed_declaration_is_named(recorded: Recorded, fresh: Settings) -> None:
    case = replace(recorded.case, split=replace(recorded.case.split, gap=timedelta(days=3)))
    difference = compare_inputs(case, fresh, REPO, recorded.lineage)
    assert difference is not None
    assert difference.name == "use case, split"


def test_a_changed_seed_is_named_and_found_by_its_effect(recorded: Recorded, fresh: Settings) -> None:
    case = replace(recorded.case, search=Search(trials_per_candidate=1, seed=14))
    difference = again(recorded, fresh, recorded.lineage, case).difference
    assert str(difference) == "use case, search seed: recorded 13, found 14"
    forged = replace(recorded.lineage, seed=14, declarations={**recorded.lineage.declarations, "search seed": "14"})
    difference = again(recorded, fresh, forged, case).difference
    assert difference is not None
    assert difference.name.startswith("sealed ")


def test_other_code_is_the_first_difference(recorded: Recorded, fresh: Settings) -> None:
    other = replace(recorded.lineage, code_version="0" * 40, code="1" * 64, snapshot="2" * 64)
    difference = compare_inputs(recorded.case, fresh, REPO, other)
    assert difference is not None
    assert difference.name == "code version"
    assert compare_inputs(recorded.case, fresh, REPO, other, any_code=True) is None


def test_after_an_erasure_it_is_said_what_cannot_be_the_same_and_why(recorded: Recorded, tmp_path: Path) -> None:
    """The last test: what was recorded is not whole afterwards."""
    person = Person.of("tailnum", "N14228")
    done = erase_person_from_data(recorded.settings, open_store(recorded.settings), SYSTEM, person, "request 17")
    assert done.rows["snapshots"] > 0 < done.rows["training_sets"]
    assert done.models == ("flights@1 (live)",)
    shutil.copytree(recorded.settings.data, tmp_path / "data")
    for file in (tmp_path / "data").iterdir():
        file.write_text("".join(line for line in file.read_text().splitlines(True) if person.value not in line))
    elsewhere = recorded.settings.model_copy(update={"data": str(tmp_path / "data")})
    difference = compare_inputs(recorded.case, elsewhere, REPO, recorded.lineage, any_code=True)
    assert difference is not None
    assert difference.name == "source file flights_2013-01.csv of flights"
    snapshot, training_set = done.rows["snapshots"], done.rows["training_sets"]
    since = erased_since(recorded.settings, recorded.lineage)
    with pytest.raises(IntegrityError, match=r"It cannot be the same: rows of a person \(tailnum\) were") as raised:
        refuse("flights@1", difference, since)
    assert f": {snapshot:,} of its snapshot, {training_set:,} of its training set." in str(raised.value)
