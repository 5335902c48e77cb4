"""Channels: how an event reaches people (Apprise: mail, Slack, Teams and more) and programs (signed webhooks)."""

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import SplitResult, urlsplit

import httpx

from mlops_ray.client.deadline import DeadlineBackend
from mlops_ray.errors import ConfigurationError, ForbiddenError, UnavailableError
from mlops_ray.governance.address_guard import addresses_of, problem_with, public_addresses_only
from mlops_ray.governance.events import EVENT_TYPES, Event
from mlops_ray.governance.patience import within
from mlops_ray.governance.references import expect_reference, value_of
from mlops_ray.governance.references import is_reference as is_reference  # known here as one kind of channel

TIMEOUT_S = 10.0
MESSAGE_WITHIN_S = 30.0
"""How long Apprise has for one message. A mail server takes its time, and whoever writes a channel's URL may ask for a
day (`?rto=`): a dispatcher that waits for one receiver anchors nothing and tells nobody else."""
CONTENT_TYPE = "application/cloudevents+json"
_SECRET = "whsec_"
_LONGEST = 2000


class GoneError(UnavailableError):
    """The receiver answered 410: it is gone for good and wants nothing more."""


@dataclass(frozen=True)
class Channels:
    """Sends events. allowed_hosts: names, as written in a channel (of mail, its server), that may be private,
    not encrypted, or without a certificate that is trusted."""

    allowed_hosts: Collection[str] = ()

    def check(self, channel: str) -> None:
        """Raise ConfigurationError if nothing could be sent there, ForbiddenError if nothing may.

        Of a reference only the form: what it stands for is known to who sends.
        """
        if is_reference(channel):
            expect_reference(channel)
        else:
            self._checked(channel)

    def send(self, channel: str, secret: str, event: Event) -> None:
        """Deliver one event. Raises UnavailableError if the receiver did not take it, and what `check` raises."""
        channel, secret = value_of(channel), value_of(secret)
        plugin, allowed = self._checked(channel)
        if plugin is None:
            body = json.dumps(cloud_event(event), sort_keys=True).encode()
            headers = {"content-type": CONTENT_TYPE, **signature(secret, event.id, datetime.now(UTC), body)}
            with public_addresses_only(allowed):
                _post(channel, headers, body)
        elif not within(MESSAGE_WITHIN_S, hidden(channel), lambda: _notify(plugin, allowed, event)):
            raise UnavailableError(f"{hidden(channel)} did not take the message; the log of Apprise says why.")

    def _checked(self, channel: str) -> tuple[Any, list[str]]:
        """What sends to a channel, Apprise's plugin or None for a webhook, and which private addresses it may reach."""
        parts = _parsed(channel)
        if is_webhook(channel):
            plugin, host = None, parts.hostname
            weakness = "" if parts.scheme == "https" else "is not encrypted. Use https"
            if not host:
                raise ConfigurationError(f"The channel {hidden(channel)} names no host.")
        else:
            plugin = _apprise(channel)
            host = _host(plugin, parts.scheme)
            weakness = "" if parts.scheme in _ON_THIS_MACHINE else _weakness(plugin, host)
        if host is not None and host in self.allowed_hosts:
            return plugin, addresses_of(host)
        if weakness:
            raise ConfigurationError(
                f"The channel {hidden(channel)} {weakness}, or name its host in webhook_allowed_hosts."
            )
        if host is None:  # a service whose addresses Apprise knows
            return plugin, []
        if problem := problem_with(host):
            raise ForbiddenError(f"{problem}, where nothing is sent. Name it in webhook_allowed_hosts to allow it.")
        return plugin, []


def is_webhook(channel: str) -> bool:
    """Whether a channel is the URL of a webhook, whose receiver checks signatures."""
    return channel.lower().startswith(("http://", "https://"))


def new_secret() -> str:
    """32 random bytes, written as Standard Webhooks write them."""
    return _SECRET + base64.b64encode(secrets.token_bytes(32)).decode()


def signature(secret: str, event_id: str, sent_at: datetime, body: bytes) -> dict[str, str]:
    """The headers that say what a body is and prove who sent it (Standard Webhooks 1.0).

    webhook-id is the event's id, the same each time it is sent; webhook-timestamp is in Unix seconds;
    webhook-signature is "v1," and the base64 of HMAC-SHA256 over "id.timestamp.body" with the secret's bytes.
    """
    try:
        key = base64.b64decode(secret.removeprefix(_SECRET), validate=True)
    except binascii.Error:
        key = b""
    if not key:
        raise ConfigurationError("The secret of a webhook is whsec_ and the base64 of its key; this one is not.")
    timestamp = str(int(sent_at.timestamp()))
    mac = hmac.new(key, b".".join((event_id.encode(), timestamp.encode(), body)), hashlib.sha256).digest()
    return {
        "webhook-id": event_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{base64.b64encode(mac).decode()}",
    }


def cloud_event(event: Event) -> dict[str, Any]:
    """The event in the structured mode of CloudEvents 1.0 (JSON); `data` is all of it."""
    return {
        "specversion": "1.0",
        "id": event.id,
        "source": f"/use_cases/{event.use_case}" if event.use_case else "/platform",
        "type": f"mlops_ray.{event.type}",
        "subject": event.subject,
        "time": event.to_json()["time"],
        "datacontenttype": "application/json",
        "data": event.to_json(),
    }


def hidden(channel: str) -> str:
    """A channel as it may be shown: without what is secret in it."""
    if is_reference(channel):
        return channel
    scheme, mark, _ = channel.partition("://")
    if scheme.lower() in ("http", "https"):
        return f"{scheme}://{_parsed(channel).hostname}/…"
    return f"{scheme}://…" if mark else "without a scheme"


def _post(url: str, headers: dict[str, str], body: bytes) -> None:
    """Without proxies and redirects, which would go elsewhere, and without reading the answer's body.

    On Python's own sockets, in the caller's thread: uvloop's would not be seen by the guard.
    """
    network = DeadlineBackend()
    try:
        with (
            httpx.Client(timeout=TIMEOUT_S, trust_env=False, follow_redirects=False) as client,
            network.within(TIMEOUT_S),
        ):
            network.attach_to(client)
            with client.stream("POST", url, headers=headers, content=body) as response:
                status = response.status_code
    except httpx.TimeoutException as error:
        raise UnavailableError(f"{hidden(url)} did not answer within {TIMEOUT_S:g} s.") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UnavailableError(f"{hidden(url)} does not answer: {type(error).__name__} {error}".rstrip()) from error
    if status == httpx.codes.GONE:
        raise GoneError(f"{hidden(url)} answered 410: it is gone.")
    if not 200 <= status < 300:
        raise UnavailableError(f"{hidden(url)} answered {status}, not 2xx.")


# Of Apprise: what shows a message on the machine that sends it.
_ON_THIS_MACHINE = {"syslog", "dbus", "qt", "kde", "glib", "gnome", "macosx", "windows"}
_LOOKS = {"info": "info", "warning": "warning", "critical": "failure"}


def _title(event: Event) -> str:
    return f"[{event.severity}] {event.type}: {event.subject}"


def _text(event: Event) -> str:
    lines = [EVENT_TYPES[event.type].description if event.type in EVENT_TYPES else event.type, event.reason]
    lines += [f"By {event.actor} at {event.time:%Y-%m-%d %H:%M:%S} UTC.", f"Event {event.id}"]
    return "\n".join(line for line in lines if line)


def _apprise(channel: str) -> Any:
    import apprise  # 0.15 s, for who sends

    made = apprise.Apprise.instantiate(channel, suppress_exceptions=True)
    if made is None:
        raise ConfigurationError(
            f"The channel {hidden(channel)} is neither https:// nor a URL that Apprise knows, or it lacks a part. "
            f"Apprise's documentation lists them."
        )
    made.socket_read_timeout = min(made.socket_read_timeout, MESSAGE_WITHIN_S)
    made.socket_connect_timeout = min(made.socket_connect_timeout, MESSAGE_WITHIN_S)
    return made


def _notify(plugin: Any, allowed: Collection[str], event: Event) -> bool:
    kind = _LOOKS.get(event.severity, "failure")
    with public_addresses_only(allowed):
        return bool(plugin.notify(body=_text(event), title=_title(event), notify_type=kind))


def _host(plugin: Any, scheme: str) -> str | None:
    """Where a plugin sends, if the channel says it: what it makes of the URL, which others may read differently."""
    if scheme in _ON_THIS_MACHINE:
        return "localhost"
    if "host" not in plugin.template_tokens or not plugin.host:
        return None
    host = str(getattr(plugin, "smtp_host", "") or plugin.host).strip("[]")
    if scheme == "rsyslog" and (addresses := addresses_of(host)):
        plugin.host = addresses[0]  # it gives the socket a name, which would be looked up once more
    return host


def _weakness(plugin: Any, host: str | None) -> str:
    """How others could read what a plugin sends, and what to do, within a sentence; "" if they cannot."""
    if host is not None and not plugin.secure:
        known = plugin.secure_protocol
        scheme = known if isinstance(known, str) else next(iter(known or ()), "")
        return f"is not encrypted. Use {f'{scheme}://' if scheme else 'a channel that is'}"
    if getattr(plugin, "secure_mode", None) == "insecure":
        return "is not encrypted. Leave out mode=insecure"
    return "" if plugin.verify_certificate else "does not check whom it reaches. Leave out verify=no"


def _parsed(channel: str) -> SplitResult:
    if not channel.isprintable() or len(channel) > _LONGEST:
        raise ConfigurationError(f"A channel is a URL of at most {_LONGEST:,} characters that can be printed.")
    try:
        parts = urlsplit(channel)
        _ = parts.port
    except ValueError:  # whose text may hold what is secret
        raise ConfigurationError("The channel is no URL.") from None
    return parts
