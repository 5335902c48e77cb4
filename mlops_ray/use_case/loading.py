"""Loading a use case from the file that declares it."""

import importlib.util
import sys
from pathlib import Path

from mlops_ray.errors import UseCaseError
from mlops_ray.use_case.use_case import UseCase


def load_use_case(reference: str) -> UseCase:
    """The use case in a Python file: `reference` is the file's path, or a name meaning `use_cases/<name>.py`.

    Its functions travel to workers by value, so workers need not find the file.
    Raises UseCaseError if the file does not exist, does not import, or does not hold exactly one UseCase.
    """
    file = Path(reference if reference.endswith(".py") else f"use_cases/{reference}.py").absolute()
    if not file.is_file():
        raise UseCaseError(f"There is no use case {reference!r}: {file} does not exist. Give the path of its file.")
    name = f"use_case_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except UseCaseError:
        raise
    except Exception as error:
        raise UseCaseError(f"{file} does not import: {type(error).__name__}: {error}") from error
    from ray import cloudpickle  # Ray carries its own; importing it here keeps declarations free of Ray

    cloudpickle.register_pickle_by_value(module)
    found = [value for value in vars(module).values() if isinstance(value, UseCase)]
    if len(found) != 1:
        raise UseCaseError(f"{file} defines {len(found)} use cases; it must define exactly one.")
    return found[0]
