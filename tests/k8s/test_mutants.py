"""Each mistake that somebody may make in a manifest is found, and called by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.k8s import checks
from tests.k8s.objects import Object, the

Objects = list[Object]
Mutant = Callable[[Objects], Any]


def spec(objects: Objects) -> Any:
    return the(objects, "RayService")["spec"]


def cluster(objects: Objects) -> Any:
    return spec(objects)["rayClusterConfig"]


def head(objects: Objects) -> Any:
    return cluster(objects)["headGroupSpec"]["template"]["spec"]


def group(objects: Objects, at: int = 0) -> Any:
    return cluster(objects)["workerGroupSpecs"][at]


def worker(objects: Objects, at: int = 0) -> Any:
    return group(objects, at)["template"]["spec"]


def container(objects: Objects) -> Any:
    return worker(objects)["containers"][0]


def redis(objects: Objects) -> Any:
    return the(objects, "StatefulSet", "llm-manager-redis")["spec"]


def policy(objects: Objects, name: str) -> Any:
    return the(objects, "NetworkPolicy", f"llm-manager-{name}")["spec"]


def budget(objects: Objects) -> Any:
    return the(objects, "PodDisruptionBudget", "llm-manager-ingress")["spec"]


def configured(change: Callable[[Any, Any], Any]) -> Mutant:
    """change: of serveConfigV2, which it is given whole, and its application."""

    def mutant(objects: Objects) -> None:
        data = yaml.safe_load(spec(objects)["serveConfigV2"])
        change(data, data["applications"][0])
        spec(objects)["serveConfigV2"] = yaml.safe_dump(data)

    return mutant


def drop(objects: Objects, kind: str, name: str) -> None:
    objects.remove(the(objects, kind, name))


MUTANTS: list[tuple[str, str, Mutant]] = [
    # Schemas.
    ("typo in a field of the RayService", "'serveConfigv2' was unexpected", lambda o: spec(o).update(serveConfigv2="")),
    ("typo in a field of a pod", "'terminationGracePeriod' was", lambda o: worker(o).update(terminationGracePeriod=1)),
    ("typo in a field of Kubernetes", "'replica' was", lambda o: redis(o).update(replica=1)),
    ("typo in a field of a policy", "'podselector' was", lambda o: policy(o, "in").update(podselector={})),
    ("number as text", "is not of type 'integer'", lambda o: group(o).update(maxReplicas="4")),
    ("start parameter that is no text", "is not of type 'string'", lambda o: group(o).update(rayStartParams={"a": 1})),
    ("bad quantity of Ray", "8Gb", lambda o: container(o)["resources"]["limits"].update(memory="8Gb")),
    (
        "bad quantity of Redis",
        "'256MiB' is no quantity",
        lambda o: redis(o)["template"]["spec"]["containers"][0]["resources"]["requests"].update(memory="256MiB"),
    ),
    ("bad quantity of a claim", "'lots' is no quantity", lambda o: _claim(o)["requests"].update(storage="lots")),
    ("version of the autoscaler", "'v3' is not one of", lambda o: cluster(o)["autoscalerOptions"].update(version="v3")),
    ("mode of the tokens", "'tokens' is not one of", lambda o: cluster(o)["authOptions"].update(mode="tokens")),
    ("group without a name", "'groupName' is a required", lambda o: group(o).pop("groupName")),
    ("variable twice", "('RAY_num_workers_soft_limit',) is there twice", lambda o: _again(container(o)["env"], 1)),
    ("port twice", "(8000, 'TCP') is there twice", lambda o: _again(container(o)["ports"], 0)),
    ("kind that there is not", "there is no such kind", lambda o: o[0].update(kind="Namespaces")),
    ("typo in a monitor", "'sourceLabel' was", lambda o: _relabeling(o).update(sourceLabel=["a"])),
    ("alert without a severity", "'severity' is a required", lambda o: _alert(o)["labels"].clear()),
    # References.
    ("object twice", "PodMonitor llm-manager: is there twice", lambda o: o.append(the(o, "PodMonitor"))),
    (
        "missing secret of Redis",
        "there is no Secret redis",
        lambda o: cluster(o)["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]["secretKeyRef"].update(
            name="redis"
        ),
    ),
    (
        "missing key of a secret",
        "there is no Secret llm-manager-redis with pass",
        lambda o: redis(o)["template"]["spec"]["containers"][0]["env"][0]["valueFrom"]["secretKeyRef"].update(
            key="pass"
        ),
    ),
    (
        "missing secret of the keys",
        "there is no Secret keys",
        lambda o: container(o)["envFrom"][0]["secretRef"].update(name="keys"),
    ),
    (
        "missing claim",
        "there is no PersistentVolumeClaim llm-manager-cache",
        lambda o: drop(o, "PersistentVolumeClaim", "llm-manager-cache"),
    ),
    ("missing volume", "there is no volume cache", lambda o: worker(o)["volumes"].clear()),
    ("volume that nobody mounts", "nobody mounts the volume cache", lambda o: container(o)["volumeMounts"].clear()),
    (
        "wrong selector of a budget",
        "selects no pod",
        lambda o: budget(o)["selector"]["matchLabels"].update({"llm-manager/group": "ingress"}),
    ),
    (
        "wrong selector of a policy",
        "selects no pod",
        lambda o: policy(o, "head-out")["podSelector"]["matchLabels"].update({"app.kubernetes.io/component": "heads"}),
    ),
    (
        "wrong selector of a monitor",
        "selects no pod",
        lambda o: the(o, "PodMonitor")["spec"]["selector"].update(matchLabels={"app": "ray"}),
    ),
    (
        "wrong selector of a service",
        "selects no pod",
        lambda o: the(o, "Service", "llm-manager-redis")["spec"]["selector"].update(app="redis"),
    ),
    ("other labels of a pod", "selects no pod", lambda o: group(o)["template"]["metadata"]["labels"].clear()),
    ("port of a monitor", "has no port stats", lambda o: _endpoint(o).update(port="stats")),
    (
        "port of a policy",
        "no pod has port 9000",
        lambda o: policy(o, "in")["ingress"][0]["ports"][0].update(port=9000),
    ),
    (
        "port of a service",
        "its pods have no port sql",
        lambda o: the(o, "Service", "llm-manager-redis")["spec"]["ports"][0].update(targetPort="sql"),
    ),
    (
        "port of a probe",
        "livenessProbe: there is no port sql",
        lambda o: redis(o)["template"]["spec"]["containers"][0]["livenessProbe"]["tcpSocket"].update(port="sql"),
    ),
    (
        "address of Redis",
        "no Service is at redis:6379",
        lambda o: cluster(o)["gcsFaultToleranceOptions"].update(redisAddress="redis:6379"),
    ),
    # KubeRay's own.
    ("min above max", "minReplicas <= replicas <= maxReplicas", lambda o: group(o).update(minReplicas=9)),
    ("max below the replicas", "minReplicas <= replicas <= maxReplicas", lambda o: group(o).update(maxReplicas=1)),
    ("unknown strategy", "'BlueGreen' is none of", lambda o: spec(o)["upgradeStrategy"].update(type="BlueGreen")),
    (
        "incremental upgrade without options",
        "0 <= stepSizePercent <= maxSurgePercent <= 100",
        lambda o: spec(o)["upgradeStrategy"].update(type="NewClusterWithIncrementalUpgrade"),
    ),
    ("two groups of one name", "cpu: is the name of two groups", lambda o: group(o, 1).update(groupName="cpu")),
    (
        "resources in two places",
        "both in rayStartParams and in resources",
        lambda o: group(o).update(rayStartParams={"num-cpus": "1"}, resources={"CPU": "1"}),
    ),
    ("long name", "or too long", lambda o: the(o, "RayService")["metadata"].update(name="m" * 48)),
    (
        "name with a dot",
        "is no name of a service",
        lambda o: the(o, "RayService")["metadata"].update(name="llm.manager"),
    ),
    (
        "password of Redis in the environment",
        "REDIS_PASSWORD is KubeRay's to set",
        lambda o: head(o)["containers"][0]["env"].append({"name": "REDIS_PASSWORD", "value": "x"}),
    ),
    ("policy of restarts", "must be Never", lambda o: worker(o).update(restartPolicy="Always")),
    ("autoscaler without scaling", "nothing scales", lambda o: cluster(o).update(enableInTreeAutoscaling=False)),
    ("Ray without tokens", "2.44.0 knows no tokens", lambda o: cluster(o).update(rayVersion="2.44.0")),
    ("negative delay", "less than the minimum of 0", lambda o: spec(o).update(rayClusterDeletionDelaySeconds=-1)),
    # What Serve deploys.
    ("key that Serve passes over", "http_option: is not known", configured(lambda d, _: d.update(http_option={}))),
    ("key of an application", "routes: is not known", configured(lambda _, a: a.update(routes="/"))),
    ("wrong type for Serve", "http_options.port", configured(lambda d, _: d["http_options"].update(port="http"))),
    (
        "unknown setting of the policy",
        "policy_kwargs: ",
        configured(lambda _, a: a["autoscaling_policy"]["policy_kwargs"].update(max_models=1)),
    ),
    ("unknown setting of ours", "args: max_body: ", configured(lambda _, a: a["args"].update(max_body=1))),
    (
        "mistake in a model",
        "models[0].max_replicas",
        configured(lambda _, a: a["args"]["models"][0].update(max_replicas=0)),
    ),
    ("address of this machine only", "no other pod gets there", configured(lambda d, _: _host(d, "127.0.0.1"))),
    ("other port", "Serve listens on 9000", configured(lambda d, _: d["http_options"].update(port=9000))),
    (
        "longer answers than pods stay",
        "leave-cluster: an answer may take longer than 670 s",
        configured(lambda _, a: a["args"].update(request_timeout_s=3600)),
    ),
    (
        "one replica of the ingress",
        "all may be in one pod",
        configured(lambda _, a: a["args"].update(ingress_replicas=1)),
    ),
    (
        "server without keys",
        "everybody may ask",
        configured(lambda _, a: a["args"].update(allow_without_keys=True)),
    ),
    (
        "key that no secret has",
        "keys: bob: the secret llm-manager-keys has no BOB",
        configured(lambda _, a: a["args"].update(keys=[{"name": "bob", "key_env": "BOB"}])),
    ),
    ("pod that does not know the keys", "does not know the keys", lambda o: container(o).pop("envFrom")),
    # This project's own.
    (
        "patience of the pod",
        "is over before leave-cluster is",
        lambda o: worker(o).update(terminationGracePeriodSeconds=30),
    ),
    ("pod as root", "runs as root", lambda o: worker(o)["securityContext"].update(runAsUser=0)),
    ("no seccomp profile", "no seccomp profile", lambda o: head(o)["securityContext"].pop("seccompProfile")),
    (
        "privileges",
        "may gain privileges",
        lambda o: container(o)["securityContext"].update(allowPrivilegeEscalation=True),
    ),
    ("capabilities", "keeps capabilities", lambda o: container(o)["securityContext"].pop("capabilities")),
    ("no bound of memory", "is not bound", lambda o: container(o)["resources"]["limits"].pop("memory")),
    ("folder of the node", "of a kind that is not allowed", lambda o: _host_path(o)),
    (
        "Serve's own pace",
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S is not '0.5' in its environment",
        lambda o: container(o)["env"].remove({"name": "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S", "value": "0.5"}),
    ),
    ("Serve's own proxy", "HAProxy is not in front", lambda o: container(o)["env"][0].update(value="0")),
    ("image that is not ours", "runs other:1", lambda o: container(o).update(image="other:1")),
    ("other Ray than the image's", "rayVersion: the image has", lambda o: cluster(o).update(rayVersion="2.61.0")),
    (
        "models on the head",
        "models may run on the head",
        lambda o: cluster(o)["headGroupSpec"]["rayStartParams"].clear(),
    ),
    ("GPUs that nobody uses", "GPUs are kept", lambda o: group(o, 1).update(minReplicas=1, replicas=1)),
    ("no GPUs at all", "no group has pods with 1 GPUs", lambda o: cluster(o)["workerGroupSpecs"].pop()),
    ("fewer pods than ingress replicas", "there are fewer pods", lambda o: group(o).update(minReplicas=1)),
    ("head without Redis", "all is lost with the head", lambda o: cluster(o).pop("gcsFaultToleranceOptions")),
    ("dashboard for everybody", "more than port 8000 is open", lambda o: _open(o, {"ports": [{"port": 8265}]})),
    (
        "dashboard for monitoring",
        "others may command the cluster",
        lambda o: _open(o, {"from": [{"namespaceSelector": {}}], "ports": [{"port": 8265}]}),
    ),
    ("no policy for Redis", "Ingress is open", lambda o: drop(o, "NetworkPolicy", "llm-manager-redis")),
]


@pytest.mark.parametrize(
    ("says", "mutant"), [(says, mutant) for _, says, mutant in MUTANTS], ids=[name for name, *_ in MUTANTS]
)
def test_mistake_is_found(cuda: Objects, says: str, mutant: Mutant) -> None:
    mutant(cuda)
    found = checks.mistakes(cuda)
    assert [text for text in found if says in text], found


def _claim(objects: Objects) -> Any:
    return the(objects, "PersistentVolumeClaim", "llm-manager-data")["spec"]["resources"]


def _endpoint(objects: Objects) -> Any:
    return the(objects, "PodMonitor")["spec"]["podMetricsEndpoints"][0]


def _relabeling(objects: Objects) -> Any:
    return _endpoint(objects)["metricRelabelings"][0]


def _alert(objects: Objects) -> Any:
    return the(objects, "PrometheusRule")["spec"]["groups"][0]["rules"][0]


def _again(members: list[Any], at: int) -> None:
    members.append(members[at])


def _host(data: Any, host: str) -> None:
    data["http_options"]["host"] = host


def _host_path(objects: Objects) -> None:
    worker(objects)["volumes"][0] = {"name": "cache", "hostPath": {"path": "/"}}


def _open(objects: Objects, rule: Object) -> None:
    policy(objects, "in")["ingress"].append(rule)
