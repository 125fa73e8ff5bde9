"""Where vLLM runs, and what it is given there that nobody has said otherwise. Imports no vLLM."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from deployments import memory
from deployments.engines.vllm.args import canonical

CPU_CACHE_SHARE = 1 / 8
CPU_CACHE_MB = 4096.0
"""The KV cache on a CPU: a share of the machine's memory, and no more than this. vLLM by itself takes nearly all."""

GPU_ADAPTER_RANK = 64
"""`max_lora_rank` on a GPU: few adapters are larger. On a CPU each token pays for it, and vLLM's own 16 stays."""

_CACHE_ARGS = ("gpu_memory_utilization", "device_memory_utilization", "kv_cache_memory_bytes")
_COMPILE_ARGS = ("enforce_eager", "compilation_config", "optimization_level")


def on_cpu(device: str | None) -> bool:
    """device: as the placement says it.

    Raises: ValueError, if it wants a GPU where this process has none, or a vLLM that knows none.
    """
    if device == "cpu":
        return True
    if not _built_for_gpu():
        lacks = "the vLLM that is installed here is built for CPUs"
    elif not _gpus():
        lacks = "this process sees no GPU"
    else:
        return False
    if device == "gpu":
        raise ValueError(f"The placement wants a GPU, but {lacks}.")
    return True


def set_environment(cpu: bool) -> None:
    """For this process and the engine's. What the user has set is left alone."""
    ours = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a replica has threads: a fork of it may hang
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",  # the ingress has looked at where a picture is, not at where it sends to
    }
    if cpu:
        ours["TORCH_COMPILE_DISABLE"] = "1"  # else the first request for logprobs compiles C++ for 20 s
    for name, value in ours.items():
        os.environ.setdefault(name, value)


def cpu_defaults(args: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for a machine without a GPU: a quick start, and a KV cache that leaves room for other models, with the
    longest context that fits into it. VLLM_CPU_KVCACHE_SPACE (GiB) in the environment is another way to set it."""
    said = {canonical(name) for name in args}
    defaults: dict[str, Any] = {}
    if not said.intersection(_COMPILE_ARGS):
        defaults["enforce_eager"] = True
    if not said.intersection(_CACHE_ARGS) and not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
        cache_mb = min(CPU_CACHE_MB, CPU_CACHE_SHARE * memory.machine().total_mb)
        defaults["kv_cache_memory_bytes"] = int(cache_mb) * memory.MB
    if "max_model_len" not in said:
        defaults["max_model_len"] = -1
    return defaults


def adapter_args(count: int, *, cpu: bool) -> dict[str, Any]:
    """Arguments for as many LoRA adapters at the same time."""
    if not count:
        return {}
    if not cpu:
        return {"enable_lora": True, "max_loras": count, "max_cpu_loras": count, "max_lora_rank": GPU_ADAPTER_RANK}
    # vLLM's adapters for CPUs compute tokens of the base model with the last place: it stays empty.
    return {"enable_lora": True, "max_loras": count + 1, "max_cpu_loras": count + 1}


def _built_for_gpu() -> bool:
    try:
        return "cpu" not in metadata.version("vllm")
    except metadata.PackageNotFoundError:  # `vllm-cpu` is a package of another name
        return False


def _gpus() -> int:
    """That this process may use: Ray empties CUDA_VISIBLE_DEVICES of an actor without GPUs."""
    import pynvml

    from deployments.devices import cuda

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not visible.strip():
        return 0
    try:
        return cuda.count()
    except pynvml.NVMLError:
        return 0
