"""On either database: whatever is edited behind the back of the audit is found, before and after texts were erased."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from random import Random

import boto3
import pytest
from moto.server import ThreadedMotoServer
from sqlalchemy import text

from mlops_ray.config import Settings, load_settings
from mlops_ray.governance.anchors import anchor
from mlops_ray.governance.audit import verify_store
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.erasures import erase_person
from mlops_ray.governance.events import Actor, read_events
from mlops_ray.governance.keys import create_key
from tests.anchoring import anchored_in, make_keys
from tests.audit_history import (
    cut,
    end_delegations,
    expect_every_edit_found,
    expect_every_edit_of_the_chain_found,
    expect_every_row_found,
    make_anchored_history,
    replayed,
)


@pytest.fixture
def lake(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an object store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def control_store(tmp_path: Path) -> Iterator[ControlStore]:
    """One kind is enough for what is about the second place."""
    store = ControlStore(f"sqlite:///{tmp_path}/control_store.db")
    store.migrate()
    yield store
    store.close()


ADMINISTRATOR = Actor("root", ("admin",), id="person-root")


@pytest.fixture
def settings(store: ControlStore, tmp_path: Path) -> Settings:
    private, public = make_keys(tmp_path / "keys")
    return load_settings(
        state=str(tmp_path / "state"),
        data=str(tmp_path),
        control_store=store.url,
        audit_anchors=str(tmp_path / "anchors.jsonl"),
        audit_second_place=str(tmp_path / "second"),
        audit_key=f"file:{private}",
        audit_public_key=str(public),
    )


def test_any_edit_by_sql_is_found_also_where_texts_were_erased(store: ControlStore, settings: Settings) -> None:
    """tests/unit/test_reconciliation.py has more histories, on SQLite."""
    make_anchored_history(store, settings, 15)
    end_delegations(store, ADMINISTRATOR)
    done = erase_person(store, ADMINISTRATOR, "carl", "request 17")
    assert done.events > 5
    anchor(store, settings)
    assert "carl" not in str([event.to_record() for event in read_events(store, limit=10_000)])
    expect_every_edit_found(store, replayed(store))
    expect_every_row_found(store, replayed(store))
    expect_every_edit_of_the_chain_found(store, settings, Random(15))


def test_what_cannot_be_read_is_named(store: ControlStore, settings: Settings) -> None:
    create_key(store, ADMINISTRATOR, "ci", ["predict"], requests_per_s=5)
    anchor(store, settings)
    assert verify_store(store, settings).problem is None
    with store.transaction() as connection:
        connection.execute(text("UPDATE principals SET roles = '{'"))
    assert "roles is '{'" in str(verify_store(store, settings).problem)


def test_an_object_store_with_a_lock_keeps_what_it_was_given(
    lake: str, tmp_path: Path, control_store: ControlStore
) -> None:
    """Made as the docs say. Who overwrites or deletes is seen, and what was there stays."""
    bucket = boto3.client("s3", endpoint_url=lake, region_name="us-east-1")
    bucket.create_bucket(Bucket="audit", ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Years": 7}}
    lock = {"ObjectLockEnabled": "Enabled", "Rule": rule}
    bucket.put_object_lock_configuration(Bucket="audit", ObjectLockConfiguration=lock)
    url = f"s3://audit/flights?region=us-east-1&scheme=http&endpoint_override={lake.removeprefix('http://')}"
    settings = anchored_in(tmp_path / "anchors.jsonl").model_copy(update={"audit_second_place": url})
    make_anchored_history(control_store, settings, 14)
    assert verify_store(control_store, settings).problem is None
    listed = bucket.list_objects_v2(Bucket="audit", Prefix="flights/anchor-")["Contents"]
    assert len(listed) == 4
    key = listed[-1]["Key"]
    (version,) = bucket.list_object_versions(Bucket="audit", Prefix=key)["Versions"]
    with pytest.raises(bucket.exceptions.ClientError):
        bucket.delete_object(Bucket="audit", Key=key, VersionId=version["VersionId"])
    bucket.delete_object(Bucket="audit", Key=key)
    assert "lacks 1 anchors" in str(verify_store(control_store, settings).problem)
    bucket.put_object(Bucket="audit", Key=key, Body=b"{}")
    assert "has another root" in str(verify_store(control_store, settings).problem)
    assert json.loads(bucket.get_object(Bucket="audit", Key=key, VersionId=version["VersionId"])["Body"].read())["root"]


def test_any_cut_is_found_by_the_second_place_alone(store: ControlStore, settings: Settings) -> None:
    make_anchored_history(store, settings, 13)
    last = read_events(store, limit=10_000)[-1].seq
    for length in range(last - 1, last - 9, -3):
        cut(store, length)
        Path(settings.audit_anchors).unlink(missing_ok=True)
        found = verify_store(store, settings)
        assert not found.ok
        assert f"event {last} was anchored: the end is cut off" in str(found.problem)
