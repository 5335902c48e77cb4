"""Where a notification may go: addresses on the public internet, and hosts that the settings name.

What a name resolves to is checked where a socket connects, on the address that it connects to: an answer of DNS that
was checked before says nothing about the next one (DNS rebinding).
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

from mlops_ray.errors import ForbiddenError

# Inside Azure this public address is the machine's own metadata service.
_METADATA = {"168.63.129.16"}
_NAT64 = IPv6Network("64:ff9b::/96")
_guard = threading.local()


class _RefusedError(OSError):
    """What a library that tries to connect sees."""


def problem_with(host: str) -> str | None:
    """Why nothing may be sent to this address; None if it may, or if `host` is a name."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    inner = _inner(address) or address
    if str(inner) in _METADATA or not inner.is_global or inner.is_multicast:
        return f"{host} is a private, local or metadata address"
    return None


@contextmanager
def public_addresses_only() -> Iterator[None]:
    """Inside, this thread connects to public addresses only.

    Raises ForbiddenError instead of what a library makes of a connection that was refused. Python calls a hook before
    each connection (PEP 578), so it holds for every library that uses Python's sockets in this thread.
    """
    _install()
    _guard.active, _guard.refused = True, None
    try:
        yield
        problem = _guard.refused
    except Exception as error:
        if _guard.refused is None:
            raise
        raise _forbidden(_guard.refused) from error
    finally:
        _guard.active = False
    if problem is not None:
        raise _forbidden(problem)


def _forbidden(problem: str) -> ForbiddenError:
    return ForbiddenError(f"{problem}, where nothing is sent. Name the host in webhook_allowed_hosts to allow it.")


def _inner(address: IPv4Address | IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address only carries."""
    if isinstance(address, IPv4Address):
        return None
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)


@cache
def _install() -> None:
    """Once in a process: a hook cannot be taken out again."""
    sys.addaudithook(_before)


def _before(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in ("socket.connect", "socket.sendto") or not getattr(_guard, "active", False):
        return
    address = arguments[1]
    # A path is a socket of this machine.
    problem = problem_with(str(address[0])) if isinstance(address, tuple) else f"{address!r} is on this machine"
    if problem is not None:
        _guard.refused = problem
        raise _RefusedError(problem)
