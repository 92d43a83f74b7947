"""All checks in order: first what this process can tell alone, then the cluster and every node of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack

from pipeline.data.specs import absolute
from pipeline.doctor.findings import Finding, Findings, Trouble
from pipeline.doctor.gpus import check_gpus
from pipeline.doctor.nodes import Probe, check_node, check_nodes, facts_here
from pipeline.doctor.places import check_data
from pipeline.doctor.stores import check_store, open_store, removed_after
from pipeline.doctor.tracking import check_tracking
from pipeline.doctor.versions import check_versions, pinned, versions_here
from pipeline.errors import UserError, first_line
from pipeline.experiment_spec import Experiment, ResourcesSpec
from pipeline.objects import Objects
from pipeline.submission.reaching import require_cluster
from pipeline.tracking.addresses import tracking_uri


def examine(
    experiment: Experiment | None, address: str | None, *, gpu: bool, tell: Callable[[Finding], None]
) -> list[Finding]:
    """What ``experiment`` needs, and the cluster at ``address`` (None: this machine). Nothing it makes stays."""
    findings = Findings(tell)
    findings.check("versions", lambda: check_versions(versions_here(), pinned()))
    store = None
    if experiment is not None:
        store = absolute(str(experiment.store))
        if not check_store(store, findings):
            store = None
        try:
            check_tracking(tracking_uri(experiment), findings)
        except UserError as error:
            findings.add("tracking", False, str(error))
        findings.check("data", lambda: check_data(experiment.data))
    with ExitStack() as stack:
        probe = Probe(folders=_folders(experiment))
        if store is not None:
            objects, data = open_store(store), os.urandom(1000)
            name = stack.enter_context(removed_after(objects))
            if findings.check("store probe", lambda: _put(objects, name, data)):
                probe = Probe(store, name, data, probe.folders)
        if address is None and not gpu:
            findings.check("this machine", lambda: check_node(facts_here(probe), 0))
        else:
            _examine_cluster(address, probe, gpu, findings, stack)
    return findings.all


def _examine_cluster(address: str | None, probe: Probe, gpu: bool, findings: Findings, stack: ExitStack) -> None:
    if not findings.check("ray", lambda: _join(address, stack)):
        return
    gpus = check_nodes(probe, findings)
    if gpu:
        check_gpus(gpus, findings)


def _put(objects: Objects, name: str, data: bytes) -> str:
    objects.write(name, data)
    return "written, for every node to read"


def _folders(experiment: Experiment | None) -> tuple[str, ...]:
    """Of each machine, for copies of shards and, where results are in a bucket, of these."""
    resources = ResourcesSpec() if experiment is None else experiment.resources
    if experiment is None or "://" not in experiment.store:
        return (str(resources.cache),)
    from pipeline.s3_storage import copies_folder

    return str(resources.cache), str(copies_folder())


def _join(address: str | None, stack: ExitStack) -> str:
    """Join the cluster. Raises UserError where there is none, also for a process that has joined another."""
    from pipeline.cluster import ray_cluster

    if address is not None:
        require_cluster(address)
    try:
        stack.enter_context(ray_cluster(address))
    except UserError:
        raise
    except Exception as error:
        asked = "start it with the same Ray and Python as here, and name its head as --address HOST:PORT"
        raise Trouble(
            f"the Ray cluster {address or 'of this machine'} cannot be joined ({first_line(error)}); {asked}"
        ) from error
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    return f"{len(alive)} nodes, {ray.cluster_resources().get('GPU', 0):g} GPUs, Ray {ray.__version__}"
