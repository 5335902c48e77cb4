"""Client: asks a served model over HTTP, with connections kept open and safe retries; in two forms, sync and async.

What both do is decided once: what is asked in `predictions`, `labels`, `decisions`, `approvers`, `rollouts`, `keys`,
`subscriptions` and `audit`, when it is sent and how long to pause in `exchange`; a client carries it out.
"""

from mlops_ray.client.asynchronous import AsyncClient
from mlops_ray.client.audit import AsyncAudit, Audit
from mlops_ray.client.blocking import Client
from mlops_ray.client.decisions import Decision
from mlops_ray.client.exchange import API_KEY_VARIABLE, on_this_machine
from mlops_ray.client.keys import AsyncKeys, Keys
from mlops_ray.client.predictions import Answer, Prediction
from mlops_ray.client.rollouts import AsyncRollouts, Rollouts
from mlops_ray.client.subscriptions import AsyncSubscriptions, Subscriptions
from mlops_ray.client.values import Row, Rows

__all__ = [
    "API_KEY_VARIABLE",
    "Answer",
    "AsyncAudit",
    "AsyncClient",
    "AsyncKeys",
    "AsyncRollouts",
    "AsyncSubscriptions",
    "Audit",
    "Client",
    "Decision",
    "Keys",
    "Prediction",
    "Rollouts",
    "Row",
    "Rows",
    "Subscriptions",
    "on_this_machine",
]
