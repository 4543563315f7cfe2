"""jobs/rayjob.yaml against the schema of KubeRay's own custom resource definition.

`rayjob-v1.json.gz` is version v1 of ray-operator/config/crd/bases/ray.io_rayjobs.yaml in KubeRay 1.6.2
(Apache License 2.0), without the descriptions.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from sdbatch.cli import main
from tests.conftest import REPOSITORY

CRD = Path(__file__).with_name("rayjob-v1.json.gz")


def strict(schema):
    """A JSON schema that, as `kubectl apply` does, takes no field that the definition does not know."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(made.get("properties"), dict) and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    if made.get("x-kubernetes-int-or-string"):
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    return made


@pytest.fixture(scope="module")
def schema() -> dict:
    definition = strict(json.loads(gzip.decompress(CRD.read_bytes())))
    definition["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own, in no definition
    return definition


@pytest.fixture(scope="module")
def manifest() -> dict:
    return yaml.safe_load((REPOSITORY / "jobs" / "rayjob.yaml").read_text())


@pytest.fixture(scope="module")
def cluster(manifest) -> dict:
    return manifest["spec"]["rayClusterSpec"]


def test_the_definition_takes_it(schema, manifest):
    jsonschema.validate(manifest, schema)


def test_the_definition_would_not_take_a_misspelt_field(schema, manifest):
    for path in (["spec"], ["spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "containers", 0]):
        broken = json.loads(json.dumps(manifest))
        inner = broken
        for step in path:
            inner = inner[step]
        inner["enrtypoint"] = "x"
        with pytest.raises(jsonschema.ValidationError, match="enrtypoint"):
            jsonschema.validate(broken, schema)


def test_every_mount_has_its_volume(cluster):
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"] + pod.get("initContainers", []):
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_gpus_grow_from_zero_behind_a_token(manifest, cluster):
    (gpu,) = cluster["workerGroupSpecs"]
    assert gpu["minReplicas"] == gpu["replicas"] == 0 < gpu["maxReplicas"]
    assert gpu["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert manifest["spec"]["shutdownAfterJobFinishes"] is True


def test_its_entrypoint_is_a_command_that_exists(manifest, capsys):
    python, flag, module, *arguments = manifest["spec"]["entrypoint"].split()
    assert (python, flag, module) == ("python", "-m", "sdbatch")
    with pytest.raises(SystemExit) as stopped:
        main([arguments[0], "--help"])
    assert stopped.value.code == 0
    assert arguments[1] in capsys.readouterr().out
