"""State elsewhere: artifacts and raw data in an object store, runs and versions on an MLflow server."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import yaml

from tests.pipeline_run import ROOT, SMALL, SMALL_AS_OF, command, kill_group, run, write_small_data

OBJECT_STORE = "http://127.0.0.1:18555"
MLFLOW = "http://127.0.0.1:18556"
AWS = {
    "AWS_ENDPOINT_URL": OBJECT_STORE,
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def start(arguments: list[str], url: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        arguments, env=os.environ | AWS, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while True:
        try:
            urllib.request.urlopen(url, timeout=5)
            return process
        except OSError:
            if process.poll() is not None:
                raise RuntimeError(
                    f"{' '.join(arguments)} ended with {process.returncode}: is its port taken?"
                ) from None
            if time.monotonic() > deadline:
                kill_group(process)
                raise
            time.sleep(0.2)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("servers")
    database = f"sqlite:///{folder}/mlflow.db"
    mlflow = ["mlflow", "server", "--host", "127.0.0.1", "--port", "18556", "--workers", "1"]
    object_store = start([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "18555"], OBJECT_STORE)
    try:
        tracking = start([sys.executable, "-m", *mlflow, "--backend-store-uri", database], f"{MLFLOW}/health")
        try:
            yield
        finally:
            kill_group(tracking)
    finally:
        kill_group(object_store)


@pytest.mark.timeout(400)
def test_the_pipeline_runs_and_serves_with_an_object_store_and_an_mlflow_server(servers: None, tmp_path: Path) -> None:
    store = boto3.client("s3", endpoint_url=OBJECT_STORE, **{
        "aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1",
    })  # fmt: skip
    store.create_bucket(Bucket="lake")
    write_small_data(tmp_path / "data")
    for file in (tmp_path / "data").iterdir():
        store.upload_file(str(file), "lake", f"raw/{file.name}")
    config = tmp_path / "settings.yaml"
    config.write_text(yaml.safe_dump({"artifacts": "s3://lake/artifacts", "mlflow_uri": MLFLOW, "http_port": 18557}))
    places = ["--config", str(config), "--state", f"{tmp_path}/state", "--data", "s3://lake/raw"]
    more = ["--as-of", SMALL_AS_OF, "--feature-repo", str(ROOT / "feature_repo"), "--serve"]

    done = run(command("run", str(SMALL), *places, *more), timeout_s=350, **AWS)

    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "state" / "summary.json").read_text())
    assert summary["rows_in"] == 42_799
    assert 0 < summary["prediction"]["answer"]["predictions"][0]["probability"] < 1
    kept = {entry["Key"].split("/")[1] for entry in store.list_objects_v2(Bucket="lake")["Contents"]}
    assert {"snapshots", "features", "training_sets", "mlflow", "pipeline", "sealed_models"} <= kept
    assert not (tmp_path / "state" / "artifacts").exists()
    assert not (tmp_path / "state" / "mlflow.db").exists()
