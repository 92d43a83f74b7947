"""kuberay/rayjob.yaml says what KubeRay and Kubernetes know, and reaches Ray Train with a notice before a pod is gone.

Fields of pods are held against models generated from Kubernetes' own API; those of RayJob against the list below of the
ones in use. Each rule is shown to catch a file that breaks it.
"""

from __future__ import annotations

import copy
import itertools
import re
import shlex
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import jsonschema
import msgspec
import pytest
from lightkube.models import core_v1
from ruamel.yaml import YAML

from jobs.cli import app

ROOT = Path(__file__).parents[2]
Manifest = dict[str, Any]


def exactly(required: str, optional: str = "", **kinds: Any) -> dict[str, Any]:
    """A JSON schema of an object with these keys and no others."""
    names = [*required.split(), *optional.split()]
    properties = {name: kinds.get(name, {}) for name in names}
    return {
        "type": "object", "required": required.split(), "properties": properties, "additionalProperties": False
    }  # fmt: skip


COUNT, TEXTS = {"type": "integer", "minimum": 0}, {"type": "object", "additionalProperties": {"type": "string"}}
TOKEN = exactly("mode", "secretName", mode={"const": "token"})
SCALER = exactly("version idleTimeoutSeconds", version={"enum": ["v1", "v2"]}, idleTimeoutSeconds=COUNT)
HEAD = exactly("rayStartParams template", rayStartParams=TEXTS)
GROUP = exactly(
    "groupName replicas minReplicas maxReplicas rayStartParams template",
    groupName={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
    replicas=COUNT, minReplicas=COUNT, maxReplicas=COUNT, rayStartParams=TEXTS,
)  # fmt: skip
CLUSTER = exactly(
    "rayVersion enableInTreeAutoscaling autoscalerOptions authOptions headGroupSpec workerGroupSpecs",
    rayVersion={"type": "string"}, enableInTreeAutoscaling={"const": True}, autoscalerOptions=SCALER, authOptions=TOKEN,
    headGroupSpec=HEAD, workerGroupSpecs={"type": "array", "items": GROUP, "minItems": 1},
)  # fmt: skip
SPEC = exactly(
    "entrypoint submissionMode backoffLimit shutdownAfterJobFinishes ttlSecondsAfterFinished rayClusterSpec",
    entrypoint={"type": "string"}, submissionMode={"enum": ["K8sJobMode", "HTTPMode", "SidecarMode"]},
    backoffLimit={"type": "integer", "minimum": 1}, shutdownAfterJobFinishes={"const": True},
    ttlSecondsAfterFinished=COUNT, rayClusterSpec=CLUSTER,
)  # fmt: skip
SCHEMA = exactly(
    "apiVersion kind metadata spec", apiVersion={"const": "ray.io/v1"}, kind={"const": "RayJob"}, spec=SPEC
)


def read() -> Manifest:
    found: Manifest = YAML(typ="safe").load(ROOT / "kuberay" / "rayjob.yaml")
    return found


def templates(manifest: Manifest) -> dict[str, dict[str, Any]]:
    cluster = manifest["spec"]["rayClusterSpec"]
    return {"head": cluster["headGroupSpec"]["template"]} | {
        group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]
    }


def job_faults(manifest: Manifest) -> Iterator[str]:
    for error in jsonschema.Draft7Validator(SCHEMA).iter_errors(manifest):
        yield f"{error.json_path}: {error.message}"


def pod_faults(manifest: Manifest) -> Iterator[str]:
    for name, template in templates(manifest).items():
        yield from misfits(template, core_v1.PodTemplateSpec, name)


def misfits(value: Any, kind: Any, at: str) -> Iterator[str]:
    """Keys that a model lacks, values of another type than it says."""
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        found = [list(misfits(value, one, at)) for one in arguments if one is not type(None)]
        if all(found):
            yield from found[0]
    elif typing.get_origin(kind) is list:
        if not isinstance(value, list):
            yield f"{at}: no list"
            return
        for number, item in enumerate(value):
            yield from misfits(item, arguments[0], f"{at}[{number}]")
    elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        if not isinstance(value, dict):
            yield f"{at}: no mapping"
            return
        known = {field.encode_name: field for field in msgspec.structs.fields(kind)}
        yield from (f"{at}.{name}: missing" for name, field in known.items() if field.required and name not in value)
        for name, item in value.items():
            if name in known:
                yield from misfits(item, known[name].type, f"{at}.{name}")
            else:
                yield f"{at}.{name}: {kind.__name__} has no such field"
    elif isinstance(kind, type) and not isinstance(value, typing.get_origin(kind) or kind):
        yield f"{at}: {value!r} is no {kind.__name__}"


def spot_faults(manifest: Manifest) -> Iterator[str]:
    """Where pods run, and what happens when theirs is taken away."""
    pods = {name: template["spec"] for name, template in templates(manifest).items()}
    market = {name: spec.get("nodeSelector", {}).get("eks.amazonaws.com/capacityType") for name, spec in pods.items()}
    if market.pop("head") != "ON_DEMAND" or pods["head"].get("tolerations"):
        yield "the head must not be taken away"
    if "nvidia.com/gpu" in str(pods.pop("head")["containers"]):
        yield "the head has a GPU"
    for name, spec in pods.items():
        if market[name] != "SPOT" or {one.get("key") for one in spec.get("tolerations", ())} < {
            "nvidia.com/gpu",
            "spot",
        }:
            yield f"{name}: spot nodes with GPUs are neither asked for nor tolerated"
        environment = {one["name"]: one.get("value") for one in spec["containers"][0]["env"]}
        drain = float(environment.get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", 30))
        if not 0 < drain < spec.get("terminationGracePeriodSeconds", 30) < 120:
            yield f"{name}: drained for {drain:.0f} s: not within the grace period, or that not within AWS's 120 s"
        if "lifecycle" in spec["containers"][0]:
            yield f"{name}: a hook that ends Ray leaves nothing to drain"


def setting_faults(manifest: Manifest) -> Iterator[str]:
    """Mounts, secrets, environment and the command agree with each other."""
    words = shlex.split(manifest["spec"]["entrypoint"])
    settings = dict(value.split("=", 1) for option, value in itertools.pairwise(words) if option == "--set")
    for name, template in templates(manifest).items():
        spec, container = template["spec"], template["spec"]["containers"][0]
        mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
        volumes = {one["name"]: one for one in spec["volumes"]}
        if mounts.keys() != volumes.keys():
            yield f"{name}: volumes {sorted(volumes)}, mounts {sorted(mounts)}"
        if mounts.get("shm") != "/dev/shm" or volumes.get("shm", {}).get("emptyDir", {}).get("medium") != "Memory":
            yield f"{name}: no shared memory for workers that exchange batches"
        environment = {one["name"]: one.get("value") for one in container["env"]}
        if environment.get("AWS_REQUEST_CHECKSUM_CALCULATION") != "WHEN_REQUIRED":
            yield f"{name}: uploads that stores other than AWS refuse"
        for path in (environment.get("RAYFALL_COPIES") or "", settings.get("resources.cache", "")):
            if not PurePosixPath(path).is_relative_to(mounts.get("cache", "/")):
                yield f"{name}: {path or 'a cache'} is not on the cache's volume"
        if container.get("envFrom") != [{"secretRef": {"name": "rayfall-store"}}]:
            yield f"{name}: no secret of the store"
        if any(re.search(r"SECRET|PASSWORD|TOKEN", one) for one in environment):
            yield f"{name}: a secret in the manifest"
        requests, limits = (container["resources"][kind] for kind in ("requests", "limits"))
        if requests != limits:
            yield f"{name}: pods that ask for less than they may use are evicted first"
    experiment = {one["name"]: one for one in templates(manifest)["head"]["spec"]["containers"][0]["volumeMounts"]}
    if PurePosixPath(words[2]).parent != PurePosixPath(experiment["experiment"]["mountPath"]):
        yield "the experiment is not where it is mounted"
    if words[:1] != ["rayfall"] or words[1] not in {
        one.name or one.callback.__name__ for one in app.registered_commands
    }:
        yield f"{' '.join(words[:2])} is no command"
    if not settings.get("store", "").startswith("s3://") or settings.get("resources.address") != "auto":
        yield "a store that every pod sees, and the cluster of the job"
    ray = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("ray=="))
    if manifest["spec"]["rayClusterSpec"]["rayVersion"] != ray.removeprefix("ray=="):
        yield "another Ray than constraints.txt"


RULES: list[Callable[[Manifest], Iterator[str]]] = [job_faults, pod_faults, spot_faults, setting_faults]


@pytest.mark.parametrize("rule", RULES)
def test_it_breaks_no_rule(rule: Callable[[Manifest], Iterator[str]]) -> None:
    assert list(rule(read())) == []


def test_the_image_has_the_same_ray() -> None:
    version = read()["spec"]["rayClusterSpec"]["rayVersion"]
    assert f"FROM rayproject/ray:{version}-py311-gpu" in (ROOT / "kuberay" / "Dockerfile").read_text()


HEAD_AT, GROUP_AT = "spec.rayClusterSpec.headGroupSpec", "spec.rayClusterSpec.workerGroupSpecs.0"
HEAD_POD, POD = f"{HEAD_AT}.template.spec", f"{GROUP_AT}.template.spec"
CASES: list[tuple[Callable[[Manifest], Iterator[str]], str, Any, str]] = [
    (job_faults, "spec.backoffLimi", 3, "backoffLimi"),
    (job_faults, "spec.backoffLimit", "3", "is not of type 'integer'"),
    (job_faults, f"{GROUP_AT}.maxReplica", 3, "maxReplica"),
    (job_faults, f"{HEAD_AT}.rayStartParams.num-gpus", 0, "is not of type 'string'"),
    (job_faults, "spec.rayClusterSpec.authOptions.mode", "disabled", "'token' was expected"),
    (pod_faults, f"{POD}.nodeSelectr", {}, "PodSpec has no such field"),
    (pod_faults, f"{POD}.containers.0.volumeMounts.0.mountPth", "/x", "VolumeMount has no such field"),
    (pod_faults, f"{POD}.terminationGracePeriodSeconds", "110", "is no int"),
    (pod_faults, f"{POD}.containers.0.envFrom.0", {"secretReff": {}}, "EnvFromSource has no such field"),
    (pod_faults, f"{POD}.volumes.0.emptyDir", [], "no mapping"),
    (pod_faults, f"{HEAD_POD}.containers.0", {"image": "x"}, "name: missing"),
    (spot_faults, f"{HEAD_POD}.nodeSelector", {}, "head must not be taken away"),
    (spot_faults, f"{POD}.tolerations", [], "neither asked for nor tolerated"),
    (spot_faults, f"{POD}.terminationGracePeriodSeconds", 60, "not within the grace period"),
    (spot_faults, f"{POD}.terminationGracePeriodSeconds", 300, "not within AWS's"),
    (spot_faults, f"{POD}.containers.0.lifecycle", {"preStop": {}}, "nothing to drain"),
    (spot_faults, f"{HEAD_POD}.containers.0.resources.limits", {"nvidia.com/gpu": "1"}, "the head has a GPU"),
    (setting_faults, f"{POD}.volumes.0.name", "sm", "volumes"),
    (setting_faults, f"{POD}.volumes.0.emptyDir", {}, "no shared memory"),
    (setting_faults, f"{POD}.containers.0.env.0.value", "WHEN_SUPPORTED", "stores other than AWS refuse"),
    (setting_faults, f"{POD}.containers.0.env.1.value", "/data", "/data is not on the cache's volume"),
    (setting_faults, f"{POD}.containers.0.envFrom", [], "no secret of the store"),
    (setting_faults, f"{POD}.containers.0.env.2.name", "AWS_SECRET_ACCESS_KEY", "a secret in the manifest"),
    (setting_faults, f"{POD}.containers.0.resources.limits", {}, "evicted first"),
    (setting_faults, "spec.entrypoint", "rayfall walk /home/ray/experiment/a.yaml", "rayfall walk is no command"),
    (setting_faults, "spec.entrypoint", "rayfall run /data/a.yaml", "not where it is mounted"),
    (setting_faults, "spec.rayClusterSpec.rayVersion", "2.59.0", "another Ray"),
]


@pytest.mark.parametrize(("rule", "path", "value", "told"), CASES)
def test_every_rule_catches_what_breaks_it(
    rule: Callable[[Manifest], Iterator[str]], path: str, value: Any, told: str
) -> None:
    manifest = copy.deepcopy(read())
    *above, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place: Any = manifest
    for part in above:
        place = place[part]
    place[last] = value
    assert told in "\n".join(rule(manifest))
