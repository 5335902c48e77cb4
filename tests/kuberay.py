"""What KubeRay's API has (ray.io/v1, release 1.5.1), as far as our manifests could use it: fields and their types.

Written down from its API reference. Its published schemas come with the operator and are not installable; those of
Kubernetes itself, for pods and all other kinds, are (kubernetes-validate).
"""

from collections.abc import Iterator
from typing import Any

import jsonschema
import kubernetes_validate

KUBERNETES = "1.33"
_TEXT, _NUMBER, _YES_NO, _ANY = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}, {}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}


def _with(required: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": fields}


_SECRET = _with(value=_TEXT, valueFrom={"type": "object"})
_POD = _with(("spec",), metadata={"type": "object"}, spec={"type": "object"})
_AUTOSCALER = _with(
    resources=_ANY, image=_TEXT, imagePullPolicy=_TEXT, securityContext=_ANY, idleTimeoutSeconds=_NUMBER, env=_ANY,
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]}, version={"enum": ["v1", "v2"]}, envFrom=_ANY,
    volumeMounts=_ANY,
)  # fmt: skip
_HEAD = _with(
    ("template",), template=_POD, headService=_ANY, enableIngress=_YES_NO, rayStartParams=_TEXTS,
    serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
)  # fmt: skip
_WORKERS = _with(
    ("groupName", "template"), suspend=_YES_NO, groupName=_TEXT, replicas=_NUMBER, minReplicas=_NUMBER,
    maxReplicas=_NUMBER, idleTimeoutSeconds=_NUMBER, rayStartParams=_TEXTS, template=_POD, scaleStrategy=_ANY,
    numOfHosts=_NUMBER,
)  # fmt: skip
_CLUSTER = _with(
    ("headGroupSpec",), suspend=_YES_NO, managedBy=_TEXT, autoscalerOptions=_AUTOSCALER, headServiceAnnotations=_TEXTS,
    enableInTreeAutoscaling=_YES_NO, headGroupSpec=_HEAD, rayVersion=_TEXT,
    authOptions=_with(mode={"enum": ["disabled", "token"]}),
    gcsFaultToleranceOptions=_with(
        redisUsername=_SECRET, redisPassword=_SECRET, externalStorageNamespace=_TEXT, redisAddress=_TEXT
    ),
    workerGroupSpecs={"type": "array", "items": _WORKERS},
)  # fmt: skip
SPECS = {
    "RayCluster": _CLUSTER,
    "RayService": _with(
        ("serveConfigV2", "rayClusterConfig"), serveService=_ANY, upgradeStrategy=_with(type=_TEXT),
        serveConfigV2=_TEXT, rayClusterConfig=_CLUSTER, excludeHeadPodFromServeSvc=_YES_NO,
    ),
    "RayJob": _with(
        ("entrypoint", "rayClusterSpec"), activeDeadlineSeconds=_NUMBER, backoffLimit=_NUMBER, rayClusterSpec=_CLUSTER,
        submitterPodTemplate=_POD, metadata=_TEXTS, submitterConfig=_with(backoffLimit=_NUMBER), managedBy=_TEXT,
        entrypoint=_TEXT, runtimeEnvYAML=_TEXT, jobId=_TEXT, entrypointResources=_TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]}, ttlSecondsAfterFinished=_NUMBER,
        shutdownAfterJobFinishes=_YES_NO, suspend=_YES_NO, entrypointNumCpus=_ANY, entrypointNumGpus=_ANY,
    ),
}  # fmt: skip


def validate(document: dict[str, Any]) -> None:
    """Raise ValidationError (jsonschema's, or that of Kubernetes' schemas) naming what is no field or has another type.

    A kind of Prometheus' operator is not validated here.
    """
    if document["apiVersion"].startswith("monitoring.coreos.com/"):
        return
    if document["apiVersion"] != "ray.io/v1":
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        return
    whole = _with(
        ("metadata", "spec"), apiVersion=_TEXT, kind=_TEXT, metadata={"type": "object"}, spec=SPECS[document["kind"]]
    )
    jsonschema.validate(document, whole)
    for template in pod_templates(document):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "any"}, "template": template}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def cluster_of(document: dict[str, Any]) -> dict[str, Any] | None:
    """The cluster that an object describes."""
    spec = document.get("spec", {})
    if document["kind"] == "RayCluster":
        return dict(spec)
    found = spec.get("rayClusterConfig") or spec.get("rayClusterSpec")
    return dict(found) if found else None


def pod_templates(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    cluster = cluster_of(document)
    if cluster is not None:
        yield cluster["headGroupSpec"]["template"]
        yield from (group["template"] for group in cluster.get("workerGroupSpecs", ()))
