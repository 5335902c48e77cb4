"""What would fail after minutes is said at once."""

import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from mlops_ray.client import Client, on_this_machine
from mlops_ray.config import load_settings
from mlops_ray.errors import ConfigurationError, UnavailableError
from mlops_ray.operations.preconditions import (
    expect_can_serve,
    expect_can_work,
    expect_programs_run,
    keep_loopback_from_proxies,
)


def test_a_folder_that_is_mounted_noexec_is_named(tmp_path: Path) -> None:
    expect_programs_run(tmp_path)
    mount = ["mount", "-t", "tmpfs", "-o", "noexec,size=1m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount")
    try:
        with pytest.raises(ConfigurationError, match=r"where no program may run \(mounted noexec\)\. Remount it"):
            expect_programs_run(tmp_path)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_port_that_is_taken_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = load_settings(state=str(tmp_path), data="/d", http_port=taken.getsockname()[1])
        with pytest.raises(ConfigurationError, match=r"already taken by another process. Stop it, or set http_port"):
            expect_can_serve(settings)
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
        expect_can_serve(settings)  # the cluster's port is the cluster's


def test_an_address_that_serve_cannot_listen_on_is_refused_at_once() -> None:
    for host in ("[::1]", "127.0.0.1:8000", "fe80::1%eth0", "::g"):
        with pytest.raises(
            ConfigurationError, match=r"which is no address. Give an IPv6 address as it is, such as ::1"
        ):
            load_settings(state="/s", data="/d", http_host=host)


@pytest.mark.parametrize(
    ("host", "url"),
    [("::1", "http://[::1]:8000"), ("::", "http://[::]:8000"), ("models", "http://models:8000")],
)
def test_the_url_of_an_ipv6_address_has_brackets(host: str, url: str) -> None:
    assert load_settings(state="/s", data="/d", http_host=host).url == url


def test_a_folder_for_ray_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "nothing"))
    with pytest.raises(ConfigurationError, match=r"Ray cannot write to .*nothing.*RAY_TMPDIR"):
        expect_can_work(load_settings(state=str(tmp_path), data="/d"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"NO_PROXY": "corp.example"}, None),
        ({"HTTP_PROXY": "http://proxy:3128"}, "127.0.0.1,localhost,::1"),
        ({"https_proxy": "http://proxy:3128", "NO_PROXY": "corp.example"}, "corp.example,127.0.0.1,localhost,::1"),
        ({"ALL_PROXY": "x", "no_proxy": "localhost,a"}, "localhost,a,127.0.0.1,::1"),
    ],
)
def test_a_proxy_is_kept_from_this_machine(given: dict[str, str], expected: str | None) -> None:
    environment = dict(given)
    keep_loopback_from_proxies(environment)
    if expected is None:
        assert environment == given
    else:
        assert environment == given | {"NO_PROXY": expected, "no_proxy": expected}


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8000", True), ("http://localhost", True), ("http://127.9.9.9/v2", True),
        ("http://[::1]:8000", True), ("https://models.example.org", False), ("http://10.0.0.1", False),
    ],
)  # fmt: skip
def test_which_urls_are_this_machine(url: str, here: bool) -> None:
    assert on_this_machine(url) == here


def test_a_client_asks_this_machine_without_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy is a real socket, and nobody knocks."""
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        with socket.socket() as proxy, socket.socket() as free:
            proxy.bind(("127.0.0.1", 0))
            proxy.listen()
            proxy.settimeout(0.2)
            free.bind(("127.0.0.1", 0))
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
            client = Client(f"http://127.0.0.1:{free.getsockname()[1]}", attempts=1, api_key="x")
            with client, pytest.raises(UnavailableError):
                client.predict("flights", keys=[{"a": 1}])
            with pytest.raises(TimeoutError):
                proxy.accept()
            with pytest.raises(httpx.TransportError):  # what it was before
                httpx.get(f"http://127.0.0.1:{free.getsockname()[1]}", timeout=0.2)
            proxy.accept()[0].close()


def test_the_command_says_it_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("http_host: '[::1]'\n")
    command = [str(Path(sys.executable).with_name("mlops-ray")), "keys", "list", "--config", "settings.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: Setting") or done.stderr.startswith("error: http_host is '[::1]'")
    assert done.stderr.count("\n") == 1
