"""What serving needs around it: variables, a private folder, a free port, settings."""

import os
import re
import resource
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mlops_ray.config import settings_from_environment
from mlops_ray.errors import ConfigurationError
from mlops_ray.serving.environment import (
    MAX_CONNECTIONS,
    SERVE_ENVIRONMENT,
    expect_free_port,
    haproxy_folder,
    serve_environment,
    serve_host,
    tracing_environment,
)


def test_two_clusters_of_a_machine_do_not_share_ports() -> None:
    one, other = serve_environment(), serve_environment()
    assert SERVE_ENVIRONMENT.items() <= one.items()
    ports = [value for made in (one, other) for name, value in made.items() if name.endswith("_PORT")]
    given_to_anybody = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(19_999 < int(port) < max(given_to_anybody, 32_768) for port in ports)
    assert len(set(ports)) >= 5


def test_traces_go_where_the_environment_says_and_nowhere_otherwise() -> None:
    assert tracing_environment({"PATH": "/bin", "OTEL_EXPORTER_OTLP_ENDPOINT": ""}) == {}
    made = tracing_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_SERVICE_NAME": "ours"})
    assert made == {
        "RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH": "mlops_ray.serving.tracing:processors",
        "RAY_SERVE_TRACING_SAMPLING_RATIO": "1",
        "OTEL_SERVICE_NAME": "ours",
    }


@pytest.mark.parametrize("share", ["all", "-0.1", "1.1", "nan", "1e400", ""])
def test_a_share_of_traces_that_is_none_is_said_before_ray_reads_it(share: str) -> None:
    with pytest.raises(ConfigurationError, match="OTEL_TRACES_SAMPLER_ARG"):
        tracing_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_TRACES_SAMPLER_ARG": share})


def test_the_admin_socket_is_out_of_reach_and_its_path_short_enough() -> None:
    folder = haproxy_folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert folder.stat().st_uid == os.getuid()
    node_id, bound_as = "n" * 56, "admin.sock.1234567.tmp"
    assert len(str(folder / node_id / bound_as)) < 108


def test_the_proxy_is_started_with_its_side_ports_on_loopback(tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        "frontend prometheus\n    bind :9101\n    mode http\n"
        "frontend http_frontend\n    bind *:8000\n"
        "listen stats\n  bind *:8404\n"
    )
    script = serve_environment()["RAY_SERVE_HAPROXY_BINARY_PATH"]
    subprocess.run([script, "-db", "-f", str(config), "-c"], capture_output=True, check=False)
    assert re.findall("bind (.*)", config.read_text()) == ["127.0.0.1:9101", "*:8000", "127.0.0.1:8404"]


@pytest.mark.parametrize(
    ("host", "expected"),
    [("*", "127.0.0.1"), ("127.0.0.1", "127.0.0.1"), (serve_host("::"), "127.0.0.1"), ("::1", "[::1]"),
     ("10.0.0.5", "10.0.0.5")],
)  # fmt: skip
def test_the_proxy_asks_replicas_where_they_listen(tmp_path: Path, host: str, expected: str) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        f"frontend http_frontend\n    bind {host}:8000\nbackend app\n"
        "    server here 127.0.0.1:30000 check\n    server there 10.0.0.6:30000 check\n"
        "    server fallback 127.0.0.1:8500 check backup\nlisten stats\n  bind *:8404\n"
    )
    script = serve_environment()["RAY_SERVE_HAPROXY_BINARY_PATH"]
    subprocess.run([script, "-db", "-f", str(config), "-c"], capture_output=True, check=False)
    servers = [f"{expected}:30000", "10.0.0.6:30000", f"{expected}:8500"]
    assert re.findall(r"server \w+ (\S+)", config.read_text()) == servers


def test_an_environment_in_force_starts_the_same_proxy_and_no_script_that_starts_a_script(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_SERVE_HAPROXY_BINARY_PATH", raising=False)
    path = serve_environment()["RAY_SERVE_HAPROXY_BINARY_PATH"]
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", path)
    assert serve_environment()["RAY_SERVE_HAPROXY_BINARY_PATH"] == path
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", "/bin/true")  # somebody's own
    assert "exec '/bin/true'" in Path(serve_environment()["RAY_SERVE_HAPROXY_BINARY_PATH"]).read_text()


def test_a_node_behind_a_company_s_proxy_asks_itself_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "http_proxy", "HTTPS_PROXY", "all_proxy", "HTTP_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert "no_proxy" not in serve_environment()
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "intranet.example")
    made = serve_environment()
    assert made["no_proxy"] == made["NO_PROXY"] == "intranet.example,127.0.0.1,localhost,::1"


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_shell_takes_over_every_variable_as_it_is(shell: str) -> None:
    """As nodes are started (deploy/systemd, deploy/kubernetes), with values that a shell would take apart."""
    given = {
        "HTTP_PROXY": "http://p:3128", "NO_PROXY": "localhost, 10.0.0.0/8", "no_proxy": "",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_SERVICE_NAME": "ours; it's $HOME `id` \\",
    }  # fmt: skip
    program = "import sys; from mlops_ray.cli.main import main; sys.argv[0] = 'mlops-ray'; main()"
    told = f'eval "$("{sys.executable}" -c "{program}" cluster serve-env)"; env -0'
    done = subprocess.run([shell, "-ec", told], env={**os.environ, **given}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    taken = dict(one.split("=", 1) for one in done.stdout.split("\0") if one)
    assert taken["no_proxy"] == taken["NO_PROXY"] == "localhost,10.0.0.0/8,127.0.0.1,::1"
    assert taken["OTEL_SERVICE_NAME"] == given["OTEL_SERVICE_NAME"]
    assert SERVE_ENVIRONMENT.items() <= taken.items()


def test_connections_are_as_many_as_open_files_allow() -> None:
    made = int(serve_environment()["RAY_SERVE_HAPROXY_MAXCONN"])
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert 100 <= made <= MAX_CONNECTIONS
    assert files == resource.RLIM_INFINITY or made == 100 or made * 2.5 + 400 < files


def test_a_taken_port_is_named_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"Port {port} on 127.0.0.1 is already taken"):
            expect_free_port("127.0.0.1", port)
    expect_free_port("127.0.0.1", port)
    with pytest.raises(ConfigurationError, match="Cannot listen on"):
        expect_free_port("192.0.2.77", port)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SETTINGS", "STATE", "DATA"):
        monkeypatch.delenv(f"MLOPS_RAY_{name}", raising=False)
    with pytest.raises(ConfigurationError, match="MLOPS_RAY_STATE"):
        settings_from_environment()
    monkeypatch.setenv("MLOPS_RAY_STATE", "relative")
    with pytest.raises(ConfigurationError, match="relative path"):
        settings_from_environment()
    monkeypatch.setenv("MLOPS_RAY_STATE", str(tmp_path))
    assert settings_from_environment().mlflow_uri == f"sqlite:///{tmp_path}/mlflow.db"
    file = tmp_path / "settings.yaml"
    file.write_text(f"state: /elsewhere\ndata: {tmp_path}/raw\n")
    monkeypatch.setenv("MLOPS_RAY_SETTINGS", str(file))
    assert settings_from_environment().state == str(tmp_path)
    assert settings_from_environment().data == f"{tmp_path}/raw"
