"""An endpoint with its governor, for Serve's own files: `serve deploy` starts both, as `mlops-ray serve` does."""

import os
from pathlib import Path
from typing import Any

from mlops_ray.config import load_settings, settings_from_environment
from mlops_ray.errors import ConfigurationError
from mlops_ray.retraining.governor_actor import EVERY_S, GovernorActor
from mlops_ray.retraining.ray_launchers import find_launcher
from mlops_ray.serving.app import EndpointArgs, beside, endpoint_application
from mlops_ray.use_case import load_use_case


class GovernedArgs(EndpointArgs):
    """`args` in a Serve file: those of an endpoint, and use_case: the absolute path of the file that declares it, in
    which variables such as $MLOPS_RAY_PROJECT may stand. It has to exist on every node, with `feature_repo` beside the
    folder that it lies in."""

    use_case: str


def build_governed_endpoint(args: GovernedArgs) -> Any:
    """For `import_path` in a Serve file: the endpoint of one model, and its governor where the use case wants one.

    The governor is a deployment of the same application: Serve starts it again where it dies, replaces it when the
    application is deployed with other code or arguments, and ends it with the endpoint. Raises ConfigurationError if
    the file declares another use case than `model`.
    """
    file = os.path.expandvars(args.use_case)
    if not os.path.isabs(file):
        raise ConfigurationError(
            f"use_case {args.use_case!r} of {args.model} is no absolute path ({file}). Set the variable on every node "
            f"before `ray start`, or write the path."
        )
    case = load_use_case(file)
    if case.name != args.model:
        raise ConfigurationError(
            f"{file} declares the use case {case.name!r}, and the model here is {args.model!r}. Give the "
            f"file of {args.model!r}."
        )
    settings = load_settings(args.settings) if args.settings else settings_from_environment()
    governor = None
    if case.retraining is not None:
        definitions = Path(file).parent.parent / "feature_repo"
        launcher = find_launcher(case, settings, definitions, file, args.settings)
        governor = beside("governor", GovernorActor, case, settings, launcher, EVERY_S, "")
    endpoint = EndpointArgs(**args.model_dump(exclude={"use_case"}))
    return endpoint_application(endpoint, settings, governor=governor)
