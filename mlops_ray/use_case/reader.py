"""Reader: a source that is not files, such as a table in a database, in parts that are read apart."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Part:
    """Some rows of a reader. name: by which they are told apart, the same from one run to the next.

    version: any text that is another whenever a row of the part is another: a part whose version is known is not read.
    size: about how many bytes they are; parts of more than 16 MiB together are read by several tasks.
    """

    name: str
    version: str
    size: int = 0


@runtime_checkable
class Reader(Protocol):
    """Gives the rows of a source. It is declared, as a frozen dataclass without connections, and goes to workers."""

    def parts(self) -> Sequence[Part]:
        """All rows there are now, in parts. Raises OSError where its store does not answer, with a sentence."""
        ...

    def read(self, part: Part, columns: Sequence[str]) -> Iterator[Any]:
        """The rows of a part, as pyarrow record batches with at least those of `columns` that the store has.

        Raises OSError where the store does not answer or the part has another version by now, with a sentence.
        """
        ...


@runtime_checkable
class StateReader(Protocol):
    """A reader of what the platform itself keeps. It is told where that is when it is read, as a use case knows no
    place."""

    def below(self, root: str) -> Reader:
        """The reader below an artifact root."""
        ...


def reader_below(reader: Reader, root: str) -> Reader:
    """The reader that reads: where it is one of the platform's state, the one below the artifact root."""
    return reader.below(root) if isinstance(reader, StateReader) else reader
