"""The vulnerability gate: known-vulnerable packages and planted code are found, and what was not looked at says so."""

import json
import pickle
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, IntegrityError
from mlops_ray.evaluation.gates import Finding, Measured, judge
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import read_events
from mlops_ray.registry import advisories
from mlops_ray.registry.advisories import affected, audit, severity_of
from mlops_ray.registry.artifact_check import check_artifact, pickle_in, refuse_artifact
from mlops_ray.registry.bill_of_materials import bill_of_materials, document
from mlops_ray.registry.sealed_model import seal
from mlops_ray.registry.served_packages import FILE, SERVED_BY, other_packages, packages
from mlops_ray.registry.vulnerabilities import gate_findings, rescan, scan
from mlops_ray.tasks.binary import BINARY
from mlops_ray.testing.example_lineage import AUTHOR, example_lineage, register_example
from mlops_ray.testing.example_model import example_onnx, example_rows, example_schema, seal_example
from mlops_ray.use_case import NoVulnerability, Waiver

NOW = datetime(2026, 11, 1, tzinfo=UTC)
# An environment of one package, and the advisory that is against it.
OLD = document({"jinja2==2.11.2": []})
HIGH = "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:H"
LOW = "CVSS:4.0/AV:L/AC:H/AT:P/PR:H/UI:A/VC:L/VI:N/VA:N/SC:N/SI:N/SA:N"
ADVISORY: dict[str, Any] = {
    "id": "GHSA-test-0001",
    "modified": "2026-10-01T00:00:00Z",
    "aliases": ["CVE-2020-28493"],
    "summary": "Regular expression denial of service in Jinja2",
    "severity": [{"type": "CVSS_V3", "score": HIGH}],
    "affected": [
        {
            "package": {"ecosystem": "PyPI", "name": "Jinja2"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.11.3"}]}],
        }
    ],
}


def sealed(folder: Path, bill: Any = OLD) -> Path:
    seal_example(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][FILE] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / FILE).write_text(json.dumps(bill))
    return folder


def advisory_file(folder: Path, *records: Any) -> str:
    file = folder / "advisories.json"
    file.write_text(json.dumps(list(records)))
    return str(file)


def gate_of(*gates: NoVulnerability, folder: Path, source: str) -> tuple[bool, str]:
    findings = gate_findings(scan(folder, source), gates)
    (result,) = judge(gates, Measured(BINARY, evaluation=None, findings=findings), NOW)  # type: ignore[arg-type]
    return result.passed, result.sentence


def test_a_known_vulnerable_package_is_blocked_where_the_use_case_says_so(tmp_path: Path) -> None:
    folder, source = sealed(tmp_path / "sealed"), advisory_file(tmp_path, ADVISORY)
    found = scan(folder, source)
    assert "1 vulnerabilities in 1 packages (source: " in found.sentence
    assert "newest record 2026-10-01" in found.sentence
    assert gate_of(NoVulnerability("high"), folder=folder, source=source) == (
        False,
        "Vulnerable: GHSA-test-0001 (high) in jinja2 2.11.2.",
    )
    assert gate_of(NoVulnerability(), folder=folder, source=source)[0]  # by default it is only reported
    assert gate_of(NoVulnerability("critical"), folder=folder, source=source)[0]


@pytest.mark.parametrize("name", ["GHSA-test-0001", "CVE-2020-28493"])
def test_a_waiver_by_any_name_counts_until_its_end(name: str, tmp_path: Path) -> None:
    folder, source = sealed(tmp_path / "sealed"), advisory_file(tmp_path, ADVISORY)
    for until, passes in ((NOW + timedelta(days=1), True), (NOW, False)):
        gate = NoVulnerability("low", (Waiver(name, until, "templates are ours"),))
        assert gate_of(gate, folder=folder, source=source)[0] is passes


def test_an_environment_that_nobody_audited_never_passes_in_silence(tmp_path: Path) -> None:
    folder = sealed(tmp_path / "sealed")
    found = scan(folder, "")
    assert found.sentence.startswith("Environment not audited: no advisories configured")
    assert found.to_json()["environment"]["audited"] is False
    assert not gate_of(NoVulnerability("critical"), folder=folder, source="")[0]
    assert gate_of(NoVulnerability(), folder=folder, source="")[0]


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("weights.bin", pickle.dumps({"a": [1, 2]}), "pickle"),
        ("notes.json", pickle.dumps(Path("x")), "pickle"),
        ("notes.txt", b"cos\nsystem\n(S'true'\ntR.", "pickle"),
        ("model2.onnx", b"header" + pickle.dumps(np.float64(1)), "pickle"),
        ("deep/weights.json", b"{}" + pickle.dumps(Path("x"), protocol=0), "pickle"),
        ("weights.npz", b"PK\x03\x04 and so on", "compressed"),
        ("extra.json", b"{}", "unlisted"),
    ],
)
def test_planted_code_is_found_by_content_whatever_its_name(
    name: str, content: bytes, rule: str, tmp_path: Path
) -> None:
    folder = sealed(tmp_path / "sealed")
    assert check_artifact(folder) == ()
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    assert rule in {one.rule for one in check_artifact(folder) if one.file == name}
    with pytest.raises(IntegrityError, match="is refused"):
        refuse_artifact(folder)
    assert not gate_of(NoVulnerability(), folder=folder, source="")[0]


def test_a_link_and_a_foreign_operator_are_found(tmp_path: Path) -> None:
    folder = sealed(tmp_path / "sealed")
    (folder / "golden.json").unlink()
    (folder / "golden.json").symlink_to("/etc/hostname")
    (folder / "model.onnx").write_bytes(b"no onnx")
    assert {one.rule for one in check_artifact(folder)} == {"link", "operators"}


@given(st.binary(max_size=2000))
def test_bytes_that_import_nothing_are_no_pickle_unless_they_begin_as_one(content: bytes) -> None:
    assert pickle_in(b"\x00" + content) is None or b"\n" in content or b"\x93" in content


@budget(max_examples=30)
@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists), st.integers(0, 5))
def test_every_pickle_at_the_beginning_is_found(value: Any, protocol: int) -> None:
    assert pickle_in(pickle.dumps(value, protocol)) == 0


@pytest.mark.parametrize(
    ("changed", "severity"),
    [
        ({}, "high"),
        ({"severity": [{"type": "CVSS_V3", "score": HIGH.replace("C:N/I:N", "C:H/I:H")}]}, "critical"),
        ({"severity": [{"type": "CVSS_V4", "score": LOW}]}, "low"),
        ({"severity": [{"type": "CVSS_V3", "score": "x"}], "database_specific": {"severity": "MODERATE"}}, "medium"),
        ({"severity": [], "database_specific": {"severity": "LOW"}}, "low"),
        ({"severity": []}, "unknown"),
        ({"severity": None, "database_specific": {"severity": 7}}, "unknown"),
    ],
)  # fmt: skip
def test_severity_is_what_the_record_says_and_else_unknown(changed: Any, severity: str) -> None:
    assert severity_of(ADVISORY | changed)[0] == severity


@pytest.mark.parametrize(
    ("version", "hit"),
    [("2.11.2", True), ("2.11.3", False), ("2.11.3rc1", True), ("3.0", False), ("4.1", True), ("4.2", True),
     ("4.2.1", False), ("5.0", True), ("not a version", False)],
)  # fmt: skip
def test_versions_are_compared_as_python_orders_them(version: str, hit: bool) -> None:
    part = ADVISORY["affected"][0]
    later = {"type": "ECOSYSTEM", "events": [{"introduced": "4.1"}, {"last_affected": "4.2"}]}
    record = ADVISORY | {
        "affected": [
            {"package": part["package"], "versions": ["5.0"], "ranges": [*part["ranges"], later]},
            {"package": {"ecosystem": "npm", "name": "jinja2"}, "versions": [version]},
        ]
    }  # fmt: skip
    assert bool(affected({"jinja2": version}, [record])) is hit


def test_withdrawn_records_do_not_count_and_two_names_count_once() -> None:
    twin = ADVISORY | {"id": "PYSEC-2021-66", "aliases": ["GHSA-test-0001"], "severity": []}
    found = affected({"Jinja2": "2.11.2"}, [twin, ADVISORY, ADVISORY | {"id": "X", "aliases": [], "withdrawn": "2026"}])
    assert [(one.advisory, one.severity, one.fixed_in) for one in found] == [("GHSA-test-0001", "high", ("2.11.3",))]


def test_advisories_come_from_a_file_a_folder_json_lines_or_a_zip(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps(ADVISORY))
    (tmp_path / "lines.jsonl").write_text(f"{json.dumps(ADVISORY)}\n\n")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("GHSA-test-0001.json", json.dumps(ADVISORY))
    for source in ("one.json", "lines.jsonl", "all.zip", ""):
        assert len(audit({"jinja2": "2.11.2"}, str(tmp_path / source)).vulnerabilities) == 1


@pytest.mark.parametrize("content", ["", "[1]", '{"no": "id"}', "\0"])
def test_a_file_that_holds_no_advisories_is_an_error(content: str, tmp_path: Path) -> None:
    file = tmp_path / "advisories.json"
    file.write_text(content)
    for source in (file, tmp_path / "missing.json"):
        with pytest.raises(ConfigurationError, match="'advisories'"):
            audit({"jinja2": "2.11.2"}, str(source))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match="holds no"):
        audit({}, str(tmp_path / "empty"))


def test_pip_audit_that_fails_makes_an_audit_that_was_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advisories.sys, "executable", "/bin/false")
    found = audit({"jinja2": "2.11.2"}, "pypi")
    assert not found.audited
    assert found.why_not.startswith("pip-audit failed")


def pip_audit_that_answers(answer: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = folder / "python"
    script.write_text(f"#!/bin/sh\ncat <<'X'\n{json.dumps(answer)}\nX\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(advisories.sys, "executable", str(script))


def test_what_pip_audit_does_not_know_is_not_clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    skipped = {"name": "ours", "skip_reason": "not found"}
    clean = {"name": "jinja2", "version": "2.11.2", "vulns": []}
    pip_audit_that_answers({"dependencies": [skipped]}, tmp_path, monkeypatch)
    assert not audit({"ours": "1"}, "pypi").audited
    pip_audit_that_answers({"dependencies": [skipped, clean]}, tmp_path, monkeypatch)
    found = audit({"ours": "1", "jinja2": "2.11.2"}, "pypi")
    assert (found.audited, found.not_known) == (True, ("ours",))


def test_what_pip_audit_finds_without_severity_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found_by_it = {"id": "PYSEC-2021-66", "fix_versions": ["2.11.3"], "aliases": ["CVE-1"], "description": "ReDoS"}
    answer = {"dependencies": [{"name": "jinja2", "version": "2.11.2", "vulns": [found_by_it]}]}
    pip_audit_that_answers(answer, tmp_path, monkeypatch)
    monkeypatch.setattr(advisories, "_osv_record", lambda osv, advisory: None)
    (found,) = audit({"jinja2": "2.11.2"}, "pypi").vulnerabilities
    assert (found.advisory, found.severity, found.fixed_in) == ("PYSEC-2021-66", "unknown", ("2.11.3",))
    monkeypatch.setattr(advisories, "_osv_record", lambda osv, advisory: ADVISORY)
    assert audit({"jinja2": "2.11.2"}, "pypi").vulnerabilities[0].severity == "high"


def test_the_bill_is_the_same_each_time_and_closed_under_requirements() -> None:
    bill = bill_of_materials(("msgspec", "httpx", "no-such-package"))
    assert bill == bill_of_materials(("msgspec", "httpx", "no-such-package"))
    assert {"msgspec", "httpx", "httpcore", "h11", "certifi"} <= packages(bill).keys()
    assert "timestamp" not in bill["metadata"]
    known = {part["bom-ref"] for part in bill["components"]} | {"python"}
    assert {ref for one in bill["dependencies"] for ref in one.get("dependsOn", ())} <= known
    assert bill["bomFormat"] == "CycloneDX"


def test_seal_keeps_the_bill_and_its_digest(tmp_path: Path) -> None:
    from tests.unit.test_sealed_model import answers

    seal(tmp_path, example_onnx(), example_schema(), example_rows(), answers(), {}, bill_of_materials=OLD)
    assert json.loads((tmp_path / FILE).read_text()) == OLD
    assert FILE in json.loads((tmp_path / "manifest.json").read_text())["files"]


@pytest.fixture
def live(tmp_path: Path, store: ControlStore) -> Callable[..., Settings]:
    """Version 1 is live and was sealed with OLD; called with what was found at its registration."""

    def make(**vulnerabilities: Any) -> Settings:
        settings = Settings(state=str(tmp_path), data=str(tmp_path), advisories=advisory_file(tmp_path, ADVISORY))
        folder = sealed(tmp_path / "sealed")
        Artifacts(settings.artifacts).upload(folder, "sealed_models", "flights", "d" * 64)
        lineage = example_lineage(vulnerabilities={"sentence": "none"} | vulnerabilities)
        set_champion(store, AUTHOR, "flights", register_example(settings, store, lineage), "")
        return settings

    return make


def test_rescan_raises_an_event_once_for_what_is_new(live: Callable[..., Settings], store: ControlStore) -> None:
    settings = live()
    assert [one.new for one in rescan(settings, store)] == [("GHSA-test-0001 (high) in jinja2 2.11.2",)]
    assert [one.new for one in rescan(settings, store)] == [()]
    (event,) = read_events(store, types=["vulnerability.found"])
    assert (event.subject, event.severity) == ("flights@1", "critical")
    assert event.payload["vulnerabilities"][0]["aliases"] == ["CVE-2020-28493"]


def test_rescan_repeats_what_was_waived_when_the_waiver_ends(
    live: Callable[..., Settings], store: ControlStore
) -> None:
    seen = scan_json()
    settings = live(environment={"vulnerabilities": seen}, waivers={"CVE-2020-28493": NOW.isoformat()})
    assert rescan(settings, store, NOW - timedelta(days=1))[0].new == ()
    assert rescan(settings, store, NOW)[0].new != ()


def scan_json() -> Any:
    return [{"package": "jinja2", "advisory": "GHSA-test-0001", "aliases": ["CVE-2020-28493"]}]


def test_rescan_without_advisories_is_an_error(live: Callable[..., Settings], store: ControlStore) -> None:
    with pytest.raises(ConfigurationError, match="'advisories' is empty"):
        rescan(live().model_copy(update={"advisories": ""}), store)


def test_gates_hear_of_the_files_before_the_environment(tmp_path: Path) -> None:
    folder = sealed(tmp_path / "sealed")
    (folder / "x").write_bytes(pickle.dumps(1))
    findings = gate_findings(scan(folder, advisory_file(tmp_path, ADVISORY)), [NoVulnerability("low")])
    assert findings is not None
    assert findings[-1] == Finding("GHSA-test-0001", "jinja2 2.11.2", "high", "environment")
    assert {one.where for one in findings[:-1]} == {"artifact"}


def test_a_replica_with_other_packages_than_the_bill_says_which(tmp_path: Path) -> None:
    from tests.unit.test_sealed_model import answers

    bill = bill_of_materials()
    seal(tmp_path, example_onnx(), example_schema(), example_rows(), answers(), {}, bill_of_materials=bill)
    assert other_packages(tmp_path) == ()
    for part in bill["components"]:
        if part["name"] == "numpy":
            here, part["version"] = part["version"], "1.0.0"
    bill["components"] = [part for part in bill["components"] if part["name"] != "onnxruntime"]
    bill["components"].append({"name": "gone", "version": "3"})
    (tmp_path / FILE).write_text(json.dumps(bill))
    numpy, runtime = f"numpy {here} (sealed with 1.0.0)", f"onnxruntime {version('onnxruntime')} (sealed with none)"
    assert other_packages(tmp_path) == (numpy, runtime)
    (tmp_path / FILE).unlink()
    assert other_packages(tmp_path) == ()


def test_everything_that_replicas_import_is_a_root_of_the_bill() -> None:
    from packaging.requirements import Requirement

    from tests.unit.test_import_rules import PACKAGE, imported

    homes = {
        "jwt": "PyJWT",
        "sqlalchemy": "SQLAlchemy",
        "yaml": "PyYAML",
        "mlflow": "mlflow-skinny",
        "google": "protobuf",
        "model_signing": "model-signing",
        "polars_hash": "polars-hash",
        "opentelemetry": "opentelemetry-exporter-otlp-proto-http",
    }
    at_sealing_or_elsewhere = ("cvss", "cyclonedx", "packageurl", "apprise", "openlineage")
    by_who_anchors_the_audit_log = ("boto3", "botocore", "rfc3161_client")
    homes |= dict.fromkeys(at_sealing_or_elsewhere + by_who_anchors_the_audit_log, "")
    parts = ("serving", "predictions", "governance", "registry", "features", "config.py", "artifacts.py", "use_case")
    files = [file for part in parts for file in ([PACKAGE / part] if ".py" in part else (PACKAGE / part).rglob("*.py"))]
    import sys

    found = {module.split(".")[0] for file in files for module in imported(file)} - sys.stdlib_module_names
    wanted = {homes.get(name, name) for name in found} - {"mlops_ray", "", "__future__"}
    assert wanted <= {Requirement(root).name for root in SERVED_BY}
