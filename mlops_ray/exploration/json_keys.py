"""Names for the values of JSON lines: their keys, and those of objects in objects as `outer.inner`."""

import msgspec

MAX_PARTS = 100  # of an object with more different keys these are values themselves, such as ids
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


class JsonKeys:
    """The names of what was seen, in the order in which they first appeared.

    An object is one value, and not its parts, where a row has something else in its place, or where there are more
    than MAX_PARTS.
    """

    def __init__(self) -> None:
        self._objects: dict[str, dict[str, None]] = {"": {}}
        self._values = set[str]()

    def see(self, line: str) -> None:
        """Raises msgspec.MsgspecError for what is no object, RecursionError for one in too many others."""
        self._see(line, "")

    def names(self) -> list[str]:
        return self._names_of("")

    def _see(self, text: str | msgspec.Raw, within: str) -> None:
        names = self._objects[within]
        for key, value in _OBJECT.decode(text).items():
            name = f"{within}.{key}" if within else key
            if within and len(names) > MAX_PARTS:
                continue
            names[name] = None
            content = bytes(value)
            if content[:1] == b"{" and name not in self._values:
                self._objects.setdefault(name, {})
                self._see(value, name)
            elif content != b"null":
                self._values.add(name)

    def _names_of(self, within: str) -> list[str]:
        found = list[str]()
        for name in self._objects[within]:
            parts = self._objects.get(name)
            whole = not parts or name in self._values or len(parts) > MAX_PARTS
            found += [name] if whole else self._names_of(name)
        return found
