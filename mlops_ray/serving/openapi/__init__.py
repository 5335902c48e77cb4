"""OpenAPI 3.1 documents: of a model, made from the same schema that validation is compiled from, and of the server."""

from mlops_ray.serving.openapi.model import openapi_of_model
from mlops_ray.serving.openapi.server import openapi_of_server

__all__ = ["openapi_of_model", "openapi_of_server"]
