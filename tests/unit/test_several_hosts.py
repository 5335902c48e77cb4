"""A control store that fails over is named with all its servers, as PostgreSQL's own tools take it."""

import pytest

from mlops_ray.governance.control_store import ControlStore

ONE = "postgresql://me:hunter2x@one:5433/db"  # pragma: allowlist secret
TWO = "postgresql://me:hunter2x@one:5433,two:5434/db?target_session_attrs=read-write"  # pragma: allowlist secret


@pytest.mark.parametrize(("url", "hosts", "ports"), [(ONE, "one", 5433), (TWO, "one,two", "5433,5434")])
def test_each_server_of_the_url_is_asked(url: str, hosts: str, ports: object) -> None:
    store = ControlStore(url)
    _, given = store._engine.dialect.create_connect_args(store._parsed)
    assert (given["host"], given["port"], given["user"], given["password"]) == (hosts, ports, "me", "hunter2x")
    assert given.get("target_session_attrs") == ("read-write" if "," in hosts else None)


def test_what_is_said_of_it_names_all_and_no_password() -> None:
    said = str(ControlStore(TWO))
    assert "one" in said
    assert "two" in said
    assert "hunter2x" not in said
