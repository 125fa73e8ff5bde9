"""Where the keeper of an application is: it lies on the board's store, for every process of the cluster."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from deployments.residency.board import Store, ray_store
from deployments.server import SECRET_HEADER


@dataclass(frozen=True)
class Address:
    """As `ingress.responses.Replica`: who may be asked, and with which headers."""

    url: str
    secret: str

    @property
    def headers(self) -> dict[str, str]:
        return {SECRET_HEADER.decode(): self.secret}


class AddressBook:
    """Its calls block, for about a millisecond."""

    def __init__(self, application: str, store: Store | None = None) -> None:
        self._key = f"{application}/keeper"
        self._store = store or ray_store()

    def write(self, address: Address) -> None:
        self._store.put(self._key, json.dumps(asdict(address)).encode())

    def read(self) -> Address | None:
        """None: no keeper has begun yet. One that is gone may still be in the book."""
        value = self._store.get(self._key)
        return None if value is None else Address(**json.loads(value))
