"""cluster.yaml is what Ray's launcher, EC2 and bash accept and what Rayfall needs, as far as can be told without AWS.

Each rule is shown to catch a file that breaks it.
"""

from __future__ import annotations

import copy
import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import botocore.session
import jsonschema
import pytest
from botocore.validate import ParamValidator
from ruamel.yaml import YAML

from pipeline.experiment_spec import ResourcesSpec

PATH = Path(__file__).parents[2] / "cluster.yaml"
SAID = {"RAY_AUTH_MODE": "disabled", "AWS_REQUEST_CHECKSUM_CALCULATION": "WHEN_REQUIRED"}  # wherever Ray is started
HOME = PurePosixPath("/home/ray")  # of the user in Ray's images

Cluster = dict[str, Any]


def read() -> Cluster:
    found: Cluster = YAML(typ="safe").load(PATH)
    return found


def launcher_faults(cluster: Cluster) -> Iterator[str]:
    """What Ray's own schema and its full check refuse."""
    import ray.autoscaler
    from ray.autoscaler._private.util import prepare_config, validate_config

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    for error in jsonschema.Draft7Validator(schema).iter_errors(cluster):
        yield error.message
    try:
        validate_config(prepare_config(copy.deepcopy(cluster)))
    except Exception as error:  # it raises whatever it stumbled over
        yield f"the launcher: {error}"


def request_faults(cluster: Cluster) -> Iterator[str]:
    """What EC2's model of RunInstances does not know: the launcher hands node_config on without looking."""
    request = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for name, kind in cluster["available_node_types"].items():
        report = ParamValidator().validate({"MinCount": 1, "MaxCount": 1, **kind["node_config"]}, request)
        if report.has_errors():
            yield f"{name}: {report.generate_report()}"
        yield from (f"{name}: {fault}" for fault in unlisted(kind["node_config"], request))


def unlisted(value: Any, shape: Any) -> Iterator[str]:
    """Texts that are none of those EC2 lists for their place; botocore leaves that to the service."""
    if shape.type_name == "structure":
        for key in value.keys() & shape.members.keys():
            yield from unlisted(value[key], shape.members[key])
    elif shape.type_name == "list":
        for item in value:
            yield from unlisted(item, shape.member)
    elif getattr(shape, "enum", None) and value not in shape.enum and shape.name != "InstanceType":
        yield f"{value} is no {shape.name}"


def group_faults(cluster: Cluster) -> Iterator[str]:
    """Head, spot and on-demand groups."""
    kinds = cluster["available_node_types"]
    head = kinds[cluster["head_node_type"]]
    if head["resources"].get("GPU") != 0 or "InstanceMarketOptions" in head["node_config"]:
        yield "the head must be on-demand and say that it has no GPU"
    workers = {name: kind for name, kind in kinds.items() if kind is not head}
    for name, kind in workers.items():
        if not 0 <= kind["min_workers"] <= kind["max_workers"] <= cluster["max_workers"]:
            yield f"{name}: 0 <= min_workers <= max_workers <= those of the cluster"
        if not kind["resources"].get("GPU"):
            yield f"{name}: no GPU"
        market = kind["node_config"].get("InstanceMarketOptions", {}).get("MarketType", "on-demand")
        if market != kind["labels"]["market"]:
            yield f"{name} is labelled {kind['labels']['market']} and bought as {market}"
    spot = [kind.get("priority", 0) for kind in workers.values() if kind["labels"]["market"] == "spot"]
    reserve = [kind.get("priority", 0) for kind in workers.values() if kind["labels"]["market"] == "on-demand"]
    if not spot or not reserve or min(spot) <= max(reserve):
        yield "spot comes first and something stands by for the time when there is none"
    if cluster["provider"]["cache_stopped_nodes"]:
        yield "one-time spot instances cannot be stopped and kept"


def setting_faults(cluster: Cluster) -> Iterator[str]:
    """Environment, disk and paths agree with each other and with what Rayfall reads."""
    options = [shlex.split(option) for option in cluster["docker"]["run_options"]]
    told = dict(value.split("=", 1) for option, value in options if option == "--env")
    volumes = {value.split(":")[1]: value.split(":")[0] for option, value in options if option == "--volume"}
    for place in ("head", "worker"):
        starts = [line for line in cluster[f"{place}_start_ray_commands"] if "ray start" in line]
        exported = dict(word.split("=", 1) for word in shlex.split(" ".join(starts)) if re.match(r"[A-Z_]+=", word))
        exported = {name: value.rstrip(";") for name, value in exported.items()}
        if exported != SAID or any(told.get(name) != value for name, value in SAID.items()):
            yield f"{place}: {SAID} in the container and where Ray is started"
    if told.get("AWS_DEFAULT_REGION") != cluster["provider"]["region"]:
        yield "AWS_DEFAULT_REGION is not the region of the nodes"
    made = " ".join(cluster["initialization_commands"])
    links = re.findall(r"ln -sfn (\S+) (\S+)", " ".join(cluster["setup_commands"]))
    cache = PurePosixPath(ResourcesSpec().cache)
    linked = [str(PurePosixPath(target) / cache.relative_to(at)) for target, at in links if cache.is_relative_to(at)]
    for what, path in (("RAYFALL_COPIES", told.get("RAYFALL_COPIES", "")), ("resources.cache", *linked, "")[:2]):
        inside = next((at for at in volumes if PurePosixPath(path).is_relative_to(at)), None)
        if inside is None or path.replace(inside, volumes[inside], 1) not in made.split():
            yield f"{what} is {path or 'nowhere'}: not on the disk that is made and mounted"
    if f'mount "/dev/$disk" {next(iter(volumes.values()), None)}' not in made:
        yield "the instance store is mounted elsewhere"


def command_faults(cluster: Cluster) -> Iterator[str]:
    """Every command is one that bash can read; the project is installed as pinned; the watcher runs on workers."""
    lists = {name: lines for name, lines in cluster.items() if name.endswith("_commands")}
    for name, lines in lists.items():
        for line in lines:
            answer = subprocess.run(["bash", "-n"], input=line, capture_output=True, text=True, check=False)
            if answer.returncode:
                yield f"{name}: {line!r}: {answer.stderr.strip()}"
    installs = [line for line in cluster["setup_commands"] if "pip install" in line]
    if not installs or any(line.count("install") != line.count("install -c constraints.txt") + line.count(
        '"$(which python)" -c constraints.txt') for line in installs):  # fmt: skip
        yield "installed without constraints.txt"
    if any(re.search(r"://|index", line) for line in cluster["setup_commands"]):
        yield "a package index is the machine's own affair"
    folder = next((at for at, local in cluster["file_mounts"].items() if local == "."), None)
    if not any(line.startswith(f"cd {folder} ") for line in installs) or not str(folder).startswith(str(HOME)):
        yield "what is installed is not what is mounted"
    if "pipeline.spot_notice" not in " ".join(cluster["worker_start_ray_commands"]):
        yield "nobody watches for spot notices"
    version = next(line for line in (PATH.parent / "constraints.txt").read_text().splitlines() if line[:5] == "ray==")
    for image in ("image", "head_image"):
        if not cluster["docker"][image].startswith(f"rayproject/ray:{version.removeprefix('ray==')}-py311"):
            yield f"docker.{image} has another Ray than constraints.txt"


RULES: list[Callable[[Cluster], Iterator[str]]] = [
    launcher_faults, request_faults, group_faults, setting_faults, command_faults
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_it_breaks_no_rule(rule: Callable[[Cluster], Iterator[str]]) -> None:
    assert list(rule(read())) == []


def node(kind: str, **changes: Any) -> Callable[[Cluster], None]:
    return lambda cluster: cluster["available_node_types"][kind].update(changes)


def request(kind: str, **changes: Any) -> Callable[[Cluster], None]:
    return lambda cluster: cluster["available_node_types"][kind]["node_config"].update(changes)


def replaced(old: str, new: str) -> Callable[[Cluster], None]:
    """The first of ``old`` in the file, comments aside, is ``new``."""

    def change(cluster: Cluster) -> None:
        text = json.dumps(cluster)
        assert old in text
        cluster.update(json.loads(text.replace(old, new, 1)))

    return change


MUTATIONS: list[tuple[Callable[[Cluster], Iterator[str]], Callable[[Cluster], None], str]] = [
    (launcher_faults, lambda cluster: cluster.update(idle_minutes=5), "idle_minutes"),
    (launcher_faults, lambda cluster: cluster.update(head_node_type="front"), "must be one of `available_node_types`"),
    (launcher_faults, node("gpu_spot", max_workers="8"), "'8' is not of type 'integer'"),
    (request_faults, request("gpu_spot", InstanceTyp="g6.2xlarge"), "InstanceTyp"),
    (request_faults, request("gpu_spot", InstanceMarketOptions={"MarketTyp": "spot"}), "MarketTyp"),
    (request_faults, request("gpu_spot", InstanceMarketOptions={"MarketType": "sport"}), "sport is no MarketType"),
    (request_faults, replaced('"VolumeSize": 200', '"VolumeSize": "200"'), "VolumeSize"),
    (request_faults, replaced('"VolumeType": "gp3"', '"VolumeType": "gp33"'), "gp33 is no VolumeType"),
    (group_faults, node("gpu_spot", min_workers=9), "gpu_spot: 0 <= min_workers"),
    (group_faults, node("gpu_spot", max_workers=11), "gpu_spot: 0 <= min_workers"),
    (group_faults, node("head", resources={"CPU": 8, "GPU": 1}), "head must be on-demand"),
    (group_faults, request("head", InstanceMarketOptions={"MarketType": "spot"}), "head must be on-demand"),
    (group_faults, request("gpu_spot", InstanceMarketOptions={}), "labelled spot and bought as on-demand"),
    (group_faults, node("gpu_spot", priority=0), "spot comes first"),
    (group_faults, replaced('"cache_stopped_nodes": false', '"cache_stopped_nodes": true'), "stopped and kept"),
    (setting_faults, replaced("export RAY_AUTH_MODE=disabled", "export"), "head: "),
    (setting_faults, replaced("--env RAY_AUTH_MODE=disabled", "--env RAY_AUTH_MODE=token"), "in the container"),
    (setting_faults, replaced("CALCULATION=WHEN_REQUIRED;", "CALCULATION=WHEN_SUPPORTED;"), "where Ray is started"),
    (setting_faults, replaced("AWS_DEFAULT_REGION=us-west-2", "AWS_DEFAULT_REGION=us-east-1"), "not the region"),
    (setting_faults, replaced("RAYFALL_COPIES=/mnt/rayfall/results", "RAYFALL_COPIES=/data"), "RAYFALL_COPIES is"),
    (setting_faults, replaced("/mnt/rayfall ~/.cache", "/mnt/fast ~/.cache"), "resources.cache is /mnt/fast/shards"),
    (setting_faults, replaced("rayfall:/mnt/rayfall", "rayfall:/mnt/disk"), "RAYFALL_COPIES is"),
    (setting_faults, replaced("/dev/$disk\\\" /mnt/rayfall", "/dev/$disk\\\" /mnt/other"), "mounted elsewhere"),
    (command_faults, replaced("; fi", ";"), "syntax error"),
    (command_faults, replaced("$(which python)", "$(which python"), "unexpected"),
    (command_faults, replaced('\\" -c constraints.txt', '\\"'), "without constraints.txt"),
    (command_faults, replaced("pip install -c", "pip install -i https://host/simple -c"), "package index"),
    (command_faults, replaced("cd /home/ray/rayfall", "cd /home/ray/other"), "not what is mounted"),
    (command_faults, replaced("-m pipeline.spot_notice", "-m pipeline.other"), "nobody watches"),
    (command_faults, replaced("ray:2.60.0", "ray:2.59.0"), "another Ray"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "change", "told"), MUTATIONS)
def test_every_rule_catches_what_breaks_it(
    rule: Callable[[Cluster], Iterator[str]], change: Callable[[Cluster], None], told: str
) -> None:
    cluster = read()
    change(cluster)
    assert told in "\n".join(rule(cluster))
