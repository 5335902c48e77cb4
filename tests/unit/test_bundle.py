"""The evidence folder: whole or not at all, and checked by the tools that its page names."""

import base64
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.registry.bundle import write_bundle
from mlops_ray.testing.example_lineage import AUTHOR, example_lineage, register_example


@pytest.fixture
def settings(tmp_path: Path, store: ControlStore) -> Settings:
    settings = Settings(state=str(tmp_path), data=str(tmp_path / "data"))
    version = register_example(settings, store, replace(example_lineage(), files={"model.onnx": "0" * 64}), 1)
    set_champion(store, AUTHOR, "flights", version, "good\n# <script>alert(1)</script> é")
    return settings


def test_public_tools_verify_files_signature_and_chain(settings: Settings, tmp_path: Path) -> None:
    key, public, signature = tmp_path / "key.pem", tmp_path / "public.pem", tmp_path / "signature"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True)
    made = write_bundle(settings, "flights@1", tmp_path / "out", key)
    subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=made, check=True)
    signature.write_bytes(base64.b64decode((made / "SHA256SUMS.sig").read_bytes()))
    verify = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in", made / "SHA256SUMS"]
    subprocess.run([*verify, "-sigfile", signature], check=True)
    program = re.findall(r"```python\n(.*?)```", (made / "README.md").read_text(), re.S)[0]
    subprocess.run([sys.executable, "-c", program], cwd=made, check=True)
    changed = (made / "events.json").read_text().replace("good", "bad")
    (made / "events.json").write_text(changed)
    assert subprocess.run([sys.executable, "-c", program], cwd=made, capture_output=True).returncode == 1
    assert json.loads((made / "approvals.json").read_text()) == []


def test_nothing_is_written_where_it_cannot_be_whole(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for version, target in (("flights@1", "there"), ("flights@9", "out"), ("../flights@1", "out")):
        with pytest.raises(ConfigurationError):
            write_bundle(settings, version, tmp_path / target)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".evidence-*"))
