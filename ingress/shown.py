"""Which models there are for whom: others do not exist for a key that is for some only."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.requests import Request

from deployments.config import ModelConfig
from deployments.errors import PermissionDenied
from deployments.keys import KeyConfig
from ingress.auth import key_of
from ingress.catalog import Catalog
from ingress.keys import may_use
from ingress.running import Models


class Shown:
    """all: every model that is configured."""

    def __init__(self, models: Iterable[ModelConfig], keys: Iterable[KeyConfig]) -> None:
        models = tuple(models)
        self.all = Catalog(models)
        self._of = {key.name: Catalog(models, may_use(key)) for key in keys if key.models}

    def to(self, request: Request) -> Catalog:
        """The models that there are for the request's key."""
        key = key_of(request)
        return self.all if key is None else self._of.get(key.name, self.all)

    def names(self, request: Request) -> Models:
        """Their public names; None for a key for all, which sees what is not configured any more too."""
        shown = self.to(request)
        return None if shown is self.all else {entry.name for entry in shown}

    def check(self, request: Request, model: str | None = None) -> None:
        """model: what is asked about; None is all that there are. Raises: PermissionDenied, ModelNotFound."""
        shown = self.to(request)
        if shown is self.all:
            return
        if model is not None:
            shown.find(model)
        else:
            raise PermissionDenied("This key is for some of the models only, and this is about all of them.")
