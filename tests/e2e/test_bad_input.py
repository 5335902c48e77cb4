"""Wrong input at the command line: one clear sentence, exit code 1, never a traceback."""

import socket
from pathlib import Path

import pytest

from tests.pipeline_run import ROOT, SMALL, SMALL_AS_OF, command, pipeline_command, run, write_small_data

FLIGHTS = str(ROOT / "use_cases" / "flights.py")


def refused(arguments: list[str], **environment: str) -> str:
    done = run(arguments, **environment)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert done.stderr.startswith("error: ")
    return done.stderr


def test_a_use_case_that_does_not_import(tmp_path: Path) -> None:
    (tmp_path / "case.py").write_text("import nothing_of_that_name\n")
    assert "does not import: ModuleNotFoundError" in refused(command("run", str(tmp_path / "case.py")))


def test_a_use_case_that_does_not_exist() -> None:
    assert "there is no use case 'flight'" in refused(command("run", "flight")).lower()


def test_a_typo_in_an_expression_is_the_users(tmp_path: Path) -> None:
    text = Path(FLIGHTS).read_text()
    (tmp_path / "case.py").write_text(text.replace('pl.col("arr_delay") >= 15', 'pl.col("arr_dely") >= 15'))
    message = refused(command("run", str(tmp_path / "case.py")))
    assert "label 'late': column 'arr_dely' is not in source 'flights'. Did you mean 'arr_delay'?" in message


def test_a_place_where_no_program_may_run_is_said_before_the_work_begins(tmp_path: Path) -> None:
    """In a mount namespace of its own, where this user is root and nothing in HAProxy's folder may run."""
    serve = " ".join(command("serve", FLIGHTS, "--state", str(tmp_path / "state")))
    place = "/tmp/mlops-0"
    inside = f"mkdir -p {place} && mount -t tmpfs -o noexec,mode=700 tmpfs {place} && exec {serve}"
    if run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)]).returncode:
        pytest.skip("no mount namespaces here")
    assert "where no program may run (mounted noexec). Remount it" in refused(["unshare", "-rm", "sh", "-c", inside])


def test_a_setting_with_a_typo(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("artefacts: /tmp\n")
    message = refused(command("run", FLIGHTS, "--config", str(tmp_path / "settings.yaml")))
    assert "Unknown setting 'artefacts'. Did you mean 'artifacts'?" in message


@pytest.mark.parametrize("moment", ["yesterday", "2014-01-01T05:00:00"])
def test_a_moment_that_is_none(moment: str) -> None:
    assert f"--as-of '{moment}'" in refused(command("run", FLIGHTS, "--as-of", moment))


def test_a_port_already_taken(tmp_path: Path) -> None:
    write_small_data(tmp_path / "data")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"Port {port}" in refused(pipeline_command(SMALL, tmp_path, SMALL_AS_OF, "--serve", "--port", str(port)))


def test_a_relative_path_in_a_submitted_job() -> None:
    message = refused(command("run", FLIGHTS, "--state", "state"), RAY_JOB_CONFIG_JSON_ENV_VAR="{}")
    assert "relative path 'state'" in message


def test_no_data_at_all(tmp_path: Path) -> None:
    message = refused(pipeline_command(SMALL, tmp_path, SMALL_AS_OF))
    assert "Source flights: no file matches" in message


@pytest.mark.timeout(120)
def test_every_unusable_file_is_named_at_once(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_small_data(data)
    january = (data / "flights_2013-01.csv").read_text()
    (data / "flights_2013-01.csv").write_text(january.replace("dep_delay", "departure_delay", 1))
    (data / "weather_2013-02.csv").write_bytes(b"")
    (data / "planes.csv").write_bytes(b"\x00\x01\xff\n\x02")
    message = refused(pipeline_command(SMALL, tmp_path, SMALL_AS_OF))
    assert "flights_2013-01.csv: column dep_delay is missing" in message
    assert "weather_2013-02.csv cannot be read" in message
    assert "planes.csv" in message
    assert not (tmp_path / "state/artifacts/snapshots").exists()


@pytest.mark.timeout(120)
def test_a_source_without_rows_is_named(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_small_data(data)
    header = (data / "planes.csv").read_text().splitlines()[0]
    (data / "planes.csv").write_text(f"{header}\n")
    message = refused(pipeline_command(SMALL, tmp_path, SMALL_AS_OF))
    assert "Source planes: none of its 0 rows was accepted" in message
