"""deploy/nginx/mlops-ray.conf in a real nginx, before a real endpoint: TLS, what is passed on, and what is not."""

import asyncio
import ipaddress
import json
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mlops_ray.serving.environment import CLIENT_TIMEOUT_S, SERVER_TIMEOUT_S, WAITED_HEADER
from mlops_ray.serving.middleware import _NOT_PASSED_ON
from mlops_ray.testing.example_endpoint import ExampleEndpoint, example_endpoint
from tests.integration.front_end import PREFIX
from tests.integration.test_front_end import VECTOR, front_end, replica, running
from tests.integration.test_online_store import free_port, wait_for
from tests.pipeline_run import ROOT

CONF = ROOT / "deploy" / "nginx" / "mlops-ray.conf"
NAME = "models.example.com"
pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed (.ci/run installs it)")


class Front(NamedTuple):
    """https: the port that speaks TLS, http: the other one; certificate: what a caller trusts."""

    https: int
    http: int
    certificate: Path
    log: Path

    def client(self, **options: Any) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(self.certificate))
        return httpx.Client(verify=context, trust_env=False, timeout=30, **options)

    def url(self, scheme: str = "https") -> str:
        return f"{scheme}://127.0.0.1:{self.https if scheme == 'https' else self.http}"


def certificate(folder: Path) -> Path:
    """A key and a certificate for 127.0.0.1 that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    names = x509.SubjectAlternativeName([x509.DNSName(NAME), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    built = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1))
    signed = built.add_extension(names, critical=False).sign(key, hashes.SHA256())
    encoding = serialization.Encoding.PEM
    no_password = serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, no_password))
    (folder / "fullchain.pem").write_bytes(signed.public_bytes(encoding))
    return folder / "fullchain.pem"


def written(folder: Path, upstream: int, https: int, http: int) -> Path:
    """The example with this test's ports, nodes and files in place of its own, and nothing else."""
    text = CONF.read_text()
    for old, new, times in (
        ("listen 80;", f"listen 127.0.0.1:{http};", 1),
        ("listen 443 ssl", f"listen 127.0.0.1:{https} ssl", 1),
        ("10.0.0.11:8000", f"127.0.0.1:{upstream}", 1),
        ("    server 10.0.0.12:8000 max_fails=3 fail_timeout=5s;\n", "", 1),
        ("/etc/ssl/mlops-ray", str(folder), 2),
        ("/var/log/nginx", str(folder), 2),
    ):
        assert text.count(old) == times, old
        text = text.replace(old, new)
    (folder / "site.conf").write_text(text)
    places = "".join(f"{one}_temp_path {folder}/{one};" for one in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    main = f"user root; daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}} http {{ {places} "
    (folder / "nginx.conf").write_text(f"{main}include {folder}/site.conf; }}")
    return folder / "nginx.conf"


@contextmanager
def nginx(folder: Path, upstream: int) -> Iterator[Front]:
    front = Front(free_port(), free_port(), certificate(folder), folder / "mlops-ray.log")
    conf = written(folder, upstream, front.https, front.http)
    process = subprocess.Popen(["nginx", "-c", conf, "-e", folder / "error.log"])
    try:
        wait_for(front.https)
        yield front
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExampleEndpoint]:
    with example_endpoint(tmp_path_factory.mktemp("state")) as example:
        yield example


@pytest.fixture(scope="module")
def front(example: ExampleEndpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    make = tmp_path_factory.mktemp
    with (
        running(replica(example.app)) as port,
        front_end(port, make("haproxy")) as url,
        nginx(make("nginx"), int(url.rpartition(":")[2])) as front,
        front.client() as client,
    ):
        until = time.monotonic() + 20
        while ask(client, front, example).status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.1)
        yield front


def ask(client: httpx.Client, front: Front, example: ExampleEndpoint, **headers: str) -> httpx.Response:
    given = {"authorization": f"Bearer {example.key}", **headers}
    return client.post(f"{front.url()}{PREFIX}/predict", json={"features": VECTOR}, headers=given)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Front, list[dict[str, str]]]]:
    """nginx before a server that keeps the headers of each request."""
    kept: list[dict[str, str]] = []

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        kept.append({name.decode(): value.decode() for name, value in scope["headers"]})
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    with running(echo) as port, nginx(tmp_path_factory.mktemp("echo"), port) as front:
        yield front, kept


def test_a_prediction_is_asked_over_tls(front: Front, example: ExampleEndpoint) -> None:
    with front.client() as client:
        answer = ask(client, front, example)
    assert answer.status_code == 200
    assert answer.json()["predictions"]
    assert answer.headers["strict-transport-security"].startswith("max-age=")
    assert "nginx/" not in answer.headers["server"]
    line = front.log.read_text().splitlines()[-1]
    assert line.endswith(answer.headers["x-request-id"])
    assert example.key not in front.log.read_text()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_old_protocols_are_refused(front: Front) -> None:
    context = ssl.create_default_context(cafile=str(front.certificate))
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert httpx.get(f"{front.url()}/v2/health/live", verify=context, trust_env=False).status_code < 500
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(httpx.ConnectError):
        httpx.get(front.url(), verify=context, trust_env=False)


def test_http_leads_to_https_and_takes_no_key(front: Front) -> None:
    with front.client() as client:
        led = client.get(f"{front.url('http')}/console?x=1", headers={"host": "evil.example.org"})
        assert (led.status_code, led.headers["location"]) == (308, f"https://{NAME}/console?x=1")
        refused = client.post(f"{front.url('http')}{PREFIX}/predict", json={"features": VECTOR})
        assert refused.status_code == 403
        assert "rotate" in refused.text


def test_what_a_caller_may_not_say_is_not_passed_on(seen: tuple[Front, list[dict[str, str]]]) -> None:
    front, kept = seen
    hostile = {
        WAITED_HEADER: "0",
        "X-Request-Timeout-Seconds": "9999",
        "X-Request-Disconnect-Disabled": "?1",
        "X-Forwarded-For": "10.9.9.9",
        "X-Real-IP": "10.9.9.9",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "evil.example.com",
        "Forwarded": "for=10.9.9.9",
        "x_mlops_ray_waited_ms": "0",
    }
    with front.client() as client:
        client.get(front.url(), headers={**hostile, "x-request-id": "kept", "traceparent": "kept", "host": NAME})
    passed = kept[-1]
    assert {"x-request-id", "traceparent"} <= passed.keys()
    assert not [name for name in passed if "waited" in name or "timeout" in name or "disconnect" in name]
    assert (passed["x-forwarded-for"], passed["x-real-ip"]) == ("127.0.0.1", "127.0.0.1")
    assert (passed["x-forwarded-proto"], passed["host"]) == ("https", NAME)
    assert not {"forwarded", "x-forwarded-host", "proxy"} & passed.keys()


def test_every_header_that_the_endpoint_drops_is_dropped_before_it_too() -> None:
    """But the request id, which callers choose."""
    dropped = {name.decode() for name in _NOT_PASSED_ON} - {"x-request-id"}
    text = CONF.read_text().lower()
    assert [name for name in dropped if f'proxy_set_header {name} "";' not in text] == []


def test_heads_and_bodies_have_the_limits_of_the_endpoint(front: Front, example: ExampleEndpoint) -> None:
    with front.client() as client:
        large = ask(client, front, example, **{"x-a": "a" * 9000})
        assert large.status_code == 400
        body = b'{"features": "' + b"a" * 10_600_000
        answer = client.post(f"{front.url()}{PREFIX}/predict", content=body)
        assert answer.status_code == 413
        assert "10 MB" in answer.json()["error"]
        assert client.get(f"{front.url()}/-/healthz").status_code == 404


def test_a_body_that_stalls_is_closed_in_time(front: Front, example: ExampleEndpoint) -> None:
    head = f"POST {PREFIX}/predict HTTP/1.1\r\nHost: {NAME}\r\nAuthorization: Bearer {example.key}\r\n"
    head += "Content-Length: 99\r\n\r\n{"

    async def kept_s() -> float:
        context = ssl.create_default_context(cafile=str(front.certificate))
        reader, writer = await asyncio.open_connection("127.0.0.1", front.https, ssl=context)
        began_s = time.monotonic()
        writer.write(head.encode())
        while await asyncio.wait_for(reader.read(1000), 30):
            pass
        writer.close()
        return time.monotonic() - began_s

    assert asyncio.run(kept_s()) < SERVER_TIMEOUT_S + 2


def test_where_no_node_is_reached_the_answer_is_ours(tmp_path: Path) -> None:
    with nginx(tmp_path, free_port()) as front, front.client() as client:
        answer = client.post(f"{front.url()}{PREFIX}/predict", json={"features": VECTOR})
    assert answer.status_code == 502  # which says, as HAProxy's does, that a request may have taken effect
    assert json.loads(answer.text).keys() == {"error", "field", "request_id"}


def test_times_are_ordered_so_that_the_endpoint_answers_first() -> None:
    text = CONF.read_text()
    read_s = int(text.split("proxy_read_timeout ")[1].split("s;")[0])
    idle_s = int(text.split("    keepalive_timeout ")[1].split("s;")[0])
    assert read_s > SERVER_TIMEOUT_S
    assert idle_s < CLIENT_TIMEOUT_S
