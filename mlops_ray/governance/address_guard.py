"""Where a notification may go: addresses on the public internet, and hosts that the settings name.

What a name resolves to is checked where a socket connects, on the address that it connects to: an answer of DNS that
was checked before says nothing about the next one (DNS rebinding).
"""

import socket
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

from mlops_ray.errors import ForbiddenError

# Inside Azure this public address is the machine's own metadata service.
_METADATA = {"168.63.129.16"}
_NAT64 = IPv6Network("64:ff9b::/96")
_COMPATIBLE = IPv6Network("::/96")
# All of IPv6 that networks have between each other (RFC 4291). The rest carries or stands for something else, and
# Python calls much of it global: site-local fec0::, a site's own NAT64 64:ff9b:1::, ::ffff:0:127.0.0.1, 5f00::.
_UNICAST, _EXAMPLES = IPv6Network("2000::/3"), IPv6Network("3fff::/20")
_SENDING = ("socket.connect", "socket.sendto", "socket.sendmsg")
_guard = threading.local()


class _RefusedError(OSError):
    """What a library that tries to connect sees."""


def addresses_of(host: str) -> list[str]:
    """Every address that a host has now, a name or an address in any form that the system reads; none if unknown."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def problem_with(host: str, allowed: Collection[str] = ()) -> str | None:
    """Why nothing may be sent to this host: one of its addresses is not public, nor `allowed`. None if it may."""
    for address in addresses_of(host):
        if address not in allowed and not _is_public(address):
            said = address if address == host else f"{host} leads to {address}; {address}"
            return f"{said} is a private, local or metadata address"
    return None


@contextmanager
def public_addresses_only(allowed: Collection[str] = ()) -> Iterator[None]:
    """Inside, this thread connects to public addresses only, and to those `allowed`.

    Raises ForbiddenError instead of what a library makes of a connection that was refused. Python calls a hook before
    each connection (PEP 578), so it holds for every library that uses Python's sockets in this thread; uvloop does not,
    so nothing in here may run an event loop.
    """
    _install()
    _guard.active, _guard.refused, _guard.allowed = True, None, allowed
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


def _is_public(text: str) -> bool:
    address = ip_address(text.partition("%")[0])
    inner = _inner(address) or address
    if isinstance(inner, IPv6Address) and (inner not in _UNICAST or inner in _EXAMPLES):
        return False
    return inner.is_global and not inner.is_multicast and str(inner) not in _METADATA


def _inner(address: IPv4Address | IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address only carries."""
    if isinstance(address, IPv4Address):
        return None
    if address in _NAT64 or address in _COMPATIBLE:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)


@cache
def _install() -> None:
    """Once in a process: a hook cannot be taken out again."""
    sys.addaudithook(_before)


def _before(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in _SENDING or not getattr(_guard, "active", False):
        return
    address = arguments[1]
    if address is None:  # a datagram on a socket that is connected
        return
    # A path is a socket of this machine. A name is here what was given: what it leads to is looked up again.
    on_network = isinstance(address, tuple)
    problem = problem_with(str(address[0]), _guard.allowed) if on_network else f"{address!r} is on this machine"
    if problem is not None:
        _guard.refused = problem
        raise _RefusedError(problem)
