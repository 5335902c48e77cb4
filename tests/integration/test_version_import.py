"""A version goes from one environment to another: as a whole, unchanged, and by the rules of where it comes to."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from mlops_ray.artifacts import Artifacts, digest_json
from mlops_ray.cli.main import app
from mlops_ray.config import Settings, load_settings
from mlops_ray.errors import ConfigurationError, ForbiddenError, IntegrityError, MlopsRayError, UseCaseError
from mlops_ray.features.definitions import Definitions, View, keep_definitions, load_definitions, project_of
from mlops_ray.features.transform import code_of
from mlops_ray.governance.approvals import approve, request
from mlops_ray.governance.audit import verify_store
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import Actor, read_events
from mlops_ray.governance.keys import create_key
from mlops_ray.governance.live import live
from mlops_ray.governance.signing_keys import signer_of
from mlops_ray.governance.versions import Evidence, VersionRef, list_versions, record_version
from mlops_ray.pipeline import import_version as importing
from mlops_ray.pipeline.admission import set_first_champion
from mlops_ray.pipeline.export_version import ORIGIN, export_version
from mlops_ray.pipeline.import_version import import_version
from mlops_ray.registry.bill_of_materials import document
from mlops_ray.registry.lineage import write_lineage
from mlops_ray.registry.sealed_model import files_of, seal
from mlops_ray.registry.signed_bundle import pack, unpack
from mlops_ray.registry.trace import trace
from mlops_ray.serving.preflight import preflight
from mlops_ray.testing.example_lineage import AUTHOR, example_lineage
from mlops_ray.testing.example_model import example_answer, example_onnx, example_requests, example_rows, example_schema
from mlops_ray.training.candidates import LogisticRegression
from mlops_ray.training.tracking import connect
from mlops_ray.use_case import (
    Approval,
    BetterThanChampion,
    Column,
    Gate,
    Label,
    Search,
    Source,
    Split,
    Threshold,
    UseCase,
)
from tests.anchoring import make_keys
from tests.unit.test_gates import EVALUATION

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


REPEATED = {name: pl.col(name) for name in ("carrier", "origin", "distance")}


def delays(tables: Any) -> pl.DataFrame:
    return pl.DataFrame(tables["departures"])


def use_case(*gates: Gate, **changed: Any) -> UseCase:
    hour = pl.col("departure").dt.convert_time_zone("America/New_York").dt.hour()
    columns = (
        Column("carrier", "text", pattern="[A-Z0-9]{2}"),
        Column("origin", "text", closed=True),
        Column("departure", "timestamp"),
        Column("distance", "number", nullable=True, minimum=0, maximum=10_000),
        Column("delay", "number", outcome=True),
        Column("known", "timestamp", outcome=True),
    )
    case = UseCase(
        name="departures",
        sources={"departures": Source("*.csv", columns, key=("carrier",), known_at=pl.col("known"))},
        entities=("carrier", "origin"),
        event_time="departure",
        lead_time=timedelta(hours=2),
        label=Label("late", pl.col("delay") > 10, pl.col("known")),
        request_features=REPEATED | {"hour": hour},
        candidates=(LogisticRegression(),),
        search=Search(trials_per_candidate=1),
        split=Split(test=timedelta(days=10), validation=timedelta(days=10)),
        feature_views={"delays": delays},
        feature_service="departures",
        gates=gates or (Threshold("roc_auc", 0.5),),
        approval=Approval(),
    )
    return replace(case, **changed)


VIEW = View("delays", ("carrier",), ("carrier",), ("recent_delay",), ("recent_delay",),
            {"carrier": "String", "recent_delay": "Float64"}, 3600.0, {})  # fmt: skip
DEFINITIONS = Definitions("departures", "1" * 64, (VIEW,), {}, {})


@dataclass(frozen=True)
class Code:
    view: str
    code: str


PROJECT = project_of(DEFINITIONS, [Code("delays", code_of(use_case(), "delays"))])


@pytest.fixture(scope="module")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow takes seconds to create its tables, so tests begin with a copy."""
    folder = tmp_path_factory.mktemp("mlflow")
    connect(Settings(state=str(folder), data=str(folder)))
    return folder / "mlflow.db"


@pytest.fixture(scope="module")
def staging(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An environment with version 4, sealed from the example, approved by bob; the versions before are of no matter."""
    folder = tmp_path_factory.mktemp("staging")
    private, _ = make_keys(folder / "keys")
    settings = load_settings(
        state=str(folder / "state"), data=str(folder), evidence_key=f"file:{private}",
        evidence_public_key=str(folder / "keys/public.pem"),
    )  # fmt: skip
    (folder / "state").mkdir()
    register_sealed(settings, 4)
    store = open_store(settings)
    request(store, AUTHOR, "departures", 4)
    approve(store, Actor("bob", ("approve",), id="bob"), "departures", 4, "looked at the slices")
    return settings


def register_sealed(settings: Settings, number: int, **evaluation: Any) -> None:
    folder, rows = Path(settings.state, f"sealed-{number}"), example_rows()
    answers = [example_answer(row) for row in rows.to_dicts()]
    schema, found = replace(example_schema(), feature_project=PROJECT), EVALUATION.to_json() | evaluation
    bill, requests = document({"jinja2==2.11.2": []}), example_requests()
    digest = seal(
        folder, example_onnx(), schema, rows, answers, found, bill_of_materials=bill, golden_requests=requests
    )
    artifacts = Artifacts(settings.artifacts)
    artifacts.upload(folder, "sealed_models", "departures", digest)
    keep_definitions(artifacts, PROJECT, DEFINITIONS)
    record = replace(example_lineage("departures", digest), files=files_of(folder), evaluation=found)
    payload = {"lineage": write_lineage(artifacts, record)}
    evidence = Evidence(digest, "b" * 64, "")
    record_version(open_store(settings), AUTHOR, "departures", number, evidence, payload=payload)


@pytest.fixture(scope="module")
def bundle(staging: Settings) -> Path:
    return export_version(staging, "departures@4", Path(staging.state, "out", "departures-4.bundle"))


@pytest.fixture
def production(tmp_path: Path, empty_mlflow: Path, staging: Settings) -> Settings:
    """An environment of several people: keys exist, so nothing approves itself."""
    (tmp_path / "state").mkdir()
    shutil.copy(empty_mlflow, tmp_path / "state/mlflow.db")
    return load_settings(
        state=str(tmp_path / "state"), data=str(tmp_path), evidence_public_key=staging.evidence_public_key
    )


@pytest.fixture
def ann(production: Settings, monkeypatch: pytest.MonkeyPatch) -> Actor:
    """Who imports; bob approves."""
    store = open_store(production)
    made = create_key(store, Actor("root", ("admin",), id="root"), "ann", ["operate"])
    monkeypatch.setenv("MLOPS_RAY_API_KEY", made.secret)
    return Actor("ann", ("operate",), id=made.principal.id)


def test_a_version_arrives_whole_and_waits_for_who_approves_here(
    production: Settings, staging: Settings, bundle: Path, ann: Actor
) -> None:
    found = import_version(use_case(), production, bundle)
    store, ref = open_store(production), VersionRef(found.version, found.origin.model)
    assert (found.version, found.origin.version, found.origin.author) == (1, 4, AUTHOR.name)
    assert [one.decided_by for one in found.origin.approvals] == ["bob"]
    assert (found.admission.champion, live(store, "departures").champion) == (False, None)
    assert found.admission.approval is not None
    assert found.admission.approval.state == "requested"
    with pytest.raises(ForbiddenError):  # who brought it is its author here
        approve(store, Actor("ann", ("operate", "approve"), id=ann.id), "departures", 1, "mine")
    approve(store, Actor("carol", ("approve",), id="carol"), "departures", 1, "seen")
    set_first_champion(store, ann, "departures", ref, "begin")
    assert [(one.problem, one.golden_requests) for one in preflight(store, production, "departures")] == [(None, 3)]
    assert verify_store(store, production).problem is None
    there, here = trace(staging, "departures@4"), trace(production, "departures@1")
    assert (there.record, there.lineage) == (here.record, here.lineage)
    assert here.registered["payload"]["imported"]["approvals"][0]["reason"] == "looked at the slices"
    assert load_definitions(Artifacts(production.artifacts), PROJECT) == DEFINITIONS
    kept = Artifacts(production.artifacts).read_bytes("bundles", "departures", f"{found.bundle}.bundle")
    assert kept == bundle.read_bytes()
    assert "evidence/SHA256SUMS.sig" in unpack(kept, signer(staging).public())


def signer(settings: Settings) -> Any:
    return signer_of("evidence_key", settings.evidence_key)


def test_twice_and_at_once_is_one_version_and_a_number_that_exists_is_not_taken(
    production: Settings, bundle: Path, ann: Actor
) -> None:
    register_sealed(production, 1, salt=1)
    register_sealed(production, 4, salt=4)  # of another model, and the number that the bundle's had where it was made
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: import_version(use_case(), production, bundle), range(2)))
    again = import_version(use_case(), production, bundle)
    assert {one.version for one in (*found, again)} == {2}
    store = open_store(production)
    assert [one.version for one in list_versions(store, "departures")] == [1, 2, 4]
    assert len(read_events(store, types=["approval.requested"])) == 1


@pytest.mark.parametrize("at", ["keep_definitions", "scan", "adopted_run", "register", "admit"])
def test_who_is_killed_leaves_no_half_and_the_next_finishes(
    production: Settings, bundle: Path, ann: Actor, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: Any, **__: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(importing, at, die)
        with pytest.raises(Killed):
            import_version(use_case(), production, bundle)
    store = open_store(production)
    assert list_versions(store, "departures") == []
    assert import_version(use_case(), production, bundle).version == 1
    assert len(connect(production).search_model_versions("name = 'departures'")) == 1


@dataclass(frozen=True)
class Remade:
    """The bundle with some of its files replaced, signed again by the trusted key."""

    staging: Settings
    bundle: Path

    def __call__(self, target: Path, **changed: bytes | None) -> Path:
        ours = signer(self.staging)
        files: dict[str, bytes | None] = {**unpack(self.bundle.read_bytes(), ours.public())}
        files |= {name.replace("__", "/").replace("_json", ".json"): content for name, content in changed.items()}
        target.write_bytes(pack({name: content for name, content in files.items() if content is not None}, ours))
        return target

    def origin(self, target: Path, **changed: Any) -> Path:
        files = unpack(self.bundle.read_bytes(), signer(self.staging).public())
        return self(target, origin_json=json.dumps(json.loads(files[ORIGIN]) | changed).encode())


@pytest.fixture
def remade(staging: Settings, bundle: Path) -> Remade:
    return Remade(staging, bundle)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda remade, to: remade(to, lineage_json=None), "lacks lineage.json"),
        (lambda remade, to: remade(to, lineage_json=b"{}"), "not complete"),
        (lambda remade, to: remade(to, lineage_json=b"{"), "is not JSON"),
        (lambda remade, to: remade(to, definitions_json=None), "lacks definitions.json"),
        (lambda remade, to: remade(to, definitions_json=b"{}"), "not what this release expects"),
        (lambda remade, to: remade(to, origin_json=b"[]"), "not what this release expects"),
        (lambda remade, to: remade(to, model__schema_json=b"{}"), "was sealed with"),
        (lambda remade, to: remade(to, model__manifest_json=b'{"files": {}}'), "refused"),
        (lambda remade, to: remade(to, **{"model__model.onnx": None}), "cannot be read"),
        (lambda remade, to: remade(to, **{"model__run.pkl": b"\x80\x04c_os\nsystem\n."}), "refused"),
        (lambda remade, to: remade(to, **{"model__deep__file": b""}), "no file of a sealed model"),
        (lambda remade, to: remade.origin(to, use_case="arrivals"), "bundle is of arrivals"),
        (lambda remade, to: remade.origin(to, model="a" * 64), "lineage record is not that of its model"),
        (lambda remade, to: remade.origin(to, feature_project="other"), "code of the feature views"),
        (lambda remade, to: remade.origin(to, feature_project=None), "is not the one"),
        (lambda remade, to: remade.origin(to, version="four"), "not what this release expects"),
    ],
)
def test_what_does_not_belong_together_is_refused_though_a_trusted_key_signed_it(
    production: Settings, remade: Remade, ann: Actor, tmp_path: Path, make: Callable[[Remade, Path], Path], said: str
) -> None:
    made = make(remade, tmp_path / "made.bundle")
    with pytest.raises(MlopsRayError, match=said):
        import_version(use_case(), production, made)
    assert list_versions(open_store(production), "departures") == []
    assert Artifacts(production.artifacts).entries("sealed_models") == []


def other_delays(tables: Any) -> pl.DataFrame:
    return pl.DataFrame(tables["departures"]).head(1)


def columns(**changed: Any) -> dict[str, Source]:
    source = use_case().sources["departures"]
    made = [replace(one, **changed) if one.name == "distance" else one for one in source.columns]
    return {"departures": replace(source, columns=tuple(made))}


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (use_case(name="arrivals"), "bundle is of departures, and the use case here is arrivals"),
        (use_case(sources=columns(type="text", minimum=None, maximum=None)), "column distance"),
        (use_case(sources=columns(personal="omit")), r"column distance: \('number', None\) there, .*'omit'\) here"),
        (use_case(lead_time=timedelta(hours=1)), "lead_time_s: 7200.0 there, 3600.0 here"),
        (
            use_case(request_features=REPEATED),
            "hour: True there, False here",
        ),
        (use_case(feature_views={"weather": delays}), "feature view 'delays', which departures does not compute here"),
        (use_case(feature_views={"delays": other_delays}), f"nothing here would fill its features \\({PROJECT}\\)"),
    ],
)
def test_a_use_case_that_is_another_here_is_told_what_differs(
    production: Settings, bundle: Path, ann: Actor, case: UseCase, said: str
) -> None:
    with pytest.raises(UseCaseError, match=said):
        import_version(case, production, bundle)
    assert list_versions(open_store(production), "departures") == []


def test_without_a_trusted_key_a_role_or_a_bundle_nothing_is_taken_in(
    production: Settings, bundle: Path, ann: Actor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = production.model_copy(update={"evidence_public_key": ""})
    with pytest.raises(ConfigurationError, match="Set evidence_public_key"):
        import_version(use_case(), nobody, bundle)
    _, other = make_keys(tmp_path / "other")
    with pytest.raises(IntegrityError, match="trusted are"):
        import_version(use_case(), production.model_copy(update={"evidence_public_key": str(other)}), bundle)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        import_version(use_case(), production, tmp_path / "nowhere")
    for damaged in (bundle.read_bytes()[:-1], b"", bundle.read_bytes() + b" "):
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(IntegrityError):
            import_version(use_case(), production, tmp_path / "damaged")
    monkeypatch.delenv("MLOPS_RAY_API_KEY")
    with pytest.raises(ForbiddenError, match="needs the role 'operate'"):
        import_version(use_case(), production, bundle)


def test_gates_are_those_of_here(production: Settings, bundle: Path, ann: Actor) -> None:
    found = import_version(use_case(Threshold("roc_auc", 0.999)), production, bundle)
    assert "did not pass" in found.admission.standing
    assert list_versions(open_store(production), "departures")[0].failed_gates != ()


def test_a_comparison_counts_where_the_champion_is_the_one_it_was_made_with(
    production: Settings, remade: Remade, ann: Actor, tmp_path: Path
) -> None:
    rules, store = use_case(BetterThanChampion(), approval=None), open_store(production)
    register_sealed(production, 1, salt=1)
    champion = set_first_champion(store, ann, "departures", list_versions(store, "departures")[0].ref, "first").champion
    assert champion is not None
    plain = import_version(rules, production, remade(tmp_path / "plain"))
    assert "compared with none" in plain.admission.gates[0].sentence
    estimate = {"value": 0.1, "low": 0.05, "high": 0.15}
    compared = {"metric": "roc_auc", "challenger": 0.8, "champion": 0.7, "difference": estimate, "rows": 9, "days": 9}
    told = {"comparisons": {"roc_auc": compared}, "compared_with": champion.digest}
    found = import_version(rules, production, remade.origin(tmp_path / "told", **told))
    assert (found.version, found.admission.gates[0].passed) == (3, True)


def test_what_cannot_be_exported_says_why(staging: Settings, tmp_path: Path) -> None:
    for version, changed, said in (
        ("departures@4", {"evidence_key": ""}, "A bundle is signed, and there is no key"),
        ("departures@9", {}, "has no version 9"),
        ("flights", {}, "does not name a version"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            export_version(staging.model_copy(update=changed), version, tmp_path / "out")
    (tmp_path / "there").write_text("mine")
    with pytest.raises(ConfigurationError, match="exists already"):
        export_version(staging, "departures@4", tmp_path / "there")
    assert [file.name for file in tmp_path.iterdir()] == ["there"]


def test_no_value_of_a_personal_column_leaves_with_a_version(staging: Settings, tmp_path: Path) -> None:
    settings = staging.model_copy(update={"state": str(tmp_path), "control_store": f"sqlite:///{tmp_path}/c.db"})
    settings = settings.model_copy(update={"artifacts": str(tmp_path / "artifacts")})
    personal = replace(example_schema(), feature_project=PROJECT)
    columns = (replace(personal.request_columns[0], personal="hash"), *personal.request_columns[1:])
    with pytest.MonkeyPatch.context() as other:
        other.setitem(globals(), "example_schema", lambda: replace(personal, request_columns=columns))
        register_sealed(settings, 1, slices={"judged": [], "left_out": [["carrier=ZZ", 3]], "counts": []})
    with pytest.raises(ConfigurationError, match="values of carrier, which tells of a person"):
        export_version(settings, "departures@1", tmp_path / "out.bundle")


def test_the_commands_say_what_was_there_and_what_comes_next(
    production: Settings, staging: Settings, ann: Actor, tmp_path: Path
) -> None:
    (tmp_path / "staging.yaml").write_text(staging.model_dump_json())
    (tmp_path / "production.yaml").write_text(production.model_dump_json())
    file = tmp_path / "departures.py"
    file.write_text("from tests.integration.test_version_import import use_case as made\n\nuse_case = made()\n")
    run, out = CliRunner().invoke, str(tmp_path / "made.bundle")
    done = run(app, ["versions", "export", "departures@4", "--to", out, "--config", str(tmp_path / "staging.yaml")])
    assert done.exit_code == 0, done.output
    assert "versions import made.bundle departures" in done.output
    done = run(app, ["versions", "import", out, str(file), "--config", str(tmp_path / "production.yaml")])
    assert done.exit_code == 0, done.output
    for said in ("departures@4 of ada", "It is departures@1 here", "approved by bob: looked at the slices",
                 "waits for an approval", "features refresh"):  # fmt: skip
        assert said in done.output
    done = run(app, ["lineage", "departures@1", "--config", str(tmp_path / "production.yaml")])
    assert "brought from another environment, where it was departures@4 of ada; bundle " in done.output


def test_what_a_newer_release_wrote_is_left_to_it(
    production: Settings, staging: Settings, bundle: Path, remade: Remade, ann: Actor, tmp_path: Path
) -> None:
    files = unpack(bundle.read_bytes(), signer(staging).public())
    more = json.loads(files["lineage.json"]) | {"carbon": "3 g"}
    origin = json.loads(files[ORIGIN]) | {"lineage": digest_json(more), "framework": "9.0.0", "added": True}
    made = remade(tmp_path / "newer", lineage_json=json.dumps(more).encode(), origin_json=json.dumps(origin).encode())
    with pytest.raises(IntegrityError, match=r"says more than this release .* made by 9\.0\.0"):
        import_version(use_case(), production, made)
    (tmp_path / "format").write_bytes(bundle.read_bytes().replace(b"bundle 1 ", b"bundle 2 ", 1))
    with pytest.raises(IntegrityError, match="format 2"):
        import_version(use_case(), production, tmp_path / "format")
