"""A backup holds one point of everything, is whole or none, and is right where it is restored."""

import gzip
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import tarfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from mlops_ray.artifacts import Artifacts, digest_json, join, read_parquet
from mlops_ray.cli.main import app
from mlops_ray.config import Settings, load_settings
from mlops_ray.errors import ConfigurationError, ConflictError, IntegrityError, UnavailableError
from mlops_ray.governance.audit import verify_store
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.copied_rows import fill
from mlops_ray.governance.events import read_events
from mlops_ray.governance.leases import hold, holding, release
from mlops_ray.governance.live import live
from mlops_ray.governance.notifications import list_subscriptions
from mlops_ray.governance.schedule_runs import Run
from mlops_ray.governance.tables import SCHEMA_REVISION
from mlops_ray.governance.versions import VersionRef, list_versions
from mlops_ray.operations.backup.copying import Copied, Copying
from mlops_ray.operations.backup.create import create, expect_apart
from mlops_ray.operations.backup.manifest import Manifest
from mlops_ray.operations.backup.moved_paths import Move
from mlops_ray.operations.backup.place import Place
from mlops_ray.operations.backup.restore import restore
from mlops_ray.operations.backup.retention import Keep, kept, prune
from mlops_ray.operations.backup.verify import verify
from mlops_ray.operations.carry_out import Work, arguments
from mlops_ray.operations.own_databases import expect_own_databases
from mlops_ray.operations.upgrade import upgrade
from mlops_ray.state_folder import FILE, claim
from mlops_ray.testing.signing_keys import with_signing_keys
from tests.backup_state import CASE, PLANTED, REF, ROOT, predicted, predictions, protobuf, small_state
from tests.older_store import store_of_schema

MADE_AT = "2026-01-01T00:00:00+00:00"
PREVIOUS_STATE = Path(__file__).parents[1] / "previous_release" / "state.tar.xz"


@pytest.fixture
def settings(tmp_path: Path, store: ControlStore) -> Settings:
    """An installation whose control store lies in its state folder."""
    state = tmp_path / "old" / "state"
    state.mkdir(parents=True)
    store.close()
    shutil.move(store.file, state / "control_store.db")
    return load_settings(state=str(state), data=str(tmp_path))


@pytest.fixture
def ids(settings: Settings) -> list[str]:
    store = open_store(settings)
    made = small_state(settings, store)
    store.close()
    return made


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(str(tmp_path / "backups"))


def elsewhere(tmp_path: Path, **others: Any) -> Settings:
    return load_settings(state=str(tmp_path / "new" / "state"), data=str(tmp_path), **others)


def files_of(folder: str | Path) -> dict[str, bytes]:
    root = Path(folder)
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def values(settings: Settings, database: str, query: str) -> list[Any]:
    with closing(sqlite3.connect(Path(settings.state, database))) as file:
        return [row[0] for row in file.execute(query)]


def test_a_restored_backup_is_whole_where_it_lies_after_the_old_place_is_gone(
    settings: Settings, ids: list[str], place: Place, tmp_path: Path
) -> None:
    made = create(settings, ROOT, place)
    shutil.rmtree(tmp_path / "old")
    new = elsewhere(tmp_path)
    restore(new, place, "latest")
    store = open_store(new)
    found = verify_store(store, new)
    assert (found.ok, found.problem) == (True, None)
    assert live(store, CASE).champion == REF
    assert [one.version for one in list_versions(store, CASE)] == [1]
    assert read_events(store, made.manifest.events)[0].type == "backup.restored"
    assert sorted(predicted(new)) == sorted(ids)
    table = f"{new.artifacts}/snapshots/{CASE}/{'d' * 64}/flights/part-00000.parquet"
    assert read_parquet(table).height == 3
    record = Artifacts(new.artifacts).read_json("pipeline", CASE, "features", "last.json")
    step = Artifacts(new.artifacts).read_json("pipeline", CASE, "features", f"{record['key']}.json")
    assert step["result"] == {"url": table, "rows": 3, "parts": [{"url": table}]}
    assert step["key"] == record["key"] == digest_json(step["depends_on"])
    assert new.mlflow_uri in json.dumps(step["depends_on"])
    assert values(new, "mlflow.db", "SELECT artifact_uri FROM runs") == [f"{new.artifacts}/mlflow/run"]
    assert json.loads(values(new, "mlflow.db", "SELECT dataset_source FROM datasets")[0])["uri"] == table
    assert values(new, "online_store.db", "SELECT rows FROM mlops_ray_online") == [table]
    assert values(new, "feast_registry.db", "SELECT data_source_proto FROM data_sources")[0].count(table.encode()) == 1
    assert Path(new.audit_anchors).exists()
    store.close()


def test_no_secret_is_in_a_backup(settings: Settings, ids: list[str], place: Place, tmp_path: Path) -> None:
    artifacts = Artifacts(settings.artifacts)
    url = f"postgresql://u:{PLANTED}database@host/mlflow"
    depends_on = ["mapping", ["settings", ["mapping", ["mlflow_uri", url]]]]
    record = {"key": digest_json(depends_on), "depends_on": depends_on, "attempt": 0, "result": None}
    artifacts.write_json(record, "pipeline", CASE, "register", f"{record['key']}.json")
    (subscribed,) = values(settings, "control_store.db", "SELECT secret FROM subscriptions")
    create(settings, ROOT, place)
    found = b"".join(files_of(place.root).values())
    for secret in (subscribed, PLANTED):
        assert secret.encode() not in found
    assert values(settings, "control_store.db", "SELECT key_hash FROM principals")[0].encode() in found

    new = elsewhere(tmp_path)
    assert restore(new, place, "latest").subscriptions, "what cannot be told any more is ended, and said"
    store = open_store(new)
    assert list_subscriptions(store) == []
    assert verify_store(store, new).ok
    store.close()


def test_what_has_not_changed_is_not_copied_again(settings: Settings, ids: list[str], place: Place) -> None:
    first = create(settings, ROOT, place)
    Artifacts(settings.artifacts).write_bytes(b"new", "snapshots", CASE, "new")
    second = create(settings, ROOT, place)
    new = {one.sha256 for one in second.manifest.items} - {one.sha256 for one in first.manifest.items}
    assert second.copied == len(new) < 6 < first.copied
    assert verify(place, first.manifest).problems == verify(place, second.manifest).problems == ()


def test_what_was_changed_in_a_backup_is_said_and_nothing_is_written(
    settings: Settings, ids: list[str], place: Place, tmp_path: Path
) -> None:
    made = create(settings, ROOT, place)
    new = elsewhere(tmp_path)
    (large,) = [one for one in made.manifest.items if one.path.endswith("part-00000.parquet")]
    content = Path(place.root, "content", large.sha256[:2], large.sha256)
    manifest = Path(place.root, "points", made.id, "manifest.json")
    whole, told = content.read_bytes(), manifest.read_bytes()
    for damaged, problem in (
        (whole[:-1], "cut off"),
        (whole + whole, "added to"),
        (b"\0" + whole[1:], r"changed, its size is the same"),
        (None, "not there"),
    ):
        content.unlink()
        if damaged is not None:
            content.write_bytes(damaged)
        with pytest.raises(IntegrityError, match=rf"{made.id} is not what was written: .*{problem}.* Nothing was writ"):
            restore(new, place, "latest")
        content.write_bytes(whole)
    for changed in (told[:-10], told.replace(b'"events": ', b'"events": 1'), b""):
        manifest.write_bytes(changed)
        with pytest.raises(IntegrityError, match="changed or cut off since it was written"):
            restore(new, place, made.id)
    assert not Path(new.state).exists()
    manifest.write_bytes(told)
    restore(new, place, "latest")


def test_a_backup_of_another_format_or_a_newer_release_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="has format 2, and this release reads 1"):
        Manifest.from_bytes(b'{"format": 2}', "x")
    told = json.loads(Manifest(MADE_AT, "", "", 0, "", {"artifacts": "", "state": ""}, {}, {}, (), ()).to_bytes())
    Manifest.from_bytes(json.dumps(told).encode(), "x")
    rootless = json.dumps(told | {"roots": {"state": ""}}).encode()
    of_a_number = json.dumps(told | {"items": [[1, "0" * 64, 1, 0, True]]}).encode()
    for damaged in (b"", b"[]", b"{}", b'{"format": 1}', b'{"format": 1, "items": 3}', rootless, of_a_number):
        with pytest.raises(IntegrityError, match="is damaged"):
            Manifest.from_bytes(damaged, "x")


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "artifacts/../../x", "artifacts//x", "artifacts/x\0"])
def test_a_manifest_names_nothing_outside_of_the_place(path: str) -> None:
    made = Manifest(MADE_AT, "", "", 0, "", {}, {}, {}, (), ()).to_bytes()
    hostile = json.loads(made) | {"items": [[path, "0" * 64, 1, 0, True]]}
    with pytest.raises(IntegrityError, match="is no path of a backup"):
        Manifest.from_bytes(json.dumps(hostile).encode(), "x")


def test_only_an_empty_place_is_restored_into(settings: Settings, ids: list[str], place: Place, tmp_path: Path) -> None:
    create(settings, ROOT, place)
    before = files_of(settings.artifacts)
    with pytest.raises(ConfigurationError, match="is not empty"):
        restore(settings, place, "latest")
    assert files_of(settings.artifacts) == before
    taken = tmp_path / "taken.db"
    taken.touch()
    for name in ("control_store", "mlflow_uri"):
        new = elsewhere(tmp_path, **{name: f"sqlite:///{taken}"})
        with pytest.raises(ConfigurationError, match=r"exists\. Restore into an empty place"):
            restore(new, place, "latest")
        assert not Path(new.state).exists()


def test_backups_do_not_lie_in_what_they_are_of(settings: Settings, ids: list[str]) -> None:
    state = Path(settings.state)
    (state.parent / "link").symlink_to(state)
    for inside in (
        f"{settings.artifacts}/backups",
        f"file://{state}/backups",
        f"{state.parent}/../{state.parent.name}/state/backups",
        f"{state.parent}//state/backups",
        f"{state.parent}/link/backups",
        str(state),
    ):
        with pytest.raises(ConfigurationError, match="and be lost with it"):
            create(settings, ROOT, Place(inside))
    with pytest.raises(ConfigurationError, match="nothing to back up"):
        create(load_settings(state=f"{settings.state}x", data=settings.data), ROOT, Place("/tmp/none"))


def test_only_one_backup_is_made_at_a_time(settings: Settings, ids: list[str], place: Place) -> None:
    store = open_store(settings)
    with holding(store, "backup"):
        for work in (lambda: create(settings, ROOT, place), lambda: prune(settings, ROOT, place, Keep())):
            with pytest.raises(ConflictError, match="Another process is at work"):
                work()
    store.close()


def _create_and_die(settings: Settings, root: str, at: int) -> None:
    """Be killed before the write with this number."""
    written, write = 0, Artifacts.write_bytes

    def count(files: Artifacts, content: bytes, *parts: str) -> None:
        nonlocal written
        written += 1
        if written == at and root in files.root:
            os.kill(os.getpid(), signal.SIGKILL)
        write(files, content, *parts)

    Artifacts.write_bytes = count  # type: ignore[method-assign]
    create(settings, ROOT, Place(root))


def test_killed_at_any_write_there_is_no_backup_and_the_next_one_is_whole(
    settings: Settings, ids: list[str], place: Place, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("fork")
    killed = 0
    for at in (1, 2, 5, 9, 14, 20, 10_000):
        lease = ControlStore(settings.control_store)
        with lease.reporting() as connection:  # of who was killed, which ends after a minute
            connection.exec_driver_sql("DELETE FROM leases")
        lease.close()
        process = context.Process(target=_create_and_die, args=(settings, place.root, at))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        killed += 1
        assert place.points() == []
        if at > 1:
            with pytest.raises(ConfigurationError, match=r"has no backup 'latest'.* 1 did not finish, and are"):
                place.resolve("latest")
    assert killed >= 3
    (id,) = place.points()
    assert place.unfinished() == []
    restore(elsewhere(tmp_path), place, id)
    assert sorted(predicted(elsewhere(tmp_path))) == sorted(ids)


def test_an_unfinished_restore_is_used_by_nobody(
    settings: Settings, ids: list[str], place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(settings, ROOT, place)
    new = elsewhere(tmp_path)
    monkeypatch.setattr("mlops_ray.operations.backup.restore._put_databases", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        restore(new, place, "latest")
    with pytest.raises(
        ConfigurationError, match=r"tells of a restore that did not finish.*repeat `mlops-ray backup res"
    ):
        open_store(new)
    with pytest.raises(ConfigurationError, match="is not empty"):
        restore(new, place, "latest")


def test_data_stay_where_they_are_if_the_caller_wants_and_must_be_there(
    settings: Settings, ids: list[str], place: Place, tmp_path: Path
) -> None:
    made = create(settings, ROOT, place, data=False)
    (table,) = [one for one in made.manifest.items if not one.here]
    assert table.path.endswith("part-00000.parquet")
    copy = tmp_path / "copy"
    shutil.copytree(settings.artifacts, copy)
    shutil.rmtree(tmp_path / "old")
    new = elsewhere(tmp_path)
    with pytest.raises(IntegrityError, match="the backup has its digest only, and it is not below"):
        restore(new, place, "latest")
    restore(new, place, "latest", data_from=str(copy))
    assert sorted(predicted(new)) == sorted(ids)
    assert read_parquet(f"{new.artifacts}/{table.path.removeprefix('artifacts/')}").height == 3


def test_a_signed_installation_takes_only_what_it_signed(
    settings: Settings, ids: list[str], place: Place, tmp_path: Path
) -> None:
    signing = with_signing_keys(settings, tmp_path / "keys")
    others = with_signing_keys(elsewhere(tmp_path), tmp_path / "others")
    made = create(signing, ROOT, place)
    assert verify(place, place.manifest("latest", signing)).problems == ()
    with pytest.raises(IntegrityError, match="has no signature that holds"):
        restore(others, place, made.id)
    Path(place.root, "points", made.id, "manifest.sig").unlink()
    with pytest.raises(IntegrityError, match="has no signature that holds"):
        place.manifest("latest", signing)


def test_an_older_schema_is_kept_and_restored_as_it_is_and_can_be_upgraded_there(place: Place, tmp_path: Path) -> None:
    """So that a release can be gone back to: restore what was kept before the upgrade."""
    old = load_settings(state=str(tmp_path / "old"), data=str(tmp_path))
    store_of_schema(old.control_store, "0009").close()
    create(old, ROOT, place)
    upgrade(old, lambda _: ROOT)
    new = elsewhere(tmp_path)
    assert restore(new, place, "latest").upgrade
    store = ControlStore(new.control_store)
    assert store.schema().revision == "0009"
    store.close()
    assert upgrade(new, lambda _: ROOT).before == "0009"
    store = open_store(new)
    assert verify_store(store, new).ok
    store.close()


def test_old_backups_go_with_what_only_they_had_and_the_newest_stays(
    settings: Settings, ids: list[str], place: Place, tmp_path: Path
) -> None:
    Artifacts(settings.artifacts).write_bytes(b"only in the first", "snapshots", CASE, "gone")
    create(settings, ROOT, place)
    Artifacts(settings.artifacts).delete("snapshots", CASE, "gone")
    predictions(settings, 1)
    second = create(settings, ROOT, place)
    done = prune(settings, ROOT, place, Keep(0, 0, 0))
    assert (len(done.points), place.points()) == (1, [second.id])
    assert done.files > 0
    assert b"only in the first" not in files_of(place.root).values()
    restore(elsewhere(tmp_path), place, second.id)
    assert len(predicted(elsewhere(tmp_path))) == len(ids) + 1
    (event,) = read_events(open_store(settings), types=["backup.pruned"])
    assert event.payload["backups"] == list(done.points)


moments = st.datetimes(datetime(2026, 1, 1), datetime(2028, 1, 1)).map(lambda at: f"{at:%Y%m%dT%H%M%S%fZ}-{'0' * 12}")


@given(st.sets(moments, min_size=1, max_size=60), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_the_newest_of_each_of_the_last_days_weeks_and_months_stays(
    ids: set[str], days: int, weeks: int, months: int
) -> None:
    stay = kept(ids, Keep(days, weeks, months))
    assert max(ids) in stay
    assert len(stay) <= max(1, days + weeks + months)
    newest_of_day = sorted(max(id for id in ids if id[:8] == day) for day in {id[:8] for id in ids})
    assert set(newest_of_day[len(newest_of_day) - days :]) <= set(stay)
    assert set(stay) - set(newest_of_day) == set(), "never an older one of the same day"


def test_a_path_in_a_message_is_moved_whatever_its_length_and_one_in_code_stays() -> None:
    for new in ("/n", "/" + "long/" * 60 + "place"):
        moved = FileDescriptorProto.FromString(Move("/srv/old", new).message(protobuf("/srv/old/rows.parquet")))
        assert moved.message_type[0].field[0].name == f"{new}/rows.parquet"
        assert moved.message_type[0].field[0].number == 7
        assert moved.package.count("/srv/old/rows.parquet/mentioned") == 3


def test_only_whole_folders_are_moved() -> None:
    move = Move("/srv/old", "/srv/new")
    assert [move.text(one) for one in ("/srv/old", "/srv/old/x", "/srv/older/x", "see /srv/old/x")] == [
        "/srv/new", "/srv/new/x", "/srv/older/x", "see /srv/old/x",
    ]  # fmt: skip


def test_a_champion_set_after_the_point_is_not_in_it(
    settings: Settings, ids: list[str], place: Place, tmp_path: Path
) -> None:
    create(settings, ROOT, place)
    store = open_store(settings)
    before = live(store, CASE).revision
    set_champion(store, ROOT, CASE, REF, "again")
    store.close()
    new = elsewhere(tmp_path)
    restore(new, place, "latest")
    store = open_store(new)
    assert live(store, CASE).revision == before
    store.close()


def test_the_kept_state_of_the_release_before_is_restored_upgraded_and_answers(tmp_path: Path) -> None:
    """Made by that release's own code; see tests/previous_release."""
    with tarfile.open(PREVIOUS_STATE) as archive:
        archive.extractall(tmp_path, filter="data")
    place, new = Place(str(tmp_path / "backups")), elsewhere(tmp_path)
    assert verify(place, place.manifest("latest", new)).problems == ()
    assert restore(new, place, "latest").upgrade
    with pytest.raises(ConfigurationError, match="mlops-ray upgrade"):
        open_store(new)
    upgrade(new, lambda _: ROOT)
    store = open_store(new)
    found = verify_store(store, new)
    assert (found.ok, found.problem) == (True, None)
    assert list_subscriptions(store) == [], "its channel was not kept"
    state = live(store, CASE)
    assert (state.champion and state.champion.version, state.previous and state.previous.version) == (1, 2)
    assert [one.version for one in list_versions(store, CASE) if one.retired_at is None] == [1, 2, 3]
    assert len(predicted(new)) == 3
    set_champion(store, ROOT, CASE, VersionRef(2, "2" * 64), "on with it")
    assert verify_store(store, new).ok
    create(new, ROOT, place)
    store.close()


def test_files_are_restored_byte_for_byte_whatever_their_names_end_in(
    settings: Settings, ids: list[str], place: Place, tmp_path: Path
) -> None:
    for name in ("table.csv.gz", "table.bz2", "table.zst", "table.lz4"):
        file = Path(settings.artifacts, "mlflow", name)
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(gzip.compress(b"packed"))
    create(settings, ROOT, place)
    restore(elsewhere(tmp_path), place, "latest")
    assert files_of(f"{elsewhere(tmp_path).artifacts}/mlflow") == files_of(f"{settings.artifacts}/mlflow")


def test_damaged_content_is_set_aside_and_copied_anew_by_the_next_backup(
    settings: Settings, ids: list[str], place: Place, tmp_path: Path
) -> None:
    first = create(settings, ROOT, place)
    (table,) = [one for one in first.manifest.items if one.path.endswith("part-00000.parquet")]
    content = Path(place.root, "content", table.sha256[:2], table.sha256)
    whole = content.read_bytes()
    content.write_bytes(b"\0" + whole[1:])
    found = verify(place, first.manifest)
    assert (len(found.problems), found.set_aside) == (1, 1)
    assert "moved to damaged/; the next backup copies it anew" in found.next_step
    assert Path(place.root, "damaged", table.sha256).read_bytes() == b"\0" + whole[1:]
    second = create(settings, ROOT, place)
    assert verify(place, first.manifest).problems == verify(place, second.manifest).problems == ()
    restore(elsewhere(tmp_path), place, "latest")


def test_damaged_content_that_cannot_be_set_aside_is_said(settings: Settings, ids: list[str], place: Place) -> None:
    made = create(settings, ROOT, place)
    table = next(one for one in made.manifest.items if one.path.endswith("part-00000.parquet"))
    Path(place.root, "content", table.sha256[:2], table.sha256).write_bytes(b"")
    Path(place.root, "damaged").touch()
    found = verify(place, made.manifest)
    assert (len(found.problems), found.set_aside) == (1, 0)
    assert "left where it is, and later backups rely on it: " in found.next_step


def test_a_place_is_of_one_installation_until_another_takes_it_over(
    settings: Settings, ids: list[str], place: Place, tmp_path: Path
) -> None:
    create(settings, ROOT, place)
    restored = elsewhere(tmp_path)
    restore(restored, place, "latest")
    before = files_of(place.root)
    for work in (lambda: create(restored, ROOT, place), lambda: prune(restored, ROOT, place, Keep(0, 0, 0))):
        with pytest.raises(ConfigurationError, match=r"belong to another installation .*`mlops-ray backup create --t"):
            work()
    assert files_of(place.root) == before
    create(settings, ROOT, place)

    create(restored, ROOT, place, take_over=True)
    create(restored, ROOT, place)
    prune(restored, ROOT, place, Keep())
    with pytest.raises(ConfigurationError, match="belong to another installation"):
        create(settings, ROOT, place)


def test_no_backup_is_made_in_a_place_that_was_taken_over_meanwhile(
    settings: Settings, ids: list[str], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = Copying.copy

    def taken_over(self: Copying, store: ControlStore) -> Copied:
        place.take_over("another")
        return copied(self, store)

    monkeypatch.setattr(Copying, "copy", taken_over)
    with pytest.raises(ConfigurationError, match=r"belong to another installation \(another, on "):
        create(settings, ROOT, place)
    assert place.points() == []


def test_an_installation_without_events_uses_a_place_that_is_nobodys(tmp_path: Path, place: Place) -> None:
    new = elsewhere(tmp_path)
    store = open_store(new)
    create(new, ROOT, place)
    assert store.head() == 1
    create(new, ROOT, place)
    other = load_settings(state=str(tmp_path / "other"), data=str(tmp_path))
    open_store(other).close()
    with pytest.raises(ConfigurationError, match="belong to another installation"):
        create(other, ROOT, place)
    store.close()


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff"])
def test_a_record_of_an_unfinished_backup_that_cannot_be_read_hinders_none(
    settings: Settings, ids: list[str], place: Place, content: bytes
) -> None:
    place.files.write_bytes(content, "unfinished", "20260101T000000000000Z-1.json")
    (killed,) = place.unfinished()
    assert (killed.begun_at, killed.host) == ("", "")
    create(settings, ROOT, place)
    assert place.unfinished() == []


def test_a_backup_after_the_clock_was_set_back_is_the_newest_and_stays(
    settings: Settings, ids: list[str], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = create(settings, ROOT, place)
    monkeypatch.setattr(f"{create.__module__}.database_now", lambda _: datetime(2020, 1, 1, tzinfo=UTC))
    second = create(settings, ROOT, place)
    assert place.points() == [first.id, second.id]
    assert second.manifest.made_at.startswith("2020-01-01")
    assert prune(settings, ROOT, place, Keep(0, 0, 0)).points == (first.id,)
    assert place.resolve("latest") == second.id


@pytest.mark.parametrize(
    ("place", "apart"),
    [
        ("s3://lake/root/backups", False),
        ("s3://key:secret@lake/root/backups?region=eu-central-1", False),
        ("s3://lake//root/of%20backups", False),
        ("s3://lake/rooted", True),
        ("gs://lake/root/backups", True),
        ("/lake/root/backups", True),
    ],
)
def test_in_object_stores_bucket_and_key_say_whether_backups_lie_apart(tmp_path: Path, place: str, apart: bool) -> None:
    settings = elsewhere(tmp_path, artifacts="s3://lake/root/?endpoint_override=http://127.0.0.1:1")
    with nullcontext() if apart else pytest.raises(ConfigurationError, match="and be lost with it"):
        expect_apart(settings, Place(place))


def test_an_unfinished_restore_is_used_by_nobody_where_all_stores_are_outside_of_the_state_folder(
    settings: Settings, ids: list[str], place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(settings, ROOT, place)
    outside = {name: f"sqlite:///{tmp_path}/{name}.db" for name in ("control_store", "mlflow_uri", "feast_registry")}
    new = elsewhere(tmp_path, artifacts=str(tmp_path / "artifacts"), **outside)
    with monkeypatch.context() as killed:
        killed.setattr("mlops_ray.operations.backup.restore._put_databases", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            restore(new, place, "latest")
    with pytest.raises(ConfigurationError, match="tells of a restore that did not finish"):
        open_store(new)
    shutil.rmtree(new.state)
    shutil.rmtree(new.artifacts)
    restore(new, place, "latest")
    open_store(new).close()


def test_a_path_that_json_writes_with_escapes_is_moved_in_json() -> None:
    move = Move("/srv/Zürich", "/srv/new")
    for ascii_only in (True, False):
        text = json.dumps({"uri": "/srv/Zürich/x"}, ensure_ascii=ascii_only)
        assert json.loads(move.text(text)) == {"uri": "/srv/new/x"}


@pytest.mark.parametrize(
    ("old", "new", "named", "moved"),
    [
        ("/srv/old/", "/srv/new", "/srv/old/x", "/srv/new/x"),
        ("/srv/old/", "/srv/new", "/srv/old//mlflow/run", "/srv/new/mlflow/run"),
        ("/srv/old", "/srv/new/", "/srv/old/x", "/srv/new/x"),
        ("/srv/old/", "/srv/new", "/srv/old/", "/srv/new"),
        ("s3://b/old/", "s3://b/new", "s3://b/old/x%20y", "s3://b/new/x%20y"),
        ("s3://b/old/?region=x", "s3://b/new?region=y", "s3://b/old/x?region=x", "s3://b/new/x?region=y"),
        ("s3://b/old?region=x", "s3://b/new?region=y", "s3://b/old?region=x/mlflow", "s3://b/new/mlflow?region=y"),
        ("s3://b/old?region=x", "/srv/new", "s3://b/old/run/artifacts?region=x/mlflow", "/srv/new/run/artifacts"),
    ],
)
def test_what_lies_below_a_root_is_moved_however_the_root_was_written(
    old: str, new: str, named: str, moved: str
) -> None:
    """As releases named it that took the root as it was given, and MLflow's folder as its text with `/mlflow`."""
    move = Move(old, new)
    assert move.text(named) == moved
    assert json.loads(move.text(json.dumps({"uri": f"{old.partition('?')[0].rstrip('/')}/x"})))["uri"] == join(new, "x")


def test_artifacts_whose_setting_ends_in_a_slash_are_named_by_their_new_place(
    settings: Settings, place: Place, tmp_path: Path
) -> None:
    slashed = load_settings(state=settings.state, data=settings.data, artifacts=f"{tmp_path}/art/")
    store = open_store(slashed)
    small_state(slashed, store)
    store.close()
    create(slashed, ROOT, place)
    new = elsewhere(tmp_path)
    restore(new, place, "latest")
    old = f"{tmp_path}/art/"
    assert [one for one in files_of(f"{new.artifacts}/pipeline").values() if old.encode() in one] == []
    for database, query in (
        ("mlflow.db", "SELECT artifact_uri FROM runs"),
        ("mlflow.db", "SELECT dataset_source FROM datasets"),
        ("online_store.db", "SELECT rows FROM mlops_ray_online"),
    ):
        assert [one for one in values(new, database, query) if old in one or new.artifacts not in one] == []
    (source,) = values(new, "feast_registry.db", "SELECT data_source_proto FROM data_sources")
    assert f"{new.artifacts}/snapshots".encode() in source


def test_two_use_cases_have_the_same_nightly_backup_and_neither_fails(
    settings: Settings, ids: list[str], place: Place
) -> None:
    due = datetime.now(UTC)
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda _: create(settings, ROOT, place, due=due), range(2))
    assert first.id == second.id == place.resolve("latest")
    assert sorted((first.is_new, second.is_new)) == [False, True]
    assert len(place.points()) == 1
    assert create(settings, ROOT, place, due=datetime.now(UTC)).is_new, "what was made before does not count"


def test_a_backup_from_before_the_clock_was_set_back_is_not_taken_for_the_one_that_is_due(
    settings: Settings, ids: list[str], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as ahead:
        ahead.setattr(f"{create.__module__}.database_now", lambda _: datetime(2090, 1, 1, tzinfo=UTC))
        create(settings, ROOT, place)
    due = datetime.now(UTC)
    assert create(settings, ROOT, place, due=due).is_new
    assert not create(settings, ROOT, place, due=due).is_new


def test_a_scheduled_backup_waits_for_who_is_at_work_and_says_which_it_took(
    settings: Settings, ids: list[str], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    due = "2026-01-01T02:15:00+00:00"
    at = datetime.fromisoformat(due)
    run = Run("flights", "backup", at, "schedule", "running", 1, at)
    command = arguments(run, Work("flights", "/r", settings.state, settings.data, None, None))
    assert command == ["backup", "create", "--prune", "--due", due, "--state", settings.state]
    made, store = create(settings, ROOT, place), open_store(settings)
    waited = list[float]()

    def end_it(seconds: float) -> None:
        waited.append(seconds)
        release(store, "backup", "another")

    monkeypatch.setattr("mlops_ray.governance.leases.time.sleep", end_it)
    monkeypatch.setattr("mlops_ray.cli.backup._actor", lambda _: ROOT)
    hold(store, "backup", "another", timedelta(minutes=1))
    told = CliRunner().invoke(app, [*command, "--place", place.root])
    assert (told.exit_code, len(waited)) == (0, 1), told.output
    assert f"Backup {made.id} was made since 2026-01-01 02:15:00 UTC, when this one was due" in told.output
    assert place.points() == [made.id]
    store.close()


def test_a_folder_that_only_says_where_it_is_counts_as_empty(
    settings: Settings, ids: list[str], place: Place, tmp_path: Path
) -> None:
    create(settings, ROOT, place)
    new = elsewhere(tmp_path)
    claim(new)
    file = Path(new.state, FILE)
    said = file.read_bytes()
    for other in ("{}", "[1]", "{", json.dumps({"state": settings.state})):
        file.write_text(other)
        with pytest.raises(ConfigurationError, match=r"is not empty \(it has state\.json\)"):
            restore(new, place, "latest")
    file.write_bytes(said)
    restore(new, place, "latest")
    open_store(new).close()


def test_a_volume_is_backed_up_and_restored_into_without_its_lost_and_found(
    settings: Settings, ids: list[str], place: Place, tmp_path: Path
) -> None:
    """Which root alone may look into."""
    new = elsewhere(tmp_path)
    for volume in (settings.artifacts, new.state, f"{settings.artifacts}/mlflow"):
        Path(volume, "lost+found").mkdir(parents=True)
        Path(volume, "lost+found", "#1").touch()
    made = create(settings, ROOT, place)
    assert [one.path for one in made.manifest.items if "lost" in one.path] == ["artifacts/mlflow/lost+found/#1"]
    restore(new, place, "latest")
    open_store(new).close()


def test_a_place_that_cannot_be_looked_at_is_a_sentence_and_nothing_is_written(
    settings: Settings, ids: list[str], place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(settings, ROOT, place)
    new = elsewhere(tmp_path)

    def closed(folder: str) -> None:
        raise PermissionError(13, "Permission denied", f"{folder}/private")

    monkeypatch.setattr("mlops_ray.operations.backup.restore.walk", closed)
    with pytest.raises(UnavailableError, match=r"cannot be read: .*/private'\. Nothing was written\. Have it"):
        restore(new, place, "latest")
    assert not Path(new.state).exists()


@pytest.mark.parametrize(
    ("target", "said"),
    [("/nowhere", "leads nowhere"), ("loop", "leads nowhere"), (".", "leads to a folder that it lies in")],
)
def test_a_link_that_leads_nowhere_or_round_is_refused(
    settings: Settings, ids: list[str], place: Place, target: str, said: str
) -> None:
    Path(settings.artifacts, "snapshots", "loop").symlink_to(target)
    with pytest.raises(ConfigurationError, match=f"/snapshots/loop is a link that {said}"):
        create(settings, ROOT, place)
    assert place.points() == []


def test_what_lies_behind_a_link_is_backed_up(settings: Settings, ids: list[str], place: Place, tmp_path: Path) -> None:
    before = files_of(settings.artifacts)
    (tmp_path / "disk").mkdir()
    shutil.move(f"{settings.artifacts}/snapshots", tmp_path / "disk")
    Path(settings.artifacts, "snapshots").symlink_to(tmp_path / "disk" / "snapshots")
    made = create(settings, ROOT, place)
    kept = {one.path.removeprefix("artifacts/") for one in made.manifest.below("artifacts")}
    assert {path for path in before if path.startswith("snapshots/")} <= kept


def test_a_damaged_manifest_is_listed_as_such_and_hides_no_other_backup(
    settings: Settings, ids: list[str], place: Place
) -> None:
    first, second, third, last = (create(settings, ROOT, place).id for _ in range(4))
    cut = Path(place.root, "points", second, "manifest.json")
    cut.write_bytes(cut.read_bytes()[:100])
    newer = b'{"format": 2}'
    named = f"{third.partition('-')[0]}-{hashlib.sha256(newer).hexdigest()[:12]}"
    Path(place.root, "points", third, "manifest.json").write_bytes(newer)
    Path(place.root, "points", third).rename(Path(place.root, "points", named))
    command = ["backup", "list", "--place", place.root, "--state", settings.state]
    told = CliRunner().invoke(app, command)
    lines = told.output.splitlines()
    assert (told.exit_code, [line[: len(first)] for line in lines]) == (1, [first, second, named, last])
    assert "cannot be read: The manifest of backup" in lines[1]
    assert "has format 2" in lines[2]
    told = CliRunner().invoke(app, [*command, "--json"])
    found = json.loads(told.stdout)
    assert (told.exit_code, [one["id"] for one in found["backups"]]) == (1, [first, last])
    assert [one["id"] for one in found["cannot_be_read"]] == [second, named]
    shutil.rmtree(cut.parent)
    shutil.rmtree(Path(place.root, "points", named))
    assert CliRunner().invoke(app, command).exit_code == 0


SERVER = "postgresql://u:p@db.internal"


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("sqlite:////srv/both.db", "sqlite:////srv/both.db?timeout=5", True),
        ("sqlite:////srv/both.db", "sqlite:////srv/../srv/both.db", True),
        ("sqlite:////srv/both.db", "sqlite:////srv/other.db", False),
        (f"{SERVER}/both", f"{SERVER.replace('u:p', 'v:q')}:5432/both?sslmode=require", True),
        (f"{SERVER.replace('://', '+psycopg://')}/both", f"{SERVER}/both?options=-csearch_path%3Dfeast", True),
        (f"{SERVER}/one", f"{SERVER}/other", False),
        (f"{SERVER}/both", f"{SERVER}:5433/both", False),
        ("postgresql:///both?host=/run/one", "postgresql:///both?host=/run/other", False),
    ],
)
def test_stores_that_share_a_database_are_found_however_it_is_written(one: str, other: str, shared: bool) -> None:
    settings = load_settings(state="/s", data="/d", mlflow_uri=one, feast_registry=other)
    with pytest.raises(ConfigurationError, match="'mlflow_uri' and 'feast_registry'") if shared else nullcontext():
        expect_own_databases(settings)


def test_stores_that_share_a_database_are_refused_before_anything_is_written(
    settings: Settings, ids: list[str], place: Place, tmp_path: Path
) -> None:
    """The second would be put over the first."""
    said = "'mlflow_uri' and 'feast_registry' name one database.* Move the tables of 'feast_registry' to a database of"
    create(settings, ROOT, place)
    before, both = (
        files_of(place.root),
        {"mlflow_uri": f"sqlite:///{tmp_path}/x", "feast_registry": f"sqlite:///{tmp_path}/x"},
    )
    with pytest.raises(ConfigurationError, match=said):
        create(load_settings(state=settings.state, data=settings.data, **both), ROOT, place)
    assert files_of(place.root) == before
    with pytest.raises(ConfigurationError, match=said):
        restore(elsewhere(tmp_path, **both), place, "latest")
    assert not (tmp_path / "new").exists()


def _rows(told: dict[str, Any], table: str) -> list[Any]:
    return next(one for one in told["items"] if f"-{table}-" in one[0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda told: told["databases"].update(evil="sqlite"), "a database 'evil' of 'sqlite'"),
        (lambda told: told["databases"].update(mlflow_uri="mysql"), "a database 'mlflow_uri' of 'mysql'"),
        (lambda told: _rows(told, "events").__setitem__(0, "control_store/x"), "control_store/x is no file of rows"),
        (
            lambda told: _rows(told, "events").__setitem__(0, "control_store/000001-evil-000000.jsonl"),
            "is no file of r",
        ),
        (lambda told: told["items"].remove(_rows(told, "events")), "rows of the control store are missing"),
        (
            lambda told: told.update(items=[one for one in told["items"] if "control_store" not in one[0]]),
            "are missing",
        ),
        (
            lambda told: told.update(items=[one for one in told["items"] if one[0] != "mlflow_uri"]),
            "of 'mlflow_uri' is",
        ),
        (lambda told: _rows(told, "events").__setitem__(4, False), "of control_store/.* it has only the digest"),
        (lambda told: told["items"].append(["elsewhere", *told["items"][0][1:]]), "nothing that belongs in elsewhere"),
        (lambda told: told["items"].append(told["items"][0]), "names .* twice"),
        (lambda told: told["items"].append([told["items"][-1][0] + "/x", *told["items"][-1][1:]]), "file and a folder"),
        (lambda told: told.update(made_at="yesterday"), "yesterday"),
        (lambda told: told.update(made_at="2026-01-01T00:00:00"), "has no time zone"),
        (lambda told: told.update(databases=["mlflow_uri"]), "databases"),
        (lambda told: told["roots"].update(artifacts=3), "roots"),
        (lambda told: told.update(events="many"), "events"),
    ],
)
def test_a_manifest_that_somebody_made_is_refused_before_anything_is_written(
    settings: Settings, ids: list[str], place: Place, tmp_path: Path, change: Any, said: str
) -> None:
    made = create(settings, ROOT, place)
    told = json.loads(made.manifest.to_bytes())
    change(told)
    content = json.dumps(told).encode()
    id = f"20991231T000000000000Z-{hashlib.sha256(content).hexdigest()[:12]}"
    place.files.write_bytes(content, "points", id, "manifest.json")
    with pytest.raises(IntegrityError, match=rf"{id} .*{said}"):
        restore(elsewhere(tmp_path), place, id)
    assert not (tmp_path / "new").exists()
    create(settings, ROOT, place)


def test_rows_that_do_not_fit_their_table_are_a_sentence(tmp_path: Path) -> None:
    for lines in (b'{"name": "x"}\n', b"[]\n", b"{", b'{"seq": "x", "hash": null}\n'):
        store = ControlStore(f"sqlite:///{tmp_path}/{len(lines)}.db")
        with pytest.raises(IntegrityError, match=r"rows of event_head .* do not fit"):
            fill(store, SCHEMA_REVISION, [("event_head", lines)])
        with pytest.raises(IntegrityError, match=r"rows of nothing .* do not fit"):
            fill(store, SCHEMA_REVISION, [("nothing", b'{"a": 1}')])
        store.close()
