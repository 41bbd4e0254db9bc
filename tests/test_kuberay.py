"""The manifest of a Ray cluster on Kubernetes, checked for what KubeRay needs of it; its own schema is not at hand."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import jsonschema
import yaml

from tests import ROOT

SIZE = {"required": ["cpu", "memory"]}
VARIABLE = {"oneOf": [{"required": ["name", "value"]}, {"required": ["name", "valueFrom"]}]}
CONTAINER = {
    "type": "object",
    "required": ["name", "image", "resources", "env"],
    "properties": {
        "resources": {"required": ["requests", "limits"], "properties": {"requests": SIZE, "limits": SIZE}},
        "env": {"type": "array", "items": VARIABLE},
    },
    "additionalProperties": {"type": "string"},
}
POD = {"required": ["containers"], "properties": {"containers": {"minItems": 1, "items": CONTAINER}}}
TEMPLATE = {"required": ["spec"], "properties": {"spec": POD}}
GROUP = {
    "rayStartParams": {"type": "object", "additionalProperties": {"type": "string"}},
    "template": TEMPLATE,
}
COUNT = {"type": "integer", "minimum": 0}
SCHEMA: dict[str, Any] = {
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayCluster"},
        "metadata": {"required": ["name"]},
        "spec": {
            "required": ["rayVersion", "headGroupSpec", "workerGroupSpecs"],
            "additionalProperties": False,
            "properties": {
                "rayVersion": {"type": "string"},
                "enableInTreeAutoscaling": {"type": "boolean"},
                "headGroupSpec": {"required": [*GROUP], "properties": GROUP, "additionalProperties": False},
                "workerGroupSpecs": {
                    "minItems": 1,
                    "items": {
                        "required": ["groupName", "replicas", "minReplicas", "maxReplicas", *GROUP],
                        "properties": {
                            **GROUP,
                            "groupName": {"type": "string"},
                            "replicas": COUNT,
                            "minReplicas": COUNT,
                            "maxReplicas": COUNT,
                        },
                        "additionalProperties": False,
                    },
                },
            },
        },
    },
}


def test_the_manifest_is_one_of_a_cluster() -> None:
    manifest = yaml.safe_load((ROOT / "examples/kuberay/cluster.yaml").read_text())

    jsonschema.validate(manifest, SCHEMA)

    assert manifest["spec"]["rayVersion"] == version("ray")
    groups = [manifest["spec"]["headGroupSpec"], *manifest["spec"]["workerGroupSpecs"]]
    containers = [group["template"]["spec"]["containers"][0] for group in groups]
    assert len({container["image"] for container in containers}) == 1
    assert all(container["env"] == containers[0]["env"] for container in containers)
