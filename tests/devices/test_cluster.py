from __future__ import annotations

from deployments.devices import cluster
from deployments.devices.cluster import Node
from deployments.devices.reading import Cpu, Failed, Gpu, Machine, Metal
from deployments.memory import Memory

SMALL = Cpu(2, Memory(1000.4, 400.2), load=1.0, utilization=50.0)
LARGE = Cpu(6, Memory(3000, 3000), load=0.5, utilization=10.0)
GPU = Gpu("RTX 4090", Memory(24576, 16384), utilization=42.0, temperature=61.0, power=123.4)
LOST = Failed("GPU is lost")


def node(name: str, machine: Machine | Failed, *, head: bool = False) -> Node:
    return Node(f"id-{name}", "10.0.0.1", name, head, machine)


def test_processors_of_all_nodes_are_summed_and_their_use_is_weighted() -> None:
    assert cluster.devices([node("a", Machine(SMALL)), node("b", Machine(LARGE))]) == {
        "cpu": {
            "online": True,
            "info": {
                "cpu_count": 8,
                "memory_total": 4000,
                "memory_used": 600,
                "memory_free": 3400,
                "load_average": 1.5,
                "utilization": 20.0,
            },
        }
    }


def test_gpus_of_all_nodes_are_summed_and_a_lost_one_is_told() -> None:
    nodes = [node("a", Machine(SMALL, (GPU, LOST))), node("b", Machine(LARGE, (Gpu("H100", Memory(80000, 80000)),)))]
    cuda = cluster.devices(nodes)["cuda"]
    assert cuda["info"] == {
        "device_count": 2,
        "device_name": "RTX 4090, H100",
        "memory_total": 104576,
        "memory_used": 8192,
        "memory_free": 96384,
    }
    assert (cuda["online"], cuda["error"]) == (True, "a GPU 1: GPU is lost")


def test_device_is_offline_if_none_of_its_kind_answers() -> None:
    nodes = [node("a", Machine(Failed("OSError: no bus"), LOST, Failed("mlx finds no Metal.")))]
    assert cluster.devices(nodes) == {
        "cpu": {"online": False, "error": "a: OSError: no bus"},
        "cuda": {"online": False, "error": "a: GPU is lost"},
        "mlx": {"online": False, "error": "a: mlx finds no Metal."},
    }


def test_macs_are_summed() -> None:
    macs = [Machine(SMALL, mlx=Metal("M2 Max", Memory(24000, 18000), used)) for used in (30, None)]
    assert cluster.devices([node("a", macs[0]), node("b", macs[1])])["mlx"]["info"] == {
        "device_count": 2,
        "device_name": "M2 Max",
        "memory_total": 48000,
        "memory_used": 12000,
        "memory_free": 36000,
        "utilization": 30,
    }


def test_node_that_is_away_counts_as_nothing() -> None:
    alone = [node("a", Machine(SMALL))]
    assert cluster.devices([*alone, node("b", Failed("No answer within 3 s."))]) == cluster.devices(alone)


def test_node_shows_each_of_its_gpus() -> None:
    shown = cluster.node(node("a", Machine(SMALL, (GPU, LOST)), head=True))
    assert {key: shown[key] for key in shown if key != "devices"} == {
        "node_id": "id-a",
        "address": "10.0.0.1",
        "host_name": "a",
        "head": True,
        "online": True,
    }
    assert shown["devices"]["cpu"]["info"]["cpu_count"] == 2
    cuda = shown["devices"]["cuda"]
    assert cuda["error"] == "GPU 1: GPU is lost"
    assert cuda["info"]["devices"] == [
        {
            "index": 0,
            "online": True,
            "name": "RTX 4090",
            "memory_total": 24576,
            "memory_used": 8192,
            "memory_free": 16384,
            "temperature": 61.0,
            "utilization": 42.0,
            "power": 123.4,
        },
        {"index": 1, "online": False, "error": "GPU is lost"},
    ]


def test_node_whose_gpus_are_all_lost_still_lists_them_by_their_errors() -> None:
    cuda = cluster.node(node("a", Machine(SMALL, (LOST, LOST))))["devices"]["cuda"]
    assert cuda == {"online": False, "error": "GPU 0: GPU is lost; GPU 1: GPU is lost"}


def test_node_that_is_away_says_why() -> None:
    shown = cluster.node(node("b", Failed("No answer within 3 s.")))
    assert (shown["online"], shown["error"], shown["devices"]) == (False, "No answer within 3 s.", {})
