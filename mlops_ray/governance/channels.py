"""Channels: how an event reaches people (Apprise: mail, Slack, Teams and more) and programs (signed webhooks)."""

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import SplitResult, urlsplit

import httpx

from mlops_ray.errors import ConfigurationError, ForbiddenError, UnavailableError
from mlops_ray.governance.address_guard import problem_with, public_addresses_only
from mlops_ray.governance.events import EVENT_TYPES, Event

TIMEOUT_S = 10.0
CONTENT_TYPE = "application/cloudevents+json"
_SECRET = "whsec_"
_LONGEST = 2000


@dataclass(frozen=True)
class Channels:
    """Sends events. allowed_hosts: names, as written in a channel, that may be private, and http instead of https."""

    allowed_hosts: Collection[str] = ()

    def check(self, channel: str) -> None:
        """Raise ConfigurationError if nothing could be sent there, ForbiddenError if nothing may."""
        parts = _parsed(channel)
        if parts.scheme not in ("http", "https"):
            _apprise(channel)
            return
        if not parts.hostname:
            raise ConfigurationError(f"The channel {hidden(channel)} names no host.")
        if parts.hostname in self.allowed_hosts:
            return
        if parts.scheme == "http":
            raise ConfigurationError(f"The channel {hidden(channel)} is not encrypted. Use https.")
        problem = problem_with(parts.hostname)
        if problem is not None:
            raise ForbiddenError(f"{problem}, where nothing is sent. Name it in webhook_allowed_hosts to allow it.")

    def send(self, channel: str, secret: str, event: Event) -> None:
        """Deliver one event. Raises UnavailableError if the receiver did not take it, and what `check` raises."""
        self.check(channel)
        parts = _parsed(channel)
        guard = nullcontext() if parts.hostname in self.allowed_hosts else public_addresses_only()
        with guard:
            if parts.scheme in ("http", "https"):
                body = json.dumps(cloud_event(event), sort_keys=True).encode()
                headers = {"content-type": CONTENT_TYPE, **signature(secret, event.id, datetime.now(UTC), body)}
                asyncio.run(_post(channel, headers, body))
            elif not _apprise(channel).notify(
                body=_text(event), title=_title(event), notify_type=_LOOKS[event.severity]
            ):
                raise UnavailableError(f"{hidden(channel)} did not take the message; the log of Apprise says why.")


def new_secret() -> str:
    """32 random bytes, written as Standard Webhooks write them."""
    return _SECRET + base64.b64encode(secrets.token_bytes(32)).decode()


def signature(secret: str, event_id: str, sent_at: datetime, body: bytes) -> dict[str, str]:
    """The headers that say what a body is and prove who sent it (Standard Webhooks 1.0).

    webhook-id is the event's id, the same each time it is sent; webhook-timestamp is in Unix seconds;
    webhook-signature is "v1," and the base64 of HMAC-SHA256 over "id.timestamp.body" with the secret's bytes.
    """
    key = base64.b64decode(secret.removeprefix(_SECRET))
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
    scheme, _, rest = channel.partition("://")
    if scheme in ("http", "https"):
        return f"{scheme}://{_parsed(channel).hostname}/…"
    return f"{scheme}://…" if rest else "without a scheme"


async def _post(url: str, headers: dict[str, str], body: bytes) -> None:
    """Without proxies and redirects, which would go elsewhere, and without reading the answer's body."""
    try:
        async with (
            asyncio.timeout(TIMEOUT_S),
            httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False, follow_redirects=False) as client,
            client.stream("POST", url, headers=headers, content=body) as response,
        ):
            status = response.status_code
    except TimeoutError as error:
        raise UnavailableError(f"{hidden(url)} did not answer within {TIMEOUT_S:g} s.") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UnavailableError(f"{hidden(url)} does not answer: {type(error).__name__} {error}".rstrip()) from error
    if not 200 <= status < 300:
        raise UnavailableError(f"{hidden(url)} answered {status}, not 2xx.")


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
    return made


def _parsed(channel: str) -> SplitResult:
    if not channel.isprintable() or len(channel) > _LONGEST:
        raise ConfigurationError(f"A channel is a URL of at most {_LONGEST:,} characters that can be printed.")
    try:
        parts = urlsplit(channel)
        _ = parts.port
    except ValueError as error:
        raise ConfigurationError(f"The channel is no URL: {error}.") from None
    return parts
