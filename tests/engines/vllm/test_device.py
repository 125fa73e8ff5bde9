from __future__ import annotations

import os

import pytest

from deployments import memory
from deployments.engines.vllm import device


@pytest.fixture(autouse=True)
def no_cache_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)


def test_small_machine_is_given_a_quick_start_and_a_bounded_cache() -> None:
    given = device.cpu_defaults({})
    assert given["enforce_eager"] is True
    assert given["max_model_len"] == -1
    assert 0 < given["kv_cache_memory_bytes"] <= device.CPU_CACHE_MB * memory.MB


@pytest.mark.parametrize(
    ("said", "absent"),
    [
        ({"max-model-len": 4096}, "max_model_len"),
        ({"kv-cache-memory-bytes": "2G"}, "kv_cache_memory_bytes"),
        ({"gpu_memory_utilization": 0.3}, "kv_cache_memory_bytes"),
        ({"compilation_config.mode": 3}, "enforce_eager"),
        ({"enforce_eager": False}, "enforce_eager"),
    ],
)
def test_what_the_user_says_is_left_alone(said: dict[str, object], absent: str) -> None:
    assert absent not in device.cpu_defaults(said)


def test_cache_space_in_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
    assert "kv_cache_memory_bytes" not in device.cpu_defaults({})


def test_environment_keeps_what_the_user_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "0")
    monkeypatch.setenv("VLLM_NO_USAGE_STATS", "")
    monkeypatch.delenv("VLLM_NO_USAGE_STATS")
    device.set_environment(cpu=True)
    assert os.environ["TORCH_COMPILE_DISABLE"] == "0"
    assert os.environ["VLLM_NO_USAGE_STATS"] == "1"


def test_pictures_are_not_fetched_from_where_another_server_sends_to(monkeypatch: pytest.MonkeyPatch) -> None:
    envs = pytest.importorskip("vllm.envs")
    monkeypatch.setenv("VLLM_MEDIA_URL_ALLOW_REDIRECTS", "")
    monkeypatch.delenv("VLLM_MEDIA_URL_ALLOW_REDIRECTS")
    assert envs.VLLM_MEDIA_URL_ALLOW_REDIRECTS
    device.set_environment(cpu=True)
    assert not envs.VLLM_MEDIA_URL_ALLOW_REDIRECTS


def test_process_without_gpus_uses_the_cpu_unless_its_placement_wants_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as Ray has it
    assert device.on_cpu(None)
    assert device.on_cpu("cpu")
    with pytest.raises(ValueError, match="wants a GPU, but"):
        device.on_cpu("gpu")


def test_adapters_of_a_cpu_leave_the_last_place_empty() -> None:
    assert device.adapter_args(0, cpu=True) == {}
    assert device.adapter_args(2, cpu=True)["max_loras"] == 3
    assert device.adapter_args(2, cpu=False)["max_loras"] == 2
