"""The operators' routes, `/api/…`, over what one ingress replica knows."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from ray import serve
from starlette.responses import JSONResponse, Response, StreamingResponse

from deployments import sse
from deployments.cache import wire
from deployments.keeper.client import KeeperClient
from deployments.residency.board import Kind
from deployments.usage.ranges import RANGE, GroupBy
from ingress import system
from ingress.activity import Activity
from ingress.catalog import Entry
from ingress.devices import Devices
from ingress.figures import Figures
from ingress.history import History
from ingress.logs import Logs
from ingress.management import Management
from ingress.shown import Shown
from ingress.states import States


@dataclass(frozen=True)
class Operators:
    """What the routes ask."""

    shown: Shown
    states: States
    management: Management
    activity: Activity
    history: History
    figures: Figures
    logs: Logs
    devices: Devices
    keeper: KeeperClient

    async def wish(self, models: Iterable[Entry], kind: Kind, message: str) -> Response:
        for model in models:
            await self.management.wish(model, kind)
        return JSONResponse({"success": True, "message": message}, 202)


async def _operators() -> Operators:
    operators: Operators = serve.get_replica_context().servable_object.operators
    return operators


Asked = Annotated[Operators, Depends(_operators)]
Range = Annotated[str, Query(pattern=RANGE)]
router = APIRouter()


@router.get("/api/models")
async def models(asked: Asked, request: Request) -> dict[str, Any]:
    found = await asked.management.models(asked.shown.to(request))
    return {"success": True, "message": f"{len(found)} models.", "models": found}


@router.get("/api/models/stream")
async def models_stream(asked: Asked, request: Request) -> Response:
    await asked.states.all()  # raises, if at all, before the answer begins
    changes = asked.management.changes(asked.shown.to(request))
    return StreamingResponse(changes, media_type="text/event-stream", headers=sse.HEADERS)


@router.post("/api/models/stop-all")
async def stop_all(asked: Asked, request: Request, wait: bool = True) -> Response:
    asked.shown.check(request)
    if not wait:
        return await asked.wish(asked.shown.all.hosts, "stop", "All models are being stopped.")
    stopped = await asked.management.stop_all()
    return JSONResponse({"success": True, "message": "All models are stopped.", "stopped_models": stopped})


@router.post("/api/models/restart-autostart")
async def restart_autostart(asked: Asked, request: Request, wait: bool = True) -> Response:
    asked.shown.check(request)
    if not wait:
        found = [model for model in asked.shown.all if model.auto_start]
        return await asked.wish(found, "restart", f"{len(found)} auto_start models are being restarted.")
    return system.restarted(await asked.management.restart_autostart())


@router.post("/api/models/{alias:path}/start")
async def start(asked: Asked, request: Request, alias: str, wait: bool = True) -> Response:
    model = asked.shown.to(request).find(alias)
    if not wait:
        return await asked.wish([model], "start", f"The model {alias!r} is being started.")
    await asked.management.start(model)
    return JSONResponse({"success": True, "message": f"The model {alias!r} is running."})


@router.post("/api/models/{alias:path}/stop")
async def stop(asked: Asked, request: Request, alias: str, wait: bool = True) -> Response:
    model = asked.shown.to(request).find(alias)
    if not wait:
        return await asked.wish([model], "stop", f"The model {alias!r} is being stopped.")
    await asked.management.stop(model)
    return JSONResponse({"success": True, "message": f"The model {alias!r} is stopped."})


@router.post("/api/models/{alias:path}/pin")
async def pin(asked: Asked, request: Request, alias: str) -> dict[str, Any]:
    await asked.management.pin(asked.shown.to(request).find(alias), pinned=True)
    return {"success": True, "message": f"The model {alias!r} stays, once it is up."}


@router.post("/api/models/{alias:path}/unpin")
async def unpin(asked: Asked, request: Request, alias: str) -> dict[str, Any]:
    await asked.management.pin(asked.shown.to(request).find(alias), pinned=False)
    return {"success": True, "message": f"The model {alias!r} may be unloaded."}


@router.get("/api/models/{alias:path}/logs/stream")
async def log(asked: Asked, request: Request, alias: str) -> Response:
    return await asked.logs.stream(asked.shown.to(request).find(alias))


@router.get("/api/logs/stats")
async def log_stats(asked: Asked, request: Request) -> dict[str, Any]:
    stats = await asked.logs.stats(asked.shown.to(request))
    message = f"{stats['total_log_entries']} lines of {stats['models_with_logs']} models."
    return {"success": True, "message": message, "stats": stats}


@router.post("/api/logs/{alias:path}/clear")
async def clear_log(
    asked: Asked,
    request: Request,
    alias: str,
    keep_minutes: Annotated[float, Query(ge=0, allow_inf_nan=False)] = 0,
) -> dict[str, Any]:
    deleted = await asked.logs.clear(asked.shown.to(request).find(alias), keep_minutes)
    message = f"{deleted} lines of the log of {alias!r} were deleted."
    return {"success": True, "message": message, "deleted": deleted}


@router.get("/api/models/{alias:path}")
async def model(asked: Asked, request: Request, alias: str) -> dict[str, Any]:
    asked.shown.to(request).find(alias)
    return {"success": True, "message": f"The model {alias!r}.", "model": await asked.management.model(alias)}


@router.get("/api/requests")
async def requests(
    asked: Asked, request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 100, model: str | None = None
) -> Response:
    names = asked.shown.names(request) if model is None else {asked.shown.to(request).find(model).name}
    found = await asked.activity.requests(limit, names)
    return JSONResponse({"success": True, "message": f"{len(found['running'])} requests run.", **found})


@router.post("/api/requests/{id:path}/cancel")
async def cancel(asked: Asked, request: Request, id: str) -> dict[str, Any]:
    await asked.activity.cancel(id, asked.shown.names(request))
    return {"success": True, "message": f"The request {id!r} was cancelled."}


@router.get("/api/history")
async def history(asked: Asked, request: Request, range: Range = "15m") -> Response:
    return await asked.history.told(range, asked.shown.names(request))


@router.get("/api/usage")
async def usage(
    asked: Asked,
    request: Request,
    range: Range = "24h",
    model: str | None = None,
    key: str | None = None,
    group_by: GroupBy = "model",
) -> dict[str, Any]:
    asked.shown.check(request, model)
    return await asked.figures.usage(range, model, key, group_by)


@router.get("/api/metrics/throughput")
async def throughput(
    asked: Asked, request: Request, range: Range = "1h", model: str | None = None, key: str | None = None
) -> dict[str, Any]:
    asked.shown.check(request, model)
    return await asked.figures.throughput(range, model, key)


@router.get("/api/devices/info")
async def devices(asked: Asked) -> dict[str, Any]:
    return await asked.devices.info()


@router.get("/api/cache/stats")
async def cache_stats(asked: Asked) -> dict[str, Any]:
    stats = await asked.keeper.ask(wire.STATS)
    return {"success": True, "message": f"{stats['entries']} answers are kept.", "stats": stats}


@router.post("/api/cache/clear")
async def clear_cache(asked: Asked, request: Request, model: str | None = None) -> dict[str, Any]:
    asked.shown.check(request, model)
    name = None if model is None else asked.shown.all.find(model).name
    cleared = await asked.keeper.ask(wire.CLEAR, name)
    return {"success": True, "message": f"{cleared} answers were forgotten.", "cleared": cleared}
