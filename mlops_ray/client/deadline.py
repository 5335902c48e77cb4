"""Deadlines of the synchronous client: httpx limits each wait for the network, and this all of them together."""

import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore
import httpx

_PIECE_BYTES = 16_384  # what is written with one look at the clock; less than any system's send buffer


class DeadlineBackend(httpcore.SyncBackend):
    """httpcore's network, in which no wait passes the end of the `within` that its thread is in.

    A server that sends a byte now and then, or takes one, holds a request no longer than one that sends none; nor do
    the many addresses of a name. Looking the name up is the system's, with limits of its own.
    """

    def __init__(self) -> None:
        self._here = threading.local()

    def attach_to(self, client: httpx.Client) -> None:
        """Let `client` reach the network through this alone, proxies of the environment included."""
        for transport in (client._transport, *client._mounts.values()):
            if isinstance(transport, httpx.HTTPTransport):
                transport._pool._network_backend = self

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Limit what this thread does with the network meanwhile to so many seconds in all."""
        self._here.until = time.monotonic() + seconds
        try:
            yield
        finally:
            del self._here.until

    def left(self, timeout: float | None) -> float:
        """How long a wait that may take `timeout` may take now. Raises httpcore.ReadTimeout if the time is over."""
        until: float = getattr(self._here, "until", float("inf"))
        remaining_s = min(until - time.monotonic(), float("inf") if timeout is None else timeout)
        if remaining_s <= 0:
            raise httpcore.ReadTimeout("the time for the whole answer is over")
        return remaining_s

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        problem: Exception = httpcore.ConnectError(f"{host} has no address")
        try:
            addresses = dict.fromkeys(found[4][0] for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        for address in addresses:
            try:
                stream = super().connect_tcp(str(address), port, self.left(timeout), local_address, socket_options)
                return _Stream(stream, self)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                problem = error
        raise problem


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, backend: DeadlineBackend):
        self._stream, self._backend = stream, backend

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._backend.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _PIECE_BYTES):
            self._stream.write(buffer[start : start + _PIECE_BYTES], self._backend.left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, self._backend.left(timeout)), self._backend)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
