"""What objects call each other by: each name leads to something."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from tests.k8s.objects import Object, Pod, of_kind, pods, selects, title, walk

Declared = dict[str, dict[str, frozenset[str]]]
"""Secrets, config maps and claims: the keys of each, by kind and name."""
_KEYED = {"secretKeyRef": "Secret", "configMapKeyRef": "ConfigMap"}
_NAMED = {
    "secretRef": ("Secret", "name"),
    "configMapRef": ("ConfigMap", "name"),
    "configMap": ("ConfigMap", "name"),
    "secret": ("Secret", "secretName"),
    "persistentVolumeClaim": ("PersistentVolumeClaim", "claimName"),
}


def mistakes(objects: list[Object], provided: Iterable[Object] = ()) -> Iterator[str]:
    """provided: objects that others bring, such as secrets."""
    declared = _declared([*objects, *provided])
    made = list(pods(objects))
    for one in objects:
        if one["kind"] in ("RayService", "StatefulSet"):
            yield from (f"{title(one)}{text}" for text in _names(one, declared))
        yield from (f"{title(one)}{text}" for text in _selectors(one, made))
    for pod in made:
        yield from (f"{pod.where}: {text}" for text in _inside(pod))
    yield from _services(objects, made)
    yield from _redis(objects)


def _declared(objects: Iterable[Object]) -> Declared:
    found: Declared = {"Secret": {}, "ConfigMap": {}, "PersistentVolumeClaim": {}}
    for one in objects:
        if one["kind"] in found:
            keys = frozenset({**one.get("data", {}), **one.get("stringData", {})})
            found[one["kind"]][one["metadata"]["name"]] = keys
    return found


def _names(one: Object, declared: Declared) -> Iterator[str]:
    for path, value in walk(one):
        word = path.rpartition(".")[2]
        if not isinstance(value, dict):
            continue
        if word in _KEYED:
            kind = _KEYED[word]
            if value["key"] not in declared[kind].get(value["name"], ()):
                yield f"{path}: there is no {kind} {value['name']} with {value['key']}"
        elif word in _NAMED:
            kind, key = _NAMED[word]
            if value[key] not in declared[kind]:
                yield f"{path}: there is no {kind} {value[key]}"


def _selectors(one: Object, made: list[Pod]) -> Iterator[str]:
    """Of this namespace's pods; each selects some. Ports that are named with them are theirs."""
    for path, value in walk(one):
        word = path.rpartition(".")[2]
        if word in ("podSelector", "labelSelector", "selector") and isinstance(value, dict):
            others = word == "podSelector" and "namespaceSelector" in _parent(one, path)
            if not others and not any(selects(value, pod.labels) for pod in made):
                yield f"{path}: selects no pod"
    if one["kind"] == "NetworkPolicy":
        yield from _policy_ports(one, made)
    if one["kind"] == "PodMonitor":
        for pod in (pod for pod in made if selects(one["spec"]["selector"], pod.labels)):
            for endpoint in one["spec"]["podMetricsEndpoints"]:
                if endpoint["port"] not in pod.ports:
                    yield f": {pod.where} has no port {endpoint['port']}"


def _policy_ports(one: Object, made: list[Pod]) -> Iterator[str]:
    own = [pod for pod in made if selects(one["spec"]["podSelector"], pod.labels)]
    for rule in one["spec"].get("ingress", ()):
        yield from _unknown(rule, own)
    for rule in one["spec"].get("egress", ()):
        for peer in rule.get("to", ()):
            if "podSelector" in peer and "namespaceSelector" not in peer:
                yield from _unknown(rule, [pod for pod in made if selects(peer["podSelector"], pod.labels)])


def _unknown(rule: Object, made: list[Pod]) -> Iterator[str]:
    known = {port for pod in made for port in (*pod.ports, *pod.ports.values())}
    for port in rule.get("ports", ()):
        if port["port"] not in known:
            yield f": no pod has port {port['port']}"


def _inside(pod: Pod) -> Iterator[str]:
    volumes = [volume["name"] for volume in pod.spec.get("volumes", ())]
    mounted = {mount["name"] for container in pod.containers for mount in container.get("volumeMounts", ())}
    for name in sorted(mounted - {*volumes, *pod.claims}):
        yield f"there is no volume {name}"
    for name in sorted({*volumes, *pod.claims} - mounted):
        yield f"nobody mounts the volume {name}"
    for container in pod.containers:
        for what in ("env", "ports", "volumeMounts"):
            names = Counter(one.get("mountPath") or one["name"] for one in container.get(what, ()))
            yield from (f"{container['name']}: {what}: {name} is there twice" for name, n in names.items() if n > 1)
        ports = {port["name"] for port in container.get("ports", ())}
        for probe in ("readinessProbe", "livenessProbe"):
            port = container.get(probe, {}).get("tcpSocket", {}).get("port")
            if isinstance(port, str) and port not in ports:
                yield f"{container['name']}: {probe}: there is no port {port}"


def _services(objects: list[Object], made: list[Pod]) -> Iterator[str]:
    for service in of_kind(objects, "Service"):
        chosen = [pod for pod in made if selects(service["spec"]["selector"], pod.labels)]
        for port in service["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            if any(target not in (*pod.ports, *pod.ports.values()) for pod in chosen):
                yield f"{title(service)}: its pods have no port {target}"
    for one in of_kind(objects, "StatefulSet"):
        if one["spec"]["serviceName"] not in {s["metadata"]["name"] for s in of_kind(objects, "Service")}:
            yield f"{title(one)}: there is no Service {one['spec']['serviceName']}"


def _redis(objects: list[Object]) -> Iterator[str]:
    for one in of_kind(objects, "RayService"):
        options = one["spec"]["rayClusterConfig"].get("gcsFaultToleranceOptions")
        if options is None:
            continue
        host, _, port = options.get("redisAddress", "").partition(":")
        ports = {
            str(port["port"])
            for service in of_kind(objects, "Service")
            if service["metadata"]["name"] == host
            for port in service["spec"]["ports"]
        }
        if port not in ports:
            yield f"{title(one)}: redisAddress: no Service is at {host}:{port}"


def _parent(one: Object, path: str) -> Object:
    above = path.rpartition(".")[0]
    found = next(value for place, value in walk(one) if place == above)
    assert isinstance(found, dict)
    return found
