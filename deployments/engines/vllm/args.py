"""What `engine_args` of a vllm model may say: `vllm serve`'s own arguments, less those that the server decides itself.

vLLM's parser judges them, in a process of its own: importing it takes five seconds and 560 MB, and changes the
environment that later processes would inherit.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

logger = logging.getLogger("ray.serve.llm_manager")

Mistake = tuple[str, str]

_CHECK_S = 120.0
_SERVER = "vLLM runs inside LLM-Manager's server, which decides it"
_ADAPTERS = "it follows from the model's adapters and max_adapters"
OURS = {
    "model": "it is the model's source",
    "model_tag": "it is the model's source",
    "served_model_name": "it is the model's name and aliases",
    "runner": "it follows from the model's mode",
    "enable_lora": _ADAPTERS,
    "lora_modules": _ADAPTERS,
    "max_loras": _ADAPTERS,
    "max_cpu_loras": _ADAPTERS,
    **dict.fromkeys(
        (
            "allow_credentials",
            "allowed_headers",
            "allowed_methods",
            "allowed_origins",
            "api_key",
            "api_server_count",
            "config",
            "data_parallel_external_lb",
            "data_parallel_hybrid_lb",
            "data_parallel_multi_port_external_lb",
            "data_parallel_supervisor_port",
            "disable_access_log_for_endpoints",
            "disable_uvicorn_access_log",
            "dp_supervisor_probe_failure_threshold",
            "dp_supervisor_probe_interval_s",
            "dp_supervisor_probe_timeout_s",
            "enable_ssl_refresh",
            "grpc",
            "grpc_port",
            "h11_max_header_count",
            "h11_max_incomplete_event_size",
            "headless",
            "help",
            "host",
            "middleware",
            "port",
            "root_path",
            "ssl_ca_certs",
            "ssl_certfile",
            "ssl_cert_reqs",
            "ssl_ciphers",
            "ssl_keyfile",
            "tokens_only",
            "uds",
            "uvicorn_log_level",
        ),
        _SERVER,
    ),
}
"""Arguments that nobody may set, and why."""


def check(args: Mapping[str, Any], mode: str) -> list[Mistake]:
    """Mistakes: the argument's name (empty if it is none's alone) and what is wrong. Where vLLM is not installed, only
    arguments of `OURS` are found. Takes about six seconds the first time that the same arguments are asked about."""
    mistakes = list(ours(args))
    rest = {name: value for name, value in args.items() if canonical(name) not in OURS}
    if rest and importlib.util.find_spec("vllm"):
        mistakes += _ask_vllm(json.dumps([rest, mode], sort_keys=True, default=str))
    return mistakes


def ours(args: Mapping[str, Any]) -> Iterator[Mistake]:
    for name in args:
        if reason := OURS.get(canonical(name)):
            yield name, f"is not set here: {reason}"


def canonical(name: str) -> str:
    """`tensor-parallel-size` and `compilation_config.mode` as the parser's results have them: `tensor_parallel_size`,
    `compilation_config`."""
    return name.partition(".")[0].replace("-", "_")


@functools.lru_cache
def _ask_vllm(question: str) -> tuple[Mistake, ...]:
    """A vLLM that cannot answer finds nothing: its models fail with the reason when they start."""
    command = [sys.executable, "-m", "deployments.engines.vllm.parser"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        done = subprocess.run(
            command, input=question, env=env, capture_output=True, text=True, timeout=_CHECK_S, check=True
        )
        return tuple((name, message) for name, message in json.loads(done.stdout.splitlines()[-1]))
    except (subprocess.SubprocessError, ValueError, IndexError) as error:
        logger.warning(f"vLLM could not check its arguments: {error}")
        return ()
