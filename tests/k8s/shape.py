"""What this project's own cluster must be like: safe, patient enough, and one with its settings."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

from deployments.config import Settings
from deployments.environment import SERVING
from ingress.local import HAPROXY
from tests.k8s import serve_config
from tests.k8s.objects import Object, Pod, groups, pods, selects, the

MOVE_S = 60
"""In which a replica comes up elsewhere before the one here is asked to end."""
PROXY_S = 40
"""In which Serve's proxy finds that nobody is connected, and Ray stops."""
KEYS = "llm-manager-keys"
"""The secret with the variables that hold clients' keys."""
IMAGE = "registry.example.com/llm-manager"
VOLUMES = frozenset({"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected"})
"""Of those that Kubernetes' restricted profile allows; secrets are read from the environment."""
CLOSED = frozenset({6379, 8265, 10001})
"""Ports of Ray that command a cluster."""


def mistakes(objects: list[Object], settings: Settings) -> Iterator[str]:
    rayservice = the(objects, "RayService")
    for pod in pods(objects):
        yield from (f"{pod.where}: {text}" for text in _restricted(pod))
    for name, group in groups(rayservice):
        yield from (f"{name}: {text}" for text in _ray_pod(name, group, settings))
    yield from _cluster(rayservice["spec"]["rayClusterConfig"], objects, settings)
    yield from _doors(objects)


def _restricted(pod: Pod) -> Iterator[str]:
    own = pod.spec.get("securityContext", {})
    if not own.get("runAsNonRoot") or not own.get("runAsUser"):
        yield "runs as root"
    if own.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "has no seccomp profile"
    for container in pod.containers:
        context = container.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
            yield f"{container['name']} may gain privileges"
        if context.get("capabilities", {}).get("drop") != ["ALL"] or context["capabilities"].get("add"):
            yield f"{container['name']} keeps capabilities"
        resources = container.get("resources", {})
        if not {"cpu", "memory"} <= set(resources.get("requests", {})) or "memory" not in resources.get("limits", {}):
            yield f"{container['name']} claims no CPUs or memory, or is not bound"
    for volume in pod.spec.get("volumes", ()):
        if not set(volume) - {"name"} <= VOLUMES:
            yield f"the volume {volume['name']} is of a kind that is not allowed"


def _ray_pod(name: str, group: Object, settings: Settings) -> Iterator[str]:
    spec = group["template"]["spec"]
    container = spec["containers"][0]
    values = {one["name"]: one.get("value") for one in container["env"]}
    if values.get(HAPROXY) != "1":
        yield "HAProxy is not in front"
    yield from (
        f"{name} is not {value!r} in its environment" for name, value in SERVING.items() if values.get(name) != value
    )
    if {"secretRef": {"name": KEYS}} not in container.get("envFrom", ()):
        yield "does not know the keys"
    if not container["image"].startswith(f"{IMAGE}:{version('llm-manager')}"):
        yield f"runs {container['image']}"
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    if str(settings.cache_dir) not in mounts:
        yield "cache_dir is not shared"
    if name == "head":
        if str(settings.data_dir) not in mounts:
            yield "data_dir is lost with the pod"
        if group["rayStartParams"].get("num-cpus") != "0":
            yield "models may run on the head"
        return
    drain_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    if drain_s < serve_config.longest_answer_s(settings) + MOVE_S:
        yield f"leave-cluster: an answer may take longer than {drain_s} s"
    if spec["terminationGracePeriodSeconds"] < drain_s + PROXY_S:
        yield "terminationGracePeriodSeconds: is over before leave-cluster is"
    if "nvidia.com/gpu" in container["resources"]["limits"] and group["minReplicas"] != 0:
        yield "minReplicas: GPUs are kept that nobody uses"


def _cluster(cluster: Object, objects: list[Object], settings: Settings) -> Iterator[str]:
    if cluster["rayVersion"] != version("ray"):
        yield f"rayVersion: the image has {version('ray')}"
    if cluster.get("authOptions", {}).get("mode") != "token":
        yield "authOptions: anybody may command the cluster"
    if not cluster.get("enableInTreeAutoscaling") or cluster["autoscalerOptions"].get("version") != "v2":
        yield "nothing scales"
    if "gcsFaultToleranceOptions" not in cluster:
        yield "gcsFaultToleranceOptions: all is lost with the head"
    if settings.ingress_replicas < 2 or settings.ingress_replicas_per_node != 1:
        yield "ingress_replicas: all may be in one pod"
    if settings.allow_without_keys:
        yield "allow_without_keys: everybody may ask"
    least = sum(group["minReplicas"] for group in cluster["workerGroupSpecs"])
    if least < settings.ingress_replicas:
        yield "minReplicas: there are fewer pods than replicas of the ingress"
    http = serve_config.of(objects)["http_options"]
    for pod in pods(objects):
        if "serve" in pod.ports and pod.ports["serve"] != http["port"]:
            yield f"{pod.where}: Serve listens on {http['port']}"
    if http["host"] != "0.0.0.0":
        yield "http_options.host: no other pod gets there"
    wanted = max((one.num_gpus or 0 for model in settings.models for one in model.placements), default=0)
    if wanted > max(_gpus(group) for group in cluster["workerGroupSpecs"]):
        yield f"no group has pods with {wanted:g} GPUs"


def _gpus(group: Object) -> int:
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    return int(limits.get("nvidia.com/gpu", 0))


def _doors(objects: list[Object]) -> Iterator[str]:
    """Who may get in: to port 8000 everybody, to all ports the cluster itself, to its head's the operator."""
    policies = [one for one in objects if one["kind"] == "NetworkPolicy"]
    for pod in pods(objects):
        for direction in ("Ingress", "Egress"):
            if not any(_covers(one, pod, direction) for one in policies):
                yield f"{pod.where}: {direction} is open"
    for one in policies:
        for rule in one["spec"].get("ingress", ()):
            ports = {port["port"] for port in rule.get("ports", ())}
            if "from" not in rule and ports != {8000}:
                yield f"{one['metadata']['name']}: more than port 8000 is open to everybody"
            for peer in rule.get("from", ()):
                outside = "namespaceSelector" in peer or "ipBlock" in peer
                operator = "kuberay-operator" in str(peer)
                if outside and (not ports or (ports & CLOSED and not operator)):
                    yield f"{one['metadata']['name']}: others may command the cluster"


def _covers(policy: Object, pod: Pod, direction: str) -> bool:
    return direction in policy["spec"]["policyTypes"] and selects(policy["spec"]["podSelector"], pod.labels)
