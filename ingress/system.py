"""Bodies of the routes that tell how the server is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.responses import JSONResponse, Response

from deployments.errors import ModelLoadFailed
from ingress.catalog import Catalog
from ingress.leases import RETRY_AFTER_S
from ingress.states import Reading, State


def health(catalog: Catalog, reading: Reading | None, issues: list[str]) -> dict[str, Any]:
    """reading: None if it failed; then `issues` says why."""
    reading = reading or Reading({})
    running: dict[str, int] = {}
    issues = [*issues]
    for model in catalog:
        now = reading.of_entry(model)
        engine = model.engine_at(now.deployment)
        running[engine] = running.get(engine, 0) + (now.state is State.RUNNING)
        if now.state is State.FAILED:
            issues.append(f"{model.name}: {now.failure_reason}")
        elif now.refused:
            issues.append(f"{model.name}: {now.reason}")
    return {
        "status": "degraded" if issues else "healthy",
        "timestamp": int(time.time()),
        "manager_initialized": True,
        "engines": {name: {"status": "healthy", "loaded_models": n} for name, n in running.items()},
        "models": sum(running.values()),
        "models_count": len(catalog),
        "running_models": sum(running.values()),
        "issues": issues,
    }


def health_for_strangers(health: dict[str, Any]) -> dict[str, Any]:
    """How the server is, for whoever asks: no model's name, and nothing of what went wrong."""
    n = len(health["issues"])
    return {**health, "issues": [f"{n} of them, told to those who may see the models."] if n else []}


def status(catalog: Catalog, reading: Reading) -> dict[str, Any]:
    engines: dict[str, float] = {}
    models = []
    for model in catalog:
        now = reading.of_entry(model)
        engine = model.engine_at(now.deployment)
        engines[engine] = engines.get(engine, 0.0) + now.memory_mb
        models.append(
            {
                "name": model.name,
                "engine_type": engine,
                # The word of this route for `running`.
                "status": "loaded" if now.state is State.RUNNING else now.state,
                "loaded_at": None
                if now.loaded_at is None
                else datetime.fromtimestamp(now.loaded_at, UTC).isoformat(timespec="seconds"),
                "memory_usage": _gb(now.memory_mb),
                "context_length": now.context_length,
            }
        )
    return {
        "initialized": True,
        "total_engines": len(engines),
        "registered_models": len(catalog),
        "loaded_models": sum(model["status"] == "loaded" for model in models),
        "max_concurrent_models": reading.cap,
        "models": models,
        "engines": {name: {"status": "healthy", "memory_usage": _gb(mb)} for name, mb in engines.items()},
    }


def restarted(problems: Mapping[str, str]) -> Response:
    """The answer of `restart-autostart`. problems: of each model, empty if it is up again."""
    started = [name for name, problem in problems.items() if not problem]
    failed = {name: problem for name, problem in problems.items() if problem}
    body: dict[str, Any] = {"success": not failed, "started_models": started, "failed_models": failed}
    if not failed:
        return JSONResponse({**body, "message": f"{len(started)} auto_start models were restarted."})
    error = ModelLoadFailed(
        f"{len(failed)} of {len(problems)} auto_start models could not be started.", retry_after_s=RETRY_AFTER_S
    )
    return JSONResponse({**body, "message": error.message, **error.body()}, error.status, error.headers())


def _gb(mb: float) -> str:
    return f"{mb / 1024:.1f}GB"
