"""A whole system with secrets that can be recognised: they are in no file but where the docs say, and no file is open
to others."""

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import polars as pl
import psutil
import pytest
import yaml

from mlops_ray.client import Client
from mlops_ray.serving.environment import haproxy_folder
from tests.pipeline_run import ROOT, SMALL, SMALL_AS_OF, command, kill_group, pipeline_command, run, write_small_data
from tests.unit.test_auth import AUDIENCE, ISSUER, RSA_KEY, jwk, token
from tests.unit.test_notifications import Server as Receiver

CASE = f"""
from dataclasses import replace
from mlops_ray.use_case import OnnxParity, load_use_case
from mlops_ray.training.candidates import LogisticRegression
case = load_use_case({str(SMALL)!r})
flights = case.sources["flights"]
columns = tuple(replace(c, personal="hash") if c.name == "tailnum" else c for c in flights.columns)
use_case = replace(
    case, sources={{**case.sources, "flights": replace(flights, columns=columns)}}, gates=(OnnxParity(),),
    candidates=(LogisticRegression(),), approval=None,
)
del case
"""
PERSON = "N7CANARY"
PORT = 18_561
TEXT_SECRET, WRONG_KEY = "canary-in-a-channel", "mlr_" + "canary" * 7
VARIABLE = "CANARY_HOOK"
WEBHOOK_SECRET = "whsec_Y2FuYXJ5LWNhbmFyeS1jYW5hcnktY2FuYXJ5LWNhbmFyeQ=="  # pragma: allowlist secret


@dataclass(frozen=True)
class Ran:
    """state, logs: folders after everything was asked and stopped. secrets: what must stand in no file, by what it is.
    kept: in which files a secret may stand."""

    state: Path
    logs: tuple[Path, ...]
    secrets: dict[str, str]
    kept: dict[str, tuple[str, ...]]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("secrets")
    write_small_data(folder / "data")
    (folder / "case.py").write_text(CASE)
    (folder / "keys.json").write_text(json.dumps({"keys": [jwk(RSA_KEY, "one")]}))
    config = folder / "settings.yaml"
    oidc = {"oidc_issuer": ISSUER, "oidc_audience": AUDIENCE, "oidc_keys": f"{folder}/keys.json"}
    groups = {"oidc_groups": {"callers": ["predict:all", "label:all"]}}
    config.write_text(yaml.safe_dump({**oidc, **groups, "webhook_allowed_hosts": ["127.0.0.1"], "ledger_rotate_s": 1}))
    where = ["--state", f"{folder}/state", "--config", str(config)]
    root = run(command("keys", "create", "root", "--role", "admin", *where)).stdout.strip()
    ray_logs = Path(tempfile.mkdtemp(prefix="ms", dir="/tmp"))  # sockets' paths are short
    variables = {"MLOPS_RAY_API_KEY": root, "RAY_TMPDIR": str(ray_logs), VARIABLE: WEBHOOK_SECRET}
    serving = [*pipeline_command(folder / "case.py", folder, SMALL_AS_OF), "--serve", "--stay", "--port", str(PORT)]
    output = (folder / "output.log").open("w+")
    server = subprocess.Popen(
        [*serving, "--config", str(config)], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, env=os.environ | variables,
    )  # fmt: skip
    receiver = Receiver()
    try:
        deadline = time.monotonic() + 400
        while "Serving until" not in (folder / "output.log").read_text():
            assert server.poll() is None, (folder / "output.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.5)
        secrets = use_everything(f"http://127.0.0.1:{PORT}", root, receiver, folder)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            kill_group(server)
        receiver.shutdown()
        receiver.server_close()
    secrets["the first key"] = root
    secrets["a secret by reference"] = WEBHOOK_SECRET
    secrets["the secret of personal values"] = (folder / "state" / "ledger_secret").read_text().strip()
    store = ("control_store.db", "control_store.db-wal")
    kept = {"a secret by text": store, "a channel": store, "the secret of personal values": ("ledger_secret",)}
    yield Ran(folder / "state", (ray_logs, haproxy_folder(), folder / "output.log"), secrets, kept)
    shutil.rmtree(ray_logs, ignore_errors=True)


def use_everything(url: str, root: str, receiver: Receiver, folder: Path) -> dict[str, str]:
    """Ask with keys, tokens and a person's value, rightly and wrongly; the secrets by what they are."""
    oidc = token(exp=int(time.time()) + 600)
    hook = f"http://127.0.0.1:{receiver.server_port}/{TEXT_SECRET}"
    summary = json.loads((folder / "state" / "summary.json").read_text())
    asked = summary["prediction"]["request"]
    row = asked["keys"] | {"tailnum": PERSON}
    with Client(url, api_key=root) as client:
        made = client.keys.create("canary", ["predict", "label"], ["flights"])
        by_text = client.subscriptions.create(hook)
        by_reference = client.subscriptions.create(hook, secret=f"env:{VARIABLE}")
        for one in (by_text, by_reference):
            assert client.subscriptions.test(one["subscription"]["id"])["taken"]
        rotated = client.keys.rotate("canary", tomorrow(), "rotated")
    time.sleep(6)  # until every replica knows the key
    for credential in (made["secret"], rotated["secret"], oidc):
        with Client(url, api_key=credential) as client:
            answer = client.predict("flights", keys=row, as_of=None)
            assert client.send_labels("flights", [{"request_id": answer.request_id, "label": True}]) == 1
    for path, body in (
        ("flights/predict", {"keys": row | {"tailnum": f"{PERSON} is too long"}}),
        ("flights/predict", {"keys": row | {PERSON: PERSON}}),
        (f"flights/{PERSON}?key={PERSON}", None),
        ("flights/labels", {"labels": [{"keys": row, "label": PERSON}]}),
    ):
        for credential in (oidc, WRONG_KEY, f"{oidc}x"):
            answered = httpx.post(
                f"{url}/v2/models/{path}", json=body, headers={"authorization": f"Bearer {credential}"}, timeout=30
            )
            assert 400 <= answered.status_code < 500, answered.text
    time.sleep(5)  # segments are rotated
    return {
        "a key made over HTTP": made["secret"],
        "a key that replaced it": rotated["secret"],
        "a wrong key": WRONG_KEY,
        "a token": oidc,
        "the signature of a token": oidc.split(".")[2],
        "a secret by text": by_text["secret"],
        "a channel": TEXT_SECRET,
        "a person": PERSON,
    }


def tomorrow() -> datetime:
    return datetime.now(UTC) + timedelta(days=1)


def texts(file: Path) -> Iterator[bytes]:
    """What stands in a file, as it is and as those read it who know its format."""
    yield file.read_bytes()
    if file.suffix == ".parquet":
        for column in pl.read_parquet(file).iter_columns():
            yield str((column if column.dtype.is_nested() else column.unique()).to_list()).encode()
    if file.suffix == ".db":
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
            yield "\n".join(database.iterdump()).encode()


@pytest.mark.timeout(700)
def test_a_secret_is_in_no_file_but_where_it_is_said_to_be(ran: Ran) -> None:
    found = []
    for place in (ran.state, *ran.logs):
        files = [place] if place.is_file() else [file for file in place.rglob("*") if file.is_file()]
        assert files
        for file in files:
            content = list(texts(file))
            found += [
                (what, str(file))
                for what, secret in ran.secrets.items()
                if file.name not in ran.kept.get(what, ()) and any(secret.encode() in text for text in content)
            ]
    assert found == []


def test_the_ledger_has_the_persons_rows_without_the_person(ran: Ran) -> None:
    rows = pl.concat(
        [pl.read_parquet(file) for file in ran.state.glob("artifacts/ledger/flights/**/*.parquet")],
        how="diagonal_relaxed",
    )
    assert rows.height >= 4
    assert PERSON not in str(rows.to_dicts())


def test_every_file_and_folder_of_the_state_is_closed_to_others(ran: Ran) -> None:
    opened = [
        f"{path.relative_to(ran.state)} {path.stat().st_mode & 0o777:o}"
        for path in [ran.state, *ran.state.rglob("*")]
        if not path.is_symlink() and path.stat().st_mode & 0o077
    ]
    assert opened == []
