"""What KubeRay's operator refuses, and no schema says."""

from __future__ import annotations

import re
from collections.abc import Iterator

from packaging.version import InvalidVersion, Version

from tests.k8s.objects import Object, groups

MAX_NAME = 47
"""Of the 63 characters of a service's name KubeRay needs 6 for the cluster and 10 for `-serve-svc`."""
STRATEGIES = ("None", "NewCluster", "NewClusterWithIncrementalUpgrade")
TOKENS_SINCE = Version("2.52")
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_RESOURCES = ("num-cpus", "num-gpus", "memory", "resources")
_OWN_OF_REDIS = ("REDIS_PASSWORD", "RAY_REDIS_ADDRESS", "REDIS_USERNAME")


def mistakes(rayservice: Object) -> Iterator[str]:
    name, spec = rayservice["metadata"]["name"], rayservice["spec"]
    if not _DNS_1035.fullmatch(name) or len(name) > MAX_NAME:
        yield f"metadata.name: {name!r} is no name of a service, or too long"
    yield from _of_upgrades(spec)
    yield from _of_groups(rayservice)
    yield from _of_redis(rayservice)
    yield from _of_autoscaler(rayservice)
    cluster = spec["rayClusterConfig"]
    if cluster.get("authOptions", {}).get("mode") == "token":
        try:
            if Version(cluster["rayVersion"]) < TOKENS_SINCE:
                yield f"rayVersion: {cluster['rayVersion']} knows no tokens"
        except (KeyError, InvalidVersion):
            yield "rayVersion: is needed for tokens"


def _of_upgrades(spec: Object) -> Iterator[str]:
    strategy = spec.get("upgradeStrategy", {})
    kind = strategy.get("type", "NewCluster")
    if kind not in STRATEGIES:
        yield f"upgradeStrategy.type: {kind!r} is none of {', '.join(STRATEGIES)}"
    if kind != STRATEGIES[2]:
        return
    options = strategy.get("clusterUpgradeOptions", {})
    if not spec["rayClusterConfig"].get("enableInTreeAutoscaling"):
        yield "upgradeStrategy: an incremental upgrade needs the autoscaler"
    if not 0 <= options.get("stepSizePercent", -1) <= options.get("maxSurgePercent", 100) <= 100:
        yield "upgradeStrategy: needs 0 <= stepSizePercent <= maxSurgePercent <= 100"
    if options.get("intervalSeconds", 0) <= 0 or not options.get("gatewayClassName"):
        yield "upgradeStrategy: needs intervalSeconds above 0 and a gatewayClassName"


def _of_groups(rayservice: Object) -> Iterator[str]:
    seen = set()
    for name, group in groups(rayservice):
        params = group.get("rayStartParams", {})
        if group.get("resources") and any(key in params for key in _RESOURCES):
            yield f"{name}: resources stand both in rayStartParams and in resources"
        if "labels" in params:
            yield f"{name}: rayStartParams.labels: is not supported"
        if not group["template"]["spec"].get("containers"):
            yield f"{name}: needs a container"
        if name in seen:
            yield f"{name}: is the name of two groups"
        seen.add(name)
        if "minReplicas" in group:
            least, most = group["minReplicas"], group["maxReplicas"]
            if not 0 <= least <= group.get("replicas", least) <= most:
                yield f"{name}: needs 0 <= minReplicas <= replicas <= maxReplicas"


def _of_redis(rayservice: Object) -> Iterator[str]:
    cluster = rayservice["spec"]["rayClusterConfig"]
    head = cluster["headGroupSpec"]
    for name in _OWN_OF_REDIS:
        if name in _environment(head):
            yield f"head: {name} is KubeRay's to set, from gcsFaultToleranceOptions"
    for name in ("redis-password", "redis-username"):
        if name in head.get("rayStartParams", {}):
            yield f"head: rayStartParams.{name}: is said in gcsFaultToleranceOptions"
    for name in ("ray.io/ft-enabled", "ray.io/external-storage-namespace"):
        if name in rayservice["metadata"].get("annotations", {}):
            yield f"metadata.annotations: {name} is said in gcsFaultToleranceOptions"


def _of_autoscaler(rayservice: Object) -> Iterator[str]:
    cluster = rayservice["spec"]["rayClusterConfig"]
    second = cluster.get("autoscalerOptions", {}).get("version") == "v2"
    if second and not cluster.get("enableInTreeAutoscaling"):
        yield "autoscalerOptions: nothing scales without enableInTreeAutoscaling"
    if "RAY_enable_autoscaler_v2" in _environment(cluster["headGroupSpec"]):
        yield "head: RAY_enable_autoscaler_v2 is said by autoscalerOptions.version"
    for name, group in groups(rayservice):
        if second and group["template"]["spec"].get("restartPolicy", "Never") != "Never":
            yield f"{name}: restartPolicy: must be Never with the autoscaler's version v2"
        if group.get("suspend"):
            yield f"{name}: suspend: not with the autoscaler"


def _environment(group: Object) -> set[str]:
    return {one["name"] for one in group["template"]["spec"]["containers"][0].get("env", ())}
