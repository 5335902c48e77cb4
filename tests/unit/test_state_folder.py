"""The state folder knows where it belongs, and is looked at before the work begins."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlops_ray.config import Settings, load_settings
from mlops_ray.errors import ConfigurationError, IntegrityError
from mlops_ray.governance.control_store import open_store
from mlops_ray.state_folder import FILE, claim, expect_room, one_at_a_time, sqlite_path


def settings(folder: Path, **more: str) -> Settings:
    return load_settings(state=str(folder), data="/data", **more)


def test_a_copy_and_a_folder_that_moved_are_refused_and_left_as_they_are(tmp_path: Path) -> None:
    home = tmp_path / "state"
    open_store(settings(home)).close()
    shutil.copytree(home, tmp_path / "copy")
    before = {path: path.read_bytes() for path in (tmp_path / "copy").iterdir()}
    with pytest.raises(ConfigurationError, match=rf"copy belongs at {home} and was copied from there.*A link|a link"):
        open_store(settings(tmp_path / "copy"))
    assert {path: path.read_bytes() for path in (tmp_path / "copy").iterdir()} == before
    open_store(settings(home)).close()
    home.rename(tmp_path / "moved")
    with pytest.raises(ConfigurationError, match=rf"moved belongs at {home} and was moved"):
        open_store(settings(tmp_path / "moved"))


def test_the_same_folder_by_another_name_is_no_copy(tmp_path: Path) -> None:
    claim(settings(tmp_path / "state"))
    (tmp_path / "link").symlink_to(tmp_path / "state")
    claim(settings(tmp_path / "link"))
    (tmp_path / "state").rename(tmp_path / "elsewhere")
    (tmp_path / "state").symlink_to(tmp_path / "elsewhere")  # moved, with a link where it was
    claim(settings(tmp_path / "state"))
    claim(settings(tmp_path / "elsewhere"))


def test_a_folder_without_stores_can_be_anywhere(tmp_path: Path) -> None:
    stores = {name: f"postgresql://host/{name}" for name in ("mlflow_uri", "feast_registry", "control_store")}
    claim(settings(tmp_path / "state", artifacts="s3://bucket/artifacts", **stores))
    assert not (tmp_path / "state").exists()


def test_a_damaged_record_is_not_taken_for_a_new_folder(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{")
    with pytest.raises(IntegrityError, match=r"state\.json is damaged"):
        claim(settings(tmp_path))


@pytest.mark.parametrize("place", ["/proc/state", "/dev/null/state", "{file}"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"The state folder .* cannot be written: .*--state"):
        claim(settings(Path(place.format(file=tmp_path / "file"))))


def test_a_full_disk_is_said_before_the_work_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlops_ray.state_folder.LEAST_FREE_MB", 1 << 40)
    with pytest.raises(ConfigurationError, match=r"has [\d,]+ MB left \(needed: 1,099,511,627,776\)"):
        expect_room(settings(tmp_path))


@pytest.mark.parametrize("name", ["mlflow_uri", "feast_registry", "online_store", "control_store"])
def test_a_database_that_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    for place in ("/proc/x.db", str(tmp_path)):  # a folder is no database
        with pytest.raises(ConfigurationError, match=f"Setting '{name}': the database {place} cannot be written"):
            expect_room(settings(tmp_path / "state", **{name: f"sqlite:///{place}"}))


@pytest.mark.skipif(os.getuid() != 0, reason="as another user: needs root to become one")
def test_a_database_of_somebody_else_is_named(tmp_path: Path) -> None:
    """Root may write everywhere, so another user looks."""
    program = (
        "import os, sys; sys.path[:0] = os.environ['PATHS'].split(':')\n"
        "from mlops_ray.config import load_settings; from mlops_ray.state_folder import expect_room\n"
        "settings = load_settings(state=sys.argv[1], data='/d'); os.setgid(65534); os.setuid(65534)\n"
        "expect_room(settings)"
    )
    state = Path("/tmp") / f"mlops-ray-test-{os.getpid()}"
    try:
        claim(settings(state))
        state.chmod(0o777)
        (state / "mlflow.db").touch(mode=0o600)
        done = subprocess.run(
            [sys.executable, "-c", program, str(state)],
            capture_output=True, text=True, env=os.environ | {"PATHS": ":".join(filter(None, sys.path))}, timeout=60,
        )  # fmt: skip
        assert "Setting 'mlflow_uri': the database" in done.stderr, done.stderr
        assert "readonly" in done.stderr or "unable to open" in done.stderr
    finally:
        shutil.rmtree(state, ignore_errors=True)


@pytest.mark.parametrize("name", ["Kurs (50 off)", "Zürich", "a&b=c;d", "it's", 'say "so"', "a+b", "*"])
def test_a_name_that_urls_can_carry_works(tmp_path: Path, name: str) -> None:
    state = tmp_path / name
    store = open_store(settings(state))
    store.close()
    assert sorted(path.name for path in state.iterdir() if path.suffix != ".lock")[:2] == ["control_store.db", FILE]
    assert json.loads((state / FILE).read_text()) == {"state": str(state)}
    assert sqlite_path(settings(state).online_store) == state / "online_store.db"


@pytest.mark.parametrize("character", ["#", "%", "?", "[", "]", "^", "|", "\\"])
@pytest.mark.parametrize("name", ["state", "artifacts", "mlflow_uri", "online_store"])
def test_a_name_that_urls_cannot_carry_is_refused_by_its_character(name: str, character: str) -> None:
    path = f"/data/Kurs {character}3"
    value = path if name in ("state", "artifacts") else f"sqlite:///{path}.db"
    if value.startswith("sqlite") and character not in "#%":
        return  # a question mark begins the options of a database URL, and the others it carries
    told = re.escape(f"{character!r} means something else in the URLs")
    with pytest.raises(ConfigurationError, match=f"{name} is .*{told}"):
        load_settings(**{"state": "/s", "data": "/d"} | {name: value})


def test_one_process_at_a_time_makes_a_database(tmp_path: Path) -> None:
    """A second one waits until the first has ended, also when that is killed."""
    program = (
        "import sys, time; sys.path[:0] = sys.argv[2].split(':')\n"
        "from mlops_ray.state_folder import one_at_a_time\n"
        "with one_at_a_time(sys.argv[1]):\n    print('in', flush=True)\n    time.sleep(60)"
    )
    url = f"sqlite:///{tmp_path}/new/store.db"
    arguments = [sys.executable, "-c", program, url, ":".join(filter(None, sys.path))]
    first, second = (subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(2))
    both = {process.stdout.fileno(): process for process in (first, second) if process.stdout}
    import select

    (inside,), _, _ = select.select(list(both), [], [], 60)
    assert both[inside].stdout.readline() == "in\n"  # type: ignore[union-attr]
    waiting = next(process for descriptor, process in both.items() if descriptor != inside)
    assert not select.select([waiting.stdout], [], [], 1)[0]
    both[inside].kill()
    assert waiting.stdout
    assert waiting.stdout.readline() == "in\n"
    for process in both.values():
        process.kill()
        process.communicate()
    with one_at_a_time("postgresql://nobody/nothing"):
        pass


def test_claimed_by_many_threads_at_once_it_belongs_to_all(tmp_path: Path) -> None:
    for attempt in range(50):
        folder = tmp_path / str(attempt)
        barrier = threading.Barrier(16)

        def one(folder: Path = folder, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            claim(settings(folder))

        with ThreadPoolExecutor(16) as threads:
            for future in [threads.submit(one) for _ in range(16)]:
                future.result()
        assert [file.name for file in folder.iterdir()] == [FILE]


def test_what_a_command_makes_is_closed_to_others_whatever_the_shell_says(tmp_path: Path) -> None:
    mlops_ray = str(Path(sys.executable).with_name("mlops-ray"))
    where = ["--state", str(tmp_path / "state")]
    exported = tmp_path / "state" / "events.jsonl"
    for arguments in (["keys", "create", "root", "--role", "admin"], ["audit", "export", str(exported)]):
        subprocess.run([mlops_ray, *arguments, *where], check=True, umask=0, capture_output=True)
    found = [tmp_path / "state", *(tmp_path / "state").rglob("*")]
    assert exported in found
    assert {path.name: oct(path.stat().st_mode & 0o077) for path in found if path.stat().st_mode & 0o077} == {}
