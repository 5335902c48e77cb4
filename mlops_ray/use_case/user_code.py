"""The user's own code: what it raises is the user's to repair, and says where."""

import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from polars.exceptions import PanicException, PolarsError

from mlops_ray.errors import MlopsRayError, UseCaseError

_OURS = str(Path(__file__).parents[1]) + "/"
_LIBRARIES = (sysconfig.get_paths()["stdlib"] + "/", "<frozen ", "<string>")
_FRAME = re.compile(r'^ *File "(?P<file>[^"]+)", line (?P<line>\d+), in .*$', re.MULTILINE)


@contextmanager
def user_code(what: str) -> Iterator[None]:
    """Around a call of the user's function or expression: any exception becomes a UseCaseError that names `what`,
    the exception, and the line of the user's file that it came from. Our own errors pass."""
    try:
        yield
    except MlopsRayError:
        raise
    except (Exception, PanicException) as error:  # a panic of polars is no Exception
        raise UseCaseError(f"{what}: {what_happened(error)}") from error


def what_happened(error: BaseException) -> str:
    """The exception's type and text, and the innermost line of the user's files if it came through one."""
    return f"{_in_words(getattr(error, 'cause', None) or error)}{_shown(_frames(error))}"


def fault_of_user(error: BaseException) -> str | None:
    """What happened and where, if the user's code raised it, in this process or in a task of Ray's; None if ours did.

    The user's is what was raised in a file that is neither ours nor of an installed library, or in a library that
    such a file called.
    """
    frames = _frames(error)
    if not frames or frames[-1].filename.startswith(_OURS):
        return None
    return what_happened(error)


def _in_words(error: BaseException) -> str:
    """The exception's type and text in one line; of what polars says, the sentence without its plan."""
    said = str(error).strip()
    text = said.splitlines()[0] if said and isinstance(error, PolarsError) else " ".join(said.split())
    text = text.partition(" This error occurred in the following expression")[0]  # polars, around a user's exception
    return f"{type(error).__name__}: {text}" if text else f"{type(error).__name__}, without a text"


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames in our files and the user's, outermost first, without those of libraries and of the command."""
    found = list(traceback.extract_tb(error.__traceback__))
    if isinstance(getattr(error, "cause", None), BaseException):  # Ray's: its text has the frames of the other process
        remote = (match.groupdict() for match in _FRAME.finditer(str(error)))
        found = [traceback.FrameSummary(one["file"], int(one["line"]), "", lookup_line=False) for one in remote]
    command = getattr(sys.modules.get("__main__"), "__file__", None)
    return [frame for frame in found if frame.filename != command and not _is_library(frame.filename)]


def _is_library(file: str) -> bool:
    if file.startswith(_OURS):
        return False
    compiled = file.endswith((".pxi", ".pyx"))  # Cython names its sources in tracebacks
    return compiled or file.startswith(_LIBRARIES) or "/site-packages/" in file or "/dist-packages/" in file


def _shown(frames: list[traceback.FrameSummary]) -> str:
    """The innermost line of the user's; nothing if there is none."""
    own = [frame for frame in frames if not frame.filename.startswith(_OURS)]
    return f" ({own[-1].filename}, line {own[-1].lineno}: {own[-1].line})" if own else ""
