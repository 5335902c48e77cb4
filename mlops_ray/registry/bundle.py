"""The evidence folder: what stands behind a version, in files that an auditor checks with public tools."""

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, IntegrityError
from mlops_ray.governance.alarms import alarms_of
from mlops_ray.governance.approvals import list_approvals
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.events import Event, read_events
from mlops_ray.governance.versions import VersionRef
from mlops_ray.registry.model_card import markdown_card
from mlops_ray.registry.models import download_sealed
from mlops_ray.registry.trace import Trace, parse_version, trace

BILL = "bill_of_materials.json"
_ABOUT = ("alarm.", "retraining.")  # events of the endpoint, whose subject is no version
_PAGE = """# How to check this folder

- Every file: `sha256sum -c SHA256SUMS`
- The signature, if `SHA256SUMS.sig` is here, with the public key from its owner (not from this folder):
  `base64 -d SHA256SUMS.sig > /tmp/sig; openssl pkeyutl -verify -pubin -inkey public.pem -rawin -in SHA256SUMS
  -sigfile /tmp/sig`
- `bill_of_materials.json`, if it is here: `cyclonedx validate --input-file bill_of_materials.json`. It is the sealed
  document with the model added as a component; the sealed one's digest is in `lineage.json` under `files`.
- The audit excerpt, with Python alone: `events.json` has whole events, `chain.json` the hash of every event by number.
  What lies between the events of the excerpt is named by its hash only: compare the last hash with an anchor kept
  outside.

```python
import hashlib, json
chain = json.load(open("chain.json"))
for event in json.load(open("events.json")):
    covered = {name: value for name, value in event.items() if name != "hash"}
    if covered["actor_id"] is None:
        del covered["actor_id"]
    text = json.dumps(covered, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == event["hash"] == chain[str(event["seq"])], event["seq"]
    assert event["previous_hash"] == chain.get(str(event["seq"] - 1), "0" * 64), event["seq"]
```
"""


def write_bundle(settings: Settings, version: str, target: Path, key: Path | None = None) -> Path:
    """Write the folder `target` about a version such as "flights@7", whole or not at all.

    key: a private Ed25519 key (PEM) that signs SHA256SUMS. Raises ConfigurationError if the target exists, the key is
    of another kind or there is no such version.
    """
    use_case, number = parse_version(version)
    if os.path.lexists(target):
        raise ConfigurationError(f"{target} exists already. Name a folder that does not.")
    signer = _signer(key) if key else None
    found = trace(settings, version)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(mkdtemp(prefix=".evidence-", dir=target.parent))
    try:
        store = open_store(settings)
        try:
            parts = dict(_parts(store, found, use_case, number))
        finally:
            store.close()
        for name, value in parts.items():
            text = value if isinstance(value, str) else json.dumps(value, indent=1, sort_keys=True, default=str) + "\n"
            (folder / name).write_text(text, encoding="utf-8")
        if BILL in found.lineage.files:
            (folder / BILL).write_text(json.dumps(_bill(settings, found), indent=1))
        sums = "".join(f"{_sha256(file.read_bytes())}  {file.name}\n" for file in sorted(folder.iterdir())).encode()
        (folder / "SHA256SUMS").write_bytes(sums)
        if signer:
            (folder / "SHA256SUMS.sig").write_bytes(base64.encodebytes(signer.sign(sums)))
        folder.rename(target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return target


def _parts(store: ControlStore, found: Trace, use_case: str, number: int) -> Iterator[tuple[str, Any]]:
    events = _all_events(store)
    about = [event.to_json() for event in events if _is_about(event, use_case, number)]
    yield "README.md", _PAGE
    yield "model_card.md", markdown_card(found)
    yield "lineage.json", found.lineage.to_json()
    yield "evaluation.json", found.lineage.evaluation
    yield "gates.json", found.gates
    yield "approvals.json", [asdict(one) for one in list_approvals(store, use_case) if one.version == number]
    yield "deployments.json", [asdict(one) for one in found.deployments]
    yield "rollouts.json", [one for one in about if one["type"].startswith("rollout.")]
    yield "alarms.json", [asdict(one) for one in alarms_of(store, use_case) if one.version == number]
    yield "retrainings.json", [one for one in about if one["type"].startswith("retraining.")]
    yield "events.json", about
    yield "chain.json", {str(event.seq): event.hash for event in events}


def _all_events(store: ControlStore) -> list[Event]:
    found: list[Event] = []
    while page := read_events(store, found[-1].seq if found else 0):
        found += page
    return found


def _is_about(event: Event, use_case: str, number: int) -> bool:
    """Of the version itself, or of the endpoint that it may have served: too much rather than too little."""
    if event.use_case != use_case:
        return False
    return event.subject == f"{use_case}@{number}" or (event.type.startswith(_ABOUT) and "@" not in event.subject)


def _bill(settings: Settings, found: Trace) -> Mapping[str, Any]:
    made = found.lineage
    scratch = Path(mkdtemp(prefix="mlops-ray-evidence-"))
    try:
        sealed = download_sealed(settings, found.use_case, VersionRef(found.version, made.digest), scratch)
        content = (sealed / BILL).read_bytes()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if _sha256(content) != made.files[BILL]:
        raise IntegrityError(f"{BILL} of {found.use_case}@{found.version} is not what was sealed.")
    bill: dict[str, Any] = json.loads(content)
    model = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": found.use_case,
        "version": str(found.version),
    }
    hashes = [{"alg": "SHA-256", "content": made.digest}]
    return bill | {"components": [*bill.get("components", []), model | {"hashes": hashes}]}


def _signer(key: Path) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        signer = load_pem_private_key(key.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(f"The key {key} cannot be read: {type(error).__name__}.") from None
    if not isinstance(signer, Ed25519PrivateKey):
        raise ConfigurationError(f"The key {key} is not Ed25519. Make one: openssl genpkey -algorithm ed25519.")
    return signer


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
