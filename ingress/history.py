"""How models and memory were in the last day: the body of `/api/history` comes from the keeper as it is."""

from __future__ import annotations

from starlette.responses import Response

from deployments.errors import InvalidRequest
from deployments.history.part import PATH
from deployments.history.past import DAY_S
from deployments.keeper.client import KeeperClient
from deployments.usage import ranges
from ingress.running import Models


class History:
    def __init__(self, keeper: KeeperClient) -> None:
        self._keeper = keeper

    async def told(self, range_: str, models: Models = None) -> Response:
        """models: whose past is told, with that of the nodes. Raises: InvalidRequest, KeeperGone."""
        if ranges.seconds_of(range_) > DAY_S:
            raise InvalidRequest("'range' is at most 24h here.", param="range")
        asked = {"range": range_, "models": None if models is None else sorted(models)}
        return Response(await self._keeper.fetch(PATH, asked), media_type="application/json")
