"""The user's own code: what it raises is the user's to repair, and says where."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlops_ray.errors import MlopsRayError, UseCaseError

_OURS = str(Path(__file__).parents[1])


@contextmanager
def user_code(what: str) -> Iterator[None]:
    """Around a call of the user's function or expression: any exception becomes a UseCaseError that names `what`,
    the exception, and the line of the user's file that it came from. Our own errors pass."""
    try:
        yield
    except MlopsRayError:
        raise
    except Exception as error:
        raise UseCaseError(f"{what}: {type(error).__name__}: {error}{_where(error)}") from error


def _where(error: Exception) -> str:
    """The innermost line that is neither ours nor of an installed library; nothing if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_OURS) and "site-packages" not in frame.filename]
    return f" ({own[-1].filename}, line {own[-1].lineno}: {own[-1].line})" if own else ""
