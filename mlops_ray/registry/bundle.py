"""The evidence folder: what stands behind a version, in files that an auditor checks with public tools."""

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, IntegrityError, UnavailableError
from mlops_ray.governance.alarms import alarms_of
from mlops_ray.governance.anchors import anchor
from mlops_ray.governance.approvals import list_approvals
from mlops_ray.governance.audit import verify_store
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.events import Event
from mlops_ray.governance.excerpt import read_excerpt
from mlops_ray.governance.signing_keys import signer_of
from mlops_ray.governance.versions import VersionRef
from mlops_ray.registry.model_card import markdown_card
from mlops_ray.registry.models import download_sealed
from mlops_ray.registry.reports import read_report
from mlops_ray.registry.trace import Trace, parse_version, trace

BILL = "bill_of_materials.json"
_ABOUT = ("alarm.", "retraining.")  # events of the endpoint, whose subject is no version
_PAGE = """# How to check this folder

- Every file: `sha256sum -c SHA256SUMS`
- The signature, if `SHA256SUMS.sig` is here, with the public key from its owner (not from this folder):
  `base64 -d SHA256SUMS.sig > /tmp/sig; openssl pkeyutl -verify -pubin -inkey evidence_public_key.pem -rawin
  -in SHA256SUMS -sigfile /tmp/sig`
- `bill_of_materials.json`, if it is here: `cyclonedx validate --input-file bill_of_materials.json`. It is the sealed
  document with the model added as a component; the sealed one's digest is in `lineage.json` under `files`.
- The sealed model, if `model` is here: the SHA-256 of its files is in `lineage.json`, too. Who sealed it:
  `model_signing verify key model --signature model/model.sig --public_key model_public_key.pem`
- `reports`, if it is here: what was attached to an approval, by its SHA-256; `approvals.json` has its name.
- `audit.json`: what `mlops-ray audit verify` said when this folder was written, and what it would not have found.

## The events

`events.json` has events as they were recorded, each with the salt of its texts (a text that tells of a person may have
been erased: then there is its digest). `proofs.json` leads from each of them to the root of a Merkle tree (RFC 6962)
over all events, which `anchor.txt` names. The program below checks that, with Python alone. Events that were recorded
after that anchor have no proof yet and are named; write the folder again to have one.

```python
import hashlib, json
sha = lambda content: hashlib.sha256(content).hexdigest()
def below(salt, name):
    return sha(f"{salt}/{name}".encode()) if isinstance(salt, str) else salt[name]
def covered(value, salt):
    if isinstance(salt, str) and salt.startswith("sha256:"): return salt
    if isinstance(value, str): return "sha256:" + sha((salt + value).encode())
    if isinstance(value, dict): return {name: covered(part, below(salt, name)) for name, part in value.items()}
    if isinstance(value, list): return [covered(part, below(salt, str(place))) for place, part in enumerate(value)]
    return value
root = dict(line.split() for line in open("anchor.txt").read().splitlines()[1:])["root"]
proofs, left = json.load(open("proofs.json")), json.load(open("erased.json"))
for event in json.load(open("events.json")):
    salt, fields = event.pop("salt"), {name: value for name, value in event.items() if name != "hash"}
    if salt: fields |= {name: covered(fields[name], below(salt, name)) for name in
                        ("actor", "actor_id", "subject", "reason", "before", "after", "payload")} | {"format": 2}
    elif fields["actor_id"] is None: del fields["actor_id"]  # as it was before there were ids
    number = str(event["seq"])
    found = sha(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode())
    assert found == left.get(number, event["hash"]), f"event {number} is not what was recorded"
    if number not in proofs: print("no proof yet:", number); continue
    node = bytes.fromhex(sha(b"\\0" + bytes.fromhex(event["hash"])))
    for side, beside in proofs[number]:
        beside = bytes.fromhex(beside)
        node = hashlib.sha256(b"\\1" + (beside + node if side == "left" else node + beside)).digest()
    assert node.hex() == root, f"event {number} is not below the anchor"
```

## The anchor

It is what `anchor.txt` says, and worth what stands behind it: compare it with the second place, and check

- who signed it, with the public key from its owner: `openssl pkeyutl -verify -pubin -inkey audit_public_key.pem -rawin
  -in anchor.txt -sigfile anchor.sig`
- when, with the certificates of the server of time stamps: `openssl ts -verify -data anchor.txt -in anchor.tsr
  -CAfile roots.pem`

What is not here (`anchor.sig`, `anchor.tsr`) there is not.
"""


def write_bundle(
    settings: Settings, version: str, target: Path, key: str | None = None, with_model: bool = False
) -> Path:
    """Write the folder `target` about a version such as "flights@7", whole or not at all.

    key: where the private Ed25519 key stands that signs SHA256SUMS, by default the setting `evidence_key`. with_model:
    the sealed model, too. What happened last is anchored before, so that it has a proof. Raises ConfigurationError if
    the target exists, the key is of another kind or there is no such version, IntegrityError if a report that was
    attached is gone or another.
    """
    use_case, number = parse_version(version)
    if os.path.lexists(target):
        raise ConfigurationError(f"{target} exists already. Name a folder that does not.")
    reference = key or settings.evidence_key
    signer = signer_of("evidence_key", reference) if reference else None
    found = trace(settings, version)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(mkdtemp(prefix=".evidence-", dir=target.parent))
    try:
        store = open_store(settings)
        try:
            with suppress(UnavailableError, ConfigurationError):  # then audit.json says what has no anchor
                anchor(store, settings)
            parts = dict(_parts(settings, store, found, use_case, number))
        finally:
            store.close()
        for name, value in parts.items():
            (folder / name).parent.mkdir(exist_ok=True)
            _write(folder / name, value)
        _write_sealed(settings, found, folder, with_model)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        sums = "".join(f"{_sha256(file.read_bytes())}  {file.relative_to(folder)}\n" for file in files).encode()
        (folder / "SHA256SUMS").write_bytes(sums)
        if signer:
            (folder / "SHA256SUMS.sig").write_bytes(base64.encodebytes(signer.sign(sums)))
        folder.rename(target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return target


def _write(file: Path, value: Any) -> None:
    """Bytes and texts as they are, all else as JSON."""
    if not isinstance(value, bytes | str):
        value = json.dumps(value, indent=1, sort_keys=True, default=str) + "\n"
    file.write_bytes(value.encode() if isinstance(value, str) else value)


def _parts(
    settings: Settings, store: ControlStore, found: Trace, use_case: str, number: int
) -> Iterator[tuple[str, Any]]:
    excerpt = read_excerpt(store, lambda event: _is_about(event, use_case, number))
    about = [event.to_record() for event in excerpt.events]
    approvals = list_approvals(store, use_case, limit=None)
    yield "README.md", _PAGE
    yield "model_card.md", markdown_card(found)
    yield "lineage.json", found.lineage.to_json()
    yield "evaluation.json", found.lineage.evaluation
    yield "gates.json", found.gates
    asked = [one for one in approvals if one.version == number]
    yield "approvals.json", [asdict(one) for one in asked]
    for digest in sorted({report.digest for one in asked for report in one.reports}):
        yield f"reports/{digest}", read_report(settings, store, use_case, number, digest)
    yield "deployments.json", [asdict(one) for one in found.deployments]
    yield "rollouts.json", [one for one in about if one["type"].startswith("rollout.")]
    yield "alarms.json", [asdict(one) for one in alarms_of(store, use_case) if one.version == number]
    yield "retrainings.json", [one for one in about if one["type"].startswith("retraining.")]
    yield "events.json", about
    yield "erased.json", excerpt.left
    yield "proofs.json", excerpt.proofs
    if excerpt.anchor is not None:
        yield "anchor.txt", excerpt.anchor.message
        for name, value in (("anchor.sig", excerpt.anchor.signature), ("anchor.tsr", excerpt.anchor.time_stamp)):
            if value is not None:
                yield name, base64.b64decode(value)
    yield "audit.json", asdict(verify_store(store, settings))


def _is_about(event: Event, use_case: str, number: int) -> bool:
    """Of the version itself, or of the endpoint that it may have served: too much rather than too little."""
    if event.use_case != use_case:
        return False
    return event.subject == f"{use_case}@{number}" or (event.type.startswith(_ABOUT) and "@" not in event.subject)


def _write_sealed(settings: Settings, found: Trace, folder: Path, with_model: bool) -> None:
    """The sealed model, or of it the bill of materials alone, with the model as a component."""
    made = found.lineage
    if BILL not in made.files and not with_model:
        return
    scratch = Path(mkdtemp(prefix="mlops-ray-evidence-"))
    try:
        sealed = download_sealed(settings, found.use_case, VersionRef(found.version, made.digest), scratch)
        if BILL in made.files:
            content = (sealed / BILL).read_bytes()
            if _sha256(content) != made.files[BILL]:
                raise IntegrityError(f"{BILL} of {found.use_case}@{found.version} is not what was sealed.")
            _write(folder / BILL, _with_model(json.loads(content), found))
        if with_model:
            shutil.copytree(sealed, folder / "model")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _with_model(bill: Mapping[str, Any], found: Trace) -> Mapping[str, Any]:
    model = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": found.use_case,
        "version": str(found.version),
        "hashes": [{"alg": "SHA-256", "content": found.lineage.digest}],
    }
    return {**bill, "components": [*bill.get("components", []), model]}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
