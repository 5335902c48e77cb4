"""pip-audit asks a service over HTTP: here one of this machine that answers as OSV's API does."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from mlops_ray.registry.advisories import audit
from tests.unit.test_vulnerabilities import ADVISORY, LOW

TWIN = ADVISORY | {"id": "PYSEC-2021-66", "aliases": ["CVE-2020-28493"], "severity": []}
OTHER = ADVISORY | {"id": "GHSA-test-0002", "aliases": [], "severity": [{"type": "CVSS_V4", "score": LOW}]}
RECORDS = {record["id"]: record for record in (ADVISORY, TWIN, OTHER)}


class Osv(ThreadingHTTPServer):
    """POST /v1/query answers with the advisories of jinja2 2.11.2, GET /v1/vulns/<id> with one of them."""

    down = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Osv

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert self.path == "/v1/query"
        assert asked["package"]["ecosystem"] == "PyPI"
        hit = (asked["package"]["name"], asked["version"]) == ("jinja2", "2.11.2")
        self._answer({"vulns": [self._as_published(record) for record in RECORDS.values()]} if hit else {})

    def do_GET(self) -> None:
        record = RECORDS.get(self.path.removeprefix("/v1/vulns/"))
        self._answer(record or {"code": 5, "message": "Bug not found."}, 200 if record else 404)

    def _as_published(self, record: dict[str, Any]) -> dict[str, Any]:
        part = record["affected"][0]
        return record | {"affected": [part | {"package": {"ecosystem": "PyPI", "name": "jinja2"}}]}

    def _answer(self, value: Any, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(503 if self.server.down else status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def osv() -> Iterator[Osv]:
    server = Osv(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_pip_audit_finds_what_the_service_knows_and_severities_come_from_its_records(osv: Osv) -> None:
    found = audit({"jinja2": "2.11.2", "msgspec": "0.19.0"}, osv.url)
    assert (found.audited, found.why_not, found.not_known) == (True, "", ())
    assert found.source == f"pip-audit ({osv.url})"
    assert {(one.advisory, one.package, one.severity) for one in found.vulnerabilities} == {
        ("PYSEC-2021-66", "jinja2", "high"),  # as its twin says, which counts as the same
        ("GHSA-test-0002", "jinja2", "low"),
    }
    assert {one.fixed_in for one in found.vulnerabilities} == {("2.11.3",)}
    assert audit({"msgspec": "0.19.0"}, osv.url).vulnerabilities == ()


def test_a_service_that_is_down_makes_an_audit_that_was_not_done(osv: Osv) -> None:
    osv.down = True
    found = audit({"jinja2": "2.11.2"}, osv.url)
    assert not found.audited
    assert found.why_not.startswith("pip-audit failed")
