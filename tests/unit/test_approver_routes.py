"""Changes of rules, delegations, conditions and reports over HTTP, with the SDK and at the command line."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlops_ray.artifacts import Artifacts
from mlops_ray.client import AsyncClient
from mlops_ray.errors import ConflictError, DataError, ForbiddenError
from mlops_ray.governance.approvals import approve, request
from mlops_ray.governance.events import SYSTEM, Actor, read_events
from mlops_ray.governance.keys import active_keys, create_key
from mlops_ray.governance.policies import Policy, policy_of
from mlops_ray.governance.policy_changes import set_policy
from mlops_ray.registry.reports import MAX_REPORT_BYTES
from mlops_ray.testing.example_lineage import AUTHOR
from tests.unit.test_version_routes import Server, serving

TWO = Policy(required=True, min_approvers=2)
ONE = Policy(required=True)
UNTIL = datetime.now(UTC) + timedelta(days=1)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Version 2 is asked for; "cat" approves as well as "bob", and "dan" only predicts."""
    monkeypatch.delenv("MLOPS_RAY_API_KEY", raising=False)
    with serving(tmp_path) as server:
        for name, role in (("cat", "approve"), ("dan", "predict")):
            server.keys[name] = create_key(server.store, SYSTEM, name, [role]).secret
        server.guard.keys = active_keys(server.store)
        request(server.store, AUTHOR, "flights", 2)
        yield server


def asked(server: Server, policy: Policy = TWO) -> str:
    change = set_policy(server.store, AUTHOR, "flights", policy)
    assert change
    return change.id


def test_a_change_of_rules_is_seen_and_decided_by_those_who_approve(server: Server) -> None:
    id = asked(server)
    for who, status in (("eve", 403), ("foreign", 403), ("auditor", 403), ("ann", 403)):
        assert server(who, "/approvals/rules/approve", {"id": id}).status_code == status
    assert server("", "/approvals/rules").status_code == 401
    assert server("eve", "/approvals/rules").json() == {"changes": []}
    assert server("auditor", "/approvals/rules").json()["changes"][0]["policy"]["min_approvers"] == 2
    assert server("bob", "/approvals/rules/approve", {"id": "x"}).status_code == 400
    for _ in range(2):  # again, as after an answer that was lost
        answer = server("bob", "/approvals/rules/approve", {"id": id, "reason": "fine"})
        assert (answer.status_code, answer.json()["state"]) == (200, "in_force")
    assert server("cat", "/approvals/rules/approve", {"id": id, "reason": "fine"}).status_code == 409
    with server.store.reading() as connection:
        assert policy_of(connection, "flights") == TWO
    assert [event.actor for event in read_events(server.store, types=["policy.approved"])] == ["bob"]


def test_rules_are_listed_and_decided_at_the_command_line(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_RAY_API_KEY", server.keys["bob"])
    assert "Nobody has asked for other rules" in server.command("approvals", "rules")
    id = asked(server)
    lines = server.command("approvals", "rules")
    assert id in lines
    assert "min_approvers 2" in lines
    said = server.command("approvals", "reject-rules", id, "--reason", "one is enough")
    assert said == "The change of the rules of flights is rejected; what held stays in force.\n"
    said = server.command("approvals", "approve-rules", asked(server))
    assert said == "The change of the rules of flights is in force now.\n"
    again = asked(server, ONE)
    said = server.command("approvals", "approve-rules", again)
    assert said == "The change of the rules of flights is approved by you, and waits for others.\n"


def test_two_approvers_a_condition_and_a_delegation_over_http(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.client("bob").approvers.approve_rules(asked(server))
    first = server.client("bob").decide("approve", "flights", 2, "fine", condition="only by day")
    again = server.client("bob").decide("approve", "flights", 2, "fine", condition="only by day")
    assert (first["state"], first["assents"][0]["condition"], again) == ("requested", "only by day", first)
    with pytest.raises(ForbiddenError):
        server.client("dan").decide("approve", "flights", 2)
    given = server.client("cat").approvers.delegate("flights", "dan", UNTIL, "away")
    assert server.client("dan").approvers.delegations() == [given]
    assert server.client("eve").approvers.delegations() == []
    done = server.client("dan").decide("approve", "flights", 2, "for cat")
    assert (done["state"], done["decided_by"], done["assents"][1]["for_name"]) == ("approved", "dan", "cat")
    monkeypatch.setenv("MLOPS_RAY_API_KEY", server.keys["cat"])
    line = server.command("approvals", "list").splitlines()[0]
    assert "yes of bob on condition: only by day  yes of dan for cat" in line
    assert f"{given['id']}  flights  dan for cat  until " in server.command("approvals", "delegations")
    said = server.command("approvals", "end-delegation", given["id"], "--reason", "back")
    assert said == "dan does not decide for cat on flights any more.\n"
    with pytest.raises(ForbiddenError):
        server.client("dan").decide("revoke", "flights", 2, "a complaint")


def test_a_right_is_given_at_the_command_line(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_RAY_API_KEY", server.keys["cat"])
    said = server.command(
        "approvals", "delegate", "flights", "dan", "--until", UNTIL.isoformat(), "--reason", "away"
    )  # fmt: skip
    assert said.startswith("dan decides on versions of flights for cat until ")
    assert server("dan", "/approvals/approve", {"model": "flights", "version": 2}).status_code == 200


def test_a_report_is_kept_with_the_approval_and_checked_when_it_is_read(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, file = bytes(range(256)) * 1000, tmp_path / "validation.pdf"
    file.write_bytes(content)
    monkeypatch.setenv("MLOPS_RAY_API_KEY", server.keys["auditor"])
    said = server.command("approvals", "attach", "flights", "2", str(file))
    digest = said.split()[-1]
    assert said == f"validation.pdf is attached to flights@2. SHA-256: {digest}\n"
    assert f"report validation.pdf {digest}" in server.command("approvals", "list")
    server.command("approvals", "report", "flights", "2", digest, "--to", str(tmp_path / "copy.pdf"))
    assert (tmp_path / "copy.pdf").read_bytes() == content
    assert server.client("bob").approvers.report("flights", 2, digest) == content

    async def read() -> bytes:
        async with AsyncClient(server.url, api_key=server.keys["bob"], attempts=1) as client:
            return await client.approvers.report("flights", 2, digest)

    assert asyncio.run(read()) == content
    for who in ("eve", "foreign"):
        body = {"model": "flights", "version": 2, "digest": digest}
        assert server(who, "/approvals/reports/read", body).status_code == 403
    Artifacts(server.settings.artifacts).write_bytes(b"another", "reports", "flights", digest)
    answer = server("bob", "/approvals/reports/read", {"model": "flights", "version": 2, "digest": digest})
    assert answer.status_code == 500
    Artifacts(server.settings.artifacts).delete("reports", "flights", digest)
    assert server("bob", "/approvals/reports/read", {**body}).status_code == 500


def test_a_report_has_a_name_and_a_size_and_a_request_that_it_is_for(server: Server) -> None:
    client = server.client("bob")
    for name, content in (("../x", b"x"), (".x", b"x"), ("", b"x"), ("a\nb", b"x"), ("x", b"")):
        with pytest.raises(DataError):
            client.approvers.attach_report("flights", 2, name, content)
    with pytest.raises(DataError):
        client.approvers.attach_report("flights", 2, "x", b"x" * (MAX_REPORT_BYTES + 1))
    approve(server.store, Actor("cat", ("approve",)), "flights", 2)
    client.decide("revoke", "flights", 2, "a complaint")
    with pytest.raises(ConflictError, match="its approval is revoked"):
        client.approvers.attach_report("flights", 2, "x", b"x")
