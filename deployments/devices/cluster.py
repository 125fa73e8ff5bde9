"""The devices of all nodes, each by itself and together, in the words of `/api/devices/info`. Memory in whole MB."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from deployments.devices.reading import Cpu, Failed, Gpu, Machine, Metal
from deployments.memory import Memory

Shown = dict[str, Any]


@dataclass(frozen=True)
class Node:
    """machine: Failed if it is dead, or did not answer."""

    node_id: str
    address: str
    host_name: str
    head: bool
    machine: Machine | Failed


def devices(nodes: Sequence[Node]) -> Shown:
    """Every kind of device that some node has."""
    return _kinds([(node.host_name, node.machine) for node in nodes if isinstance(node.machine, Machine)])


def node(one: Node) -> Shown:
    shown = {"node_id": one.node_id, "address": one.address, "host_name": one.host_name, "head": one.head}
    if isinstance(one.machine, Failed):
        return {**shown, "online": False, "error": one.machine.error, "devices": {}}
    return {**shown, "online": True, "devices": _kinds([("", one.machine)], each=True)}


def _kinds(machines: Sequence[tuple[str, Machine]], *, each: bool = False) -> Shown:
    """machines: each with what its errors begin with. each: whether GPUs are shown one by one too."""
    cpus = [(host, machine.cpu) for host, machine in machines]
    gpus = [gpu for host, machine in machines for gpu in _gpus(host, machine)]
    macs = [(host, machine.mlx) for host, machine in machines if machine.mlx is not None]
    shown = {}
    if gpus:
        shown["cuda"] = _together(gpus, lambda good: _cuda_info(good, gpus if each else None))
    if macs:
        shown["mlx"] = _together(macs, _mlx_info)
    return {**shown, "cpu": _together(cpus, _cpu_info)}


def _gpus(host: str, machine: Machine) -> list[tuple[str, Any]]:
    if isinstance(machine.cuda, Failed):
        return [(host, machine.cuda)]
    return [(f"{host} GPU {index}".strip(), gpu) for index, gpu in enumerate(machine.cuda or ())]


def _together(found: Sequence[tuple[str, Any]], info: Callable[[Any], Shown]) -> Shown:
    """Online if one of them is; `error` tells of those that are not."""
    good = [one for _, one in found if not isinstance(one, Failed)]
    errors = [f"{where}: {one.error}".removeprefix(": ") for where, one in found if isinstance(one, Failed)]
    shown: Shown = {"online": bool(good)}
    if good:
        shown["info"] = info(good)
    if errors:
        shown["error"] = "; ".join(errors)
    return shown


def _cpu_info(cpus: Sequence[Cpu]) -> Shown:
    count = sum(cpu.count for cpu in cpus)
    return {
        "cpu_count": count,
        **_memory(cpu.memory for cpu in cpus),
        "load_average": round(sum(cpu.load for cpu in cpus), 2),
        "utilization": round(sum(cpu.utilization * cpu.count for cpu in cpus) / count, 1),
    }


def _cuda_info(gpus: Sequence[Gpu], listed: Sequence[tuple[str, Gpu | Failed]] | None) -> Shown:
    shown = {
        "device_count": len(gpus),
        "device_name": ", ".join(dict.fromkeys(gpu.name for gpu in gpus)),
        **_memory(gpu.memory for gpu in gpus),
    }
    if listed is not None:
        shown["devices"] = [_gpu(index, gpu) for index, (_, gpu) in enumerate(listed)]
    return shown


def _gpu(index: int, gpu: Gpu | Failed) -> Shown:
    if isinstance(gpu, Failed):
        return {"index": index, "online": False, "error": gpu.error}
    return {
        "index": index,
        "online": True,
        "name": gpu.name,
        **_memory([gpu.memory]),
        "temperature": gpu.temperature,
        "utilization": gpu.utilization,
        "power": gpu.power,
    }


def _mlx_info(macs: Sequence[Metal]) -> Shown:
    told = [mac.utilization for mac in macs if mac.utilization is not None]
    return {
        "device_count": len(macs),
        "device_name": ", ".join(dict.fromkeys(mac.name for mac in macs)),
        **_memory(mac.memory for mac in macs),
        "utilization": round(sum(told) / len(told), 1) if told else None,
    }


def _memory(memories: Iterable[Memory]) -> Shown:
    """Free is what is left of the rounded others: the three add up."""
    found = list(memories)
    total = round(sum(one.total_mb for one in found))
    used = round(sum(one.total_mb - one.free_mb for one in found))
    return {"memory_total": total, "memory_used": used, "memory_free": total - used}
