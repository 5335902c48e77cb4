"""Settings of an audit log: where its anchors go, keys made by openssl, and a server of time stamps."""

import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from mlops_ray.config import Settings


def anchored_in(place: object) -> Settings:
    """Anchors in that file, and nothing else."""
    return Settings(state="/state", data="/data", audit_anchors=str(place))


def make_keys(folder: Path) -> tuple[Path, Path]:
    """A private and a public Ed25519 key, as the docs say how to make them."""
    folder.mkdir(parents=True, exist_ok=True)
    private, public = folder / "private.pem", folder / "public.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    return private, public


class TimeStampServer(ThreadingHTTPServer):
    """A time stamp authority: `openssl ts` behind HTTP. roots: the certificate that stands behind its stamps."""

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), _Stamping)
        self.folder, self.roots = folder, folder / "root.pem"
        self.is_down = False
        folder.mkdir(parents=True)
        (folder / "tsa.cnf").write_text(_AUTHORITY.format(folder=folder))
        new_key = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-config", folder / "tsa.cnf"]
        self._openssl("req", "-x509", *new_key, "-subj", "/CN=root", "-keyout", "root.key", "-out", "root.pem")
        self._openssl("req", *new_key, "-subj", "/CN=stamps", "-keyout", "tsa.key", "-out", "tsa.csr")
        signed = ["-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial", "-days", "2"]
        extensions = ["-extfile", "tsa.cnf", "-extensions", "stamps"]
        self._openssl("x509", "-req", "-in", "tsa.csr", *signed, *extensions, "-out", "tsa.pem")
        (folder / "serial").write_text("01")
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def answer(self, query: bytes) -> bytes:
        (self.folder / "query.tsq").write_bytes(query)
        self._openssl("ts", "-reply", "-config", "tsa.cnf", "-queryfile", "query.tsq", "-out", "answer.tsr")
        return (self.folder / "answer.tsr").read_bytes()

    def _openssl(self, *arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], cwd=self.folder, check=True, capture_output=True)


class _Stamping(BaseHTTPRequestHandler):
    server: TimeStampServer

    def do_POST(self) -> None:
        query = self.rfile.read(int(self.headers["content-length"]))
        if self.server.is_down:
            self.send_error(503)
            return
        answer = self.server.answer(query)
        self.send_response(200)
        self.send_header("content-type", "application/timestamp-reply")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


_AUTHORITY = """
[req]
distinguished_name = name
[name]
[stamps]
extendedKeyUsage = critical, timeStamping
[tsa]
default_tsa = stamping
[stamping]
dir = {folder}
serial = {folder}/serial
crypto_device = builtin
signer_cert = {folder}/tsa.pem
certs = {folder}/root.pem
signer_key = {folder}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha512
accuracy = secs:1
ess_cert_id_chain = no
"""
