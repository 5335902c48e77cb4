"""JSON bodies: decoded against a type, or with values of any kind; what is wrong is named by its field."""

import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from mlops_ray.serving.http import HttpError

Order = TypeVar("Order", bound=msgspec.Struct)
# Of a body, which is read on the event loop: that many, nested, take up to half a second, while nobody is answered.
MAX_VALUES = 250_000
MAX_TEXT = 10_000  # characters; each text is kept in the ledger, and no category or key is longer
_NOT_UTF8 = "The body is not UTF-8, or has half of a surrogate pair."
_AT = re.compile(r" - at `\$\.?(?P<path>.*)`$")
_NAMED = re.compile(r"(?:missing required|contains unknown) field `(?P<name>.*)`$")


class NotANumber:
    """Stands for the literals NaN and Infinity, which are no JSON, so that the message can name their field."""


class _GivenTwice:
    def __init__(self, name: str):
        self.name = name


class TypedJson:
    """Reads bodies of one type; `loose` is the same with `msgspec.Raw` for values of any kind, for `any_values`."""

    def __init__(self, strict: Any, loose: Any = None):
        self._decoder = msgspec.json.Decoder(strict)
        self._loose = msgspec.json.Decoder(strict if loose is None else loose)

    def decode(self, content: bytes) -> Any:
        """The body as the strict type. Raises HttpError 400 that names the field, for every kind of bad content."""
        body = self._attempt(content)
        if isinstance(body, HttpError):
            _refuse_what_no_type_sees(content, body)
            raise body
        return body

    def decode_if_canonical(self, content: bytes) -> Any:
        """The same, or None where the body may be right in other words."""
        body = self._attempt(content)
        return None if isinstance(body, HttpError) else body

    def any_values(self, content: bytes) -> Any:
        """The body as the loose type, values as they are written. Raises HttpError 400 as `decode` does."""
        try:
            _refuse_in(_parsed(content))
        except (ValueError, RecursionError):
            self.decode(content)
            raise HttpError(400, "The body is not JSON.", "body") from None
        try:
            return self._loose.decode(content)
        except msgspec.MsgspecError as error:
            raise _named(str(error)) from None

    def _attempt(self, content: bytes) -> Any:
        """The decoded body, or the HttpError that says why not. Raises HttpError 413 for too many values."""
        expect_few_values(content)
        try:
            body = self._decoder.decode(content)
        except msgspec.ValidationError as error:
            return _named(str(error))
        except msgspec.DecodeError as error:
            refusal = HttpError(400, f"The body is not JSON: {error}.", "body")
            _refuse_what_no_type_sees(content, refusal)
            raise refusal from None
        except RecursionError:
            raise HttpError(400, "The JSON is nested too deeply.", "body") from None
        except UnicodeError:
            raise HttpError(400, _NOT_UTF8, "body") from None
        # Of a name that is given twice the last would count. The body written again has each name once, so that it has
        # fewer colons then; escapes could hide one. Defaults are not written, so that it never has more.
        if b"\\" in content or msgspec.json.encode(body).count(b":") != content.count(b":"):
            _refuse_what_no_type_sees(content)
        return body


def order_of(content: bytes, kind: type[Order]) -> Order:
    """A body without rows as `kind`; one that is empty is {}.

    Raises HttpError 400 if it is something else, or says a thing twice, 413 for too many values.
    """
    content = content or b"{}"
    expect_few_values(content)
    try:
        order = msgspec.json.decode(content, type=kind)
        json.loads(content.decode(), object_pairs_hook=said_once)
    except (ValueError, RecursionError) as error:  # msgspec's errors, and UnicodeDecodeError, are ValueErrors
        raise HttpError(400, f"The body is not understood: {error}", "body") from None
    return order


def said_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The values by name. Raises ValueError for a name that comes twice: the last would count without a word."""
    said = _object(pairs)
    if isinstance(said, _GivenTwice):
        raise ValueError(f"it says {said.name!r:.100} twice")
    return said


def expect_few_values(content: bytes) -> None:
    """Raise HttpError 413 for JSON that may have more than `MAX_VALUES` values, at the speed of memory: all but the
    first stand behind a comma, or are the first of a list or an object."""
    if (count := sum(map(content.count, (b",", b"[", b"{")))) >= MAX_VALUES:
        raise HttpError(
            413,
            f"The JSON has {count:,} commas, '[' and '{{', as {count + 1:,} values have; the limit is {MAX_VALUES:,}. "
            f"Send fewer.",
            "body",
        )


def struct_of(name: str, types: Mapping[str, Any]) -> type[msgspec.Struct]:
    """A struct whose fields may have any name, identifier or not."""
    fields = [(f"field_{number}", type_) for number, type_ in enumerate(types.values())]
    rename = {f"field_{number}": given for number, given in enumerate(types)}
    return msgspec.defstruct(name, fields, forbid_unknown_fields=True, rename=rename)


def _refuse_what_no_type_sees(content: bytes, refusal: HttpError | None = None) -> None:
    """Raise HttpError 400 for names given twice, and for NaN and Infinity, with their field; `refusal` for what is no
    JSON, or nested more deeply than Python reads: a type passes that over where it passes over what it stands in."""
    try:
        _refuse_in(_parsed(content))
    except (ValueError, RecursionError) as error:
        raise refusal or HttpError(400, f"The body is not JSON, or nested too deeply: {error}.", "body") from None


def _parsed(content: bytes) -> Any:
    """What of the content matters here: names, texts and constants. Numbers, of any length, are left as texts."""
    return json.loads(
        content.decode(),
        object_pairs_hook=_object,
        parse_int=str,
        parse_float=str,
        parse_constant=lambda literal: NotANumber(),
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _GivenTwice:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            break
        seen.add(name)
    return _GivenTwice(name)


# Where a value stands: in what, and there under which name or number. Put into words only to refuse it, as the words of
# all that is nested would take the product of its depth and its length.
_Place = tuple[Any, str | int] | None


def _refuse_in(value: Any, place: _Place = None) -> None:
    if isinstance(value, str):
        _expect_whole_characters(value)
        if len(value) > MAX_TEXT:
            raise too_long(value, _path(place))
    elif isinstance(value, dict):
        for name, part in value.items():
            _expect_whole_characters(name)
            if not _is_harmless(part):
                _refuse_in(part, (place, name))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            if not _is_harmless(part):
                _refuse_in(part, (place, number))
    elif isinstance(value, _GivenTwice):
        path = _path((place, value.name))
        raise HttpError(400, f"{path}: the name is given twice in one object.", path)
    elif isinstance(value, NotANumber):
        path = _path(place)
        raise HttpError(400, f"{path}: got NaN or Infinity, which is no JSON (send null for a missing number).", path)


def _path(place: _Place) -> str:
    steps = list[str]()
    while place is not None:
        place, step = place
        steps.append(f"[{step}]" if isinstance(step, int) else f".{step}")
    return "".join(reversed(steps)).removeprefix(".") or "body"


def _is_harmless(value: Any) -> bool:
    """Told without a look at where it stands: a body has millions of values, and others wait meanwhile."""
    return type(value) is str and len(value) <= MAX_TEXT and value.isascii()


def too_long(text: str, path: str) -> HttpError:
    return HttpError(400, f"{path}: the text has {len(text):,} characters; the limit is {MAX_TEXT:,}.", path)


def _expect_whole_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise HttpError(400, _NOT_UTF8, "body") from None


def _named(message: str) -> HttpError:
    """The error of msgspec's message "<what> - at `$.keys[0].origin`", with the field's path in ours."""
    at = _AT.search(message)
    path = at["path"].replace("[...]", "") if at else ""
    text = message[: at.start()] if at else message
    if name := _NAMED.search(text):
        path = f"{path}.{name['name']}" if path else name["name"]
    text = text.replace("Invalid enum value", "not one of the known values:")
    return HttpError(400, f"{path or 'body'}: {text}.", path or "body")
