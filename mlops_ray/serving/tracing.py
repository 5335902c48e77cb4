"""Traces in OpenTelemetry's form. Serve begins a span for each request, in the trace that the caller's `traceparent`
names; here are the parts of it that are ours, and where all of them go.

They are on where the environment names a collector: see `environment.tracing_environment`.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

ON = bool(os.environ.get("RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH"))
_NOTHING = nullcontext()

if ON:
    from opentelemetry import trace

    _tracer = trace.get_tracer("mlops_ray")


def processors() -> list[Any]:
    """What Serve gives spans to: OTLP over HTTP, in batches; a thread drops what a collector does not take."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return [BatchSpanProcessor(OTLPSpanExporter())]


def part(name: str) -> AbstractContextManager[Any]:
    """A span of this name within the request's; nothing where the request is not traced."""
    if not ON or not trace.get_current_span().is_recording():
        return _NOTHING
    return _tracer.start_as_current_span(name)


def tell(**attributes: str) -> None:
    """Note on the request's span what is known of it, as `mlops_ray.<name>`."""
    if ON:
        trace.get_current_span().set_attributes({f"mlops_ray.{name}": value for name, value in attributes.items()})
