"""Which files are a source's, and when a file must be read again for its digest."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_ray import Column, Source
from mlops_ray.config import load_settings
from mlops_ray.errors import DataError
from mlops_ray.ingestion import file_digests
from mlops_ray.ingestion.readers import read_file
from mlops_ray.ingestion.sources import find_all_files, find_files

COLUMNS = (Column("a", "integer"),)
AWKWARD = "Kurs [2024] #3 (50%20 off)? & Zürich;'"


def names(folder: Path | str, pattern: str) -> list[str]:
    return [file.name for file in find_files(str(folder), "numbers", Source(pattern, COLUMNS))]


def put(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("a\n1\n")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.csv", ["1.csv"]),
        ("*/*.csv", ["x/2.csv"]),
        ("x/*.csv", ["x/2.csv"]),
        ("**/*.csv", ["1.csv", "x/2.csv", "x/y/3.csv"]),
        ("x/**/*.csv", ["x/2.csv", "x/y/3.csv"]),
        ("x/**", ["x/2.csv", "x/y/3.csv"]),
        ("**/y/?.csv", ["x/y/3.csv"]),
        ("x/y/[1-4].csv", ["x/y/3.csv"]),
    ],
)
def test_a_pattern_means_what_it_means_in_a_shell(tmp_path: Path, pattern: str, found: list[str]) -> None:
    put(tmp_path, "1.csv", "x/2.csv", "x/y/3.csv")
    assert names(tmp_path, pattern) == found


parts = st.sampled_from(["a", "b", ".h", "ab"])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(parts, min_size=1, max_size=4), min_size=1, max_size=6),
    st.lists(st.sampled_from(["*", "**", "a", "?", "a*", ".*"]), min_size=1, max_size=4),
)
def test_what_is_found_is_what_the_glob_module_finds(
    tmp_path_factory: pytest.TempPathFactory, paths: list[list[str]], pattern: list[str]
) -> None:
    import glob

    folder = tmp_path_factory.mktemp("data")
    for path in paths:
        put(folder, "/".join([*path[:-1], f"{path[-1]}.csv"]))
    text = "/".join(pattern) + "/*.csv"
    right = sorted({str(Path(one)) for one in glob.glob(text, root_dir=folder, recursive=True)})
    try:
        found = names(folder, text)
    except DataError:
        found = []
    assert found == sorted(right)


def test_hidden_names_are_left_out_unless_the_pattern_names_them(tmp_path: Path) -> None:
    put(tmp_path, "x.csv", "._x.csv", ".ipynb_checkpoints/x.csv", ".git/x.csv", "sub/.x.csv")
    assert names(tmp_path, "**/*.csv") == ["x.csv"]
    assert names(tmp_path, "._*.csv") == ["._x.csv"]


def test_capital_endings_are_read(tmp_path: Path) -> None:
    put(tmp_path, "X.CSV", "y.csv", "z.Csv")
    assert names(tmp_path, "*.csv") == ["X.CSV", "y.csv", "z.Csv"]
    assert names(tmp_path, "X*") == ["X.CSV"]


def test_unknown_endings_are_all_named(tmp_path: Path) -> None:
    put(tmp_path, "x.csv", "notes.md", "sub/x.xls")
    with pytest.raises(DataError, match=r"cannot read notes\.md, sub/x\.xls\. Known endings: \.csv"):
        names(tmp_path, "**")


def test_a_source_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Source numbers: no file matches"):
        names(tmp_path, "*.csv")
    with pytest.raises(DataError, match="Source numbers: no file matches"):
        names(tmp_path / "nowhere", "*.csv")


def test_links_are_followed_once(tmp_path: Path) -> None:
    put(tmp_path, "raw/x.csv", "raw/sub/y.csv")
    (tmp_path / "raw/again").symlink_to(tmp_path / "raw")
    (tmp_path / "a_link").symlink_to(tmp_path / "raw/sub")
    (tmp_path / "raw/0.csv").symlink_to(tmp_path / "raw/x.csv")
    (tmp_path / "raw/sub/up").symlink_to("../..")
    assert names(tmp_path, "**/*.csv") == ["raw/sub/y.csv", "raw/x.csv"]


def test_folders_that_link_to_one_another_take_no_time(tmp_path: Path) -> None:
    for number in range(12):
        put(tmp_path, f"{number}/x.csv")
        for other in range(12):
            (tmp_path / f"{number}/to{other}").symlink_to(tmp_path / str(other))
    assert len(names(tmp_path, "**/*.csv")) == 12


def test_data_elsewhere_is_read_through_a_link(tmp_path: Path) -> None:
    put(tmp_path, "elsewhere/x.csv", "one/y.csv")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/z.csv").symlink_to(tmp_path / "one/y.csv")
    assert names(tmp_path / "data", "**/*.csv") == ["linked/x.csv", "z.csv"]


def test_a_link_to_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.csv").symlink_to(tmp_path / "gone.csv")
    with pytest.raises(DataError, match=r"x\.csv is a link to nothing"):
        names(tmp_path, "*.csv")


def test_a_name_that_is_no_text_is_an_error_in_a_sentence(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.csv")).touch()
    with pytest.raises(DataError, match=r"Source numbers: .* cannot be listed"):
        names(tmp_path, "*.csv")


def test_an_empty_pattern_matches_nothing_and_folders_are_no_files(tmp_path: Path) -> None:
    put(tmp_path, "x.csv/y.csv")
    with pytest.raises(DataError, match="no file matches"):
        names(tmp_path, "")
    assert names(tmp_path, "**/*.csv") == ["x.csv/y.csv"]


@pytest.mark.parametrize("place", [str, lambda path: f"file://{quote(path)}"], ids=["path", "url"])
def test_any_name_of_the_data_folder_and_of_a_file_works(tmp_path: Path, place: Callable[[str], str]) -> None:
    folder = tmp_path / AWKWARD
    put(folder, f"{AWKWARD}/a b%20.csv", "other/c.csv")
    source = Source("*/*.csv", COLUMNS)
    found = find_files(place(str(folder)), "numbers", source)
    assert [file.name for file in found] == [f"{AWKWARD}/a b%20.csv", "other/c.csv"]
    assert [stretch.frame["a"].to_list() for file in found for stretch in read_file(file, source)] == [["1"], ["1"]]


def test_a_file_url_with_a_bare_query_is_refused_with_the_next_step() -> None:
    with pytest.raises(DataError, match="write # as %23"):
        names("file:///data/what?", "*.csv")


# --- digests


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the files that are read for their digest."""
    read, plain = [], file_digests._sha256
    monkeypatch.setattr(file_digests, "_sha256", lambda filesystem, path: read.append(path) or plain(filesystem, path))
    return read


def digests(folder: Path) -> dict[str, str]:
    settings_ = load_settings(state=str(folder / "state"), data=str(folder / "data"))
    return {file.name: file.sha256 for file in find_all_files(settings_, {"x": Source("*.csv", COLUMNS)})["x"]}


def age(path: Path, seconds: float = 60) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


@pytest.fixture
def old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files that have lain there for a while; the time of change cannot be set back, so the clock is moved on."""
    put(tmp_path, "data/x.csv", "data/y.csv")
    now = time.time
    monkeypatch.setattr(file_digests.time, "time", lambda: now() + 60)
    return tmp_path


def test_a_file_that_did_not_change_is_hashed_once(old_files: Path, hashed: list[str]) -> None:
    first = digests(old_files)
    assert first["x.csv"] == hashlib.sha256(b"a\n1\n").hexdigest()
    assert len(hashed) == 2
    assert digests(old_files) == first
    assert len(hashed) == 2


@pytest.mark.parametrize("change", ["size", "content", "replaced", "time kept"])
def test_a_file_that_changed_is_hashed_again(old_files: Path, hashed: list[str], change: str) -> None:
    digests(old_files)
    file = old_files / "data/x.csv"
    before = file.stat()
    if change == "replaced":
        (old_files / "new").write_text("a\n2\n")
        (old_files / "new").rename(file)
    else:
        file.write_text("a\n22\n" if change == "size" else "a\n2\n")
    if change in ("time kept", "replaced"):
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digests(old_files)["x.csv"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert len(hashed) == 3


def test_a_file_as_young_as_its_times_are_coarse_is_not_trusted(tmp_path: Path, hashed: list[str]) -> None:
    put(tmp_path, "data/x.csv")
    digests(tmp_path)
    digests(tmp_path)
    assert len(hashed) == 2


def test_remembered_digests_serve_each_data_folder_for_itself(old_files: Path, hashed: list[str]) -> None:
    digests(old_files)
    put(old_files, "other/x.csv")
    settings_ = load_settings(state=str(old_files / "state"), data=str(old_files / "other"))
    find_all_files(settings_, {"x": Source("*.csv", COLUMNS)})
    assert len(hashed) == 3
    digests(old_files)
    assert len(hashed) == 3
