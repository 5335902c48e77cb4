"""The evidence folder: whole or not at all, and checked by the tools that its page names."""

import base64
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from sqlalchemy import insert, select

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings, load_settings
from mlops_ray.errors import ConfigurationError, IntegrityError
from mlops_ray.governance.anchors import anchor
from mlops_ray.governance.approvals import request
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.erasures import erase_person
from mlops_ray.governance.events import Actor, record
from mlops_ray.governance.tables import approvals
from mlops_ray.registry.bill_of_materials import document
from mlops_ray.registry.bundle import write_bundle
from mlops_ray.registry.model_signature import sign
from mlops_ray.registry.reports import attach_report
from mlops_ray.registry.sealed_model import seal
from mlops_ray.testing.example_lineage import AUTHOR, example_lineage, register_example
from mlops_ray.testing.example_model import example_answer, example_onnx, example_rows, example_schema
from mlops_ray.testing.signing_keys import with_signing_keys
from tests.anchoring import TimeStampServer, make_keys


@pytest.fixture
def settings(tmp_path: Path, store: ControlStore) -> Settings:
    """A version that is sealed, signed, registered and champion; anchors that are signed and stamped."""
    private, public = make_keys(tmp_path / "audit_keys")
    evidence_key, _ = make_keys(tmp_path / "evidence_keys")
    settings = with_signing_keys(
        load_settings(
            state=str(tmp_path / "state"),
            data=str(tmp_path / "data"),
            control_store=store.url,
            audit_anchors=str(tmp_path / "anchors.jsonl"),
            audit_key=f"file:{private}",
            audit_public_key=str(public),
            evidence_key=f"file:{evidence_key}",
        ),
        tmp_path / "model_keys",
    )
    sealed, bill = tmp_path / "sealed", document({"jinja2==2.11.2": []})
    answers = [example_answer(row) for row in example_rows().to_dicts()]
    digest = seal(sealed, example_onnx(), example_schema(), example_rows(), answers, {}, bill_of_materials=bill)
    sign(settings, sealed)
    Artifacts(settings.artifacts).upload(sealed, "sealed_models", "flights", digest)
    files = json.loads((sealed / "manifest.json").read_text())["files"]
    version = register_example(settings, store, replace(example_lineage("flights", digest), files=files), 1)
    set_champion(store, AUTHOR, "flights", version, "good\n# <script>alert(1)</script> é")
    return settings


def program(folder: Path) -> subprocess.CompletedProcess[str]:
    """What the page says to run."""
    found = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[0]
    return subprocess.run([sys.executable, "-c", found], cwd=folder, capture_output=True, text=True, check=False)


def openssl_verifies(public: Path | str, content: Path, signature: Path) -> bool:
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(public), "-rawin", "-in", str(content)]
    return subprocess.run([*command, "-sigfile", str(signature)], capture_output=True, check=False).returncode == 0


def test_public_tools_verify_all_of_it(settings: Settings, store: ControlStore, tmp_path: Path) -> None:
    server = TimeStampServer(tmp_path / "authority")
    stamping = {"audit_time_stamp_url": server.url, "audit_time_stamp_roots": str(server.roots)}
    settings = settings.model_copy(update=stamping)
    made = write_bundle(settings, "flights@1", tmp_path / "out", with_model=True)
    server.shutdown()
    subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=made, check=True)
    signature = tmp_path / "signature"
    signature.write_bytes(base64.b64decode((made / "SHA256SUMS.sig").read_bytes()))
    assert openssl_verifies(tmp_path / "evidence_keys/public.pem", made / "SHA256SUMS", signature)
    assert openssl_verifies(settings.audit_public_key, made / "anchor.txt", made / "anchor.sig")
    stamped = ["openssl", "ts", "-verify", "-data", "anchor.txt", "-in", "anchor.tsr", "-CAfile", str(server.roots)]
    subprocess.run(stamped, cwd=made, check=True)
    bill = (made / "bill_of_materials.json").read_text()
    validator = JsonStrictValidator(SchemaVersion.from_version(json.loads(bill)["specVersion"]))
    assert validator.validate_str(bill) is None
    assert json.loads(bill)["components"][-1]["type"] == "machine-learning-model"
    model = ["verify", "key", "model", "--signature", "model/model.sig"]
    model += ["--public_key", settings.model_signing_public_key]
    subprocess.run([sys.executable, "-m", "model_signing", *model], cwd=made, check=True)
    done = program(made)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    audit = json.loads((made / "audit.json").read_text())
    assert (audit["problem"], audit["not_anchored"]) == (None, [])


@pytest.mark.parametrize(
    ("file", "old", "new", "sentence"),
    [
        ("events.json", "good", "bad", "is not what was recorded"),
        ("anchor.txt", "root ", "root 0", "is not below the anchor"),
        ("proofs.json", "left", "right", "is not below the anchor"),
    ],
)
def test_the_program_of_the_page_finds_what_was_changed(
    settings: Settings, tmp_path: Path, file: str, old: str, new: str, sentence: str
) -> None:
    made = write_bundle(settings, "flights@1", tmp_path / "out")
    assert program(made).returncode == 0
    (made / file).write_text((made / file).read_text().replace(old, new, 1))
    done = program(made)
    assert done.returncode == 1
    assert sentence in done.stderr


def test_events_that_were_erased_and_those_without_an_anchor_are_in_it(
    settings: Settings, store: ControlStore, tmp_path: Path
) -> None:
    anchor(store, settings)
    erase_person(store, Actor("root", ("admin",), id="r"), AUTHOR.name, "request 17")
    made = write_bundle(settings, "flights@1", tmp_path / "out")
    assert f'"{AUTHOR.name}"' not in (made / "events.json").read_text()
    assert (program(made).returncode, program(made).stdout) == (0, "")
    (tmp_path / "audit_keys/private.pem").unlink()
    with store.transaction() as connection:
        event = record(connection, "gate.passed", AUTHOR, "flights@1", "flights")
    later = write_bundle(settings, "flights@1", tmp_path / "later")
    assert program(later).stdout == f"no proof yet: {event.seq}\n"
    assert json.loads((later / "audit.json").read_text())["not_anchored"][-1] == event.id


def test_every_approval_is_in_it_however_many_there_are(
    settings: Settings, store: ControlStore, tmp_path: Path
) -> None:
    request(store, AUTHOR, "flights", 1)
    with store.transaction() as connection:
        row = connection.execute(select(approvals)).mappings().one()
        connection.execute(insert(approvals), [dict(row) | {"id": f"{number}"} for number in range(1001)])
    made = write_bundle(settings, "flights@1", tmp_path / "out")
    assert len(json.loads((made / "approvals.json").read_text())) == 1002
    assert "no event tells of it" in json.loads((made / "audit.json").read_text())["problem"]


def test_a_report_is_in_it_as_it_was_attached(settings: Settings, store: ControlStore, tmp_path: Path) -> None:
    request(store, AUTHOR, "flights", 1)
    content = b"%PDF-1.7 what was found"
    (report,) = attach_report(settings, store, AUTHOR, "flights", 1, "what was found.pdf", content).reports
    made = write_bundle(settings, "flights@1", tmp_path / "out")
    assert (made / "reports" / report.digest).read_bytes() == content
    subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=made, check=True)
    (named,) = [one for asked in json.loads((made / "approvals.json").read_text()) for one in asked["reports"]]
    assert (named["name"], named["digest"]) == ("what was found.pdf", report.digest)
    Artifacts(settings.artifacts).write_bytes(b"another", "reports", "flights", report.digest)
    with pytest.raises(IntegrityError, match=r"what was found\.pdf of flights@1 has the digest"):
        write_bundle(settings, "flights@1", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_nothing_is_written_where_it_cannot_be_whole(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for version, target in (("flights@1", "there"), ("flights@9", "out"), ("../flights@1", "out")):
        with pytest.raises(ConfigurationError):
            write_bundle(settings, version, tmp_path / target)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".evidence-*"))
