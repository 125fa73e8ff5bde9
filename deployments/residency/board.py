"""What the parts of an application tell each other: operators' wishes, replicas' reports, and the policy's table.

It lies in the key-value store of Ray's control service, which outlives every replica, the policy and Serve's
controller. Ray has no public API for it (`ray.experimental.internal_kv`, which Serve keeps its own state in); this
module is the one place that uses it. Its calls block, for about a millisecond.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Protocol

NAMESPACE = "llm-manager"

Kind = Literal["start", "stop", "restart", "pin", "unpin"]
PINS: frozenset[Kind] = frozenset({"pin", "unpin"})
"""Wishes that say how long a model stays, and do not start or end it."""

SUPERSEDED = "another wish came after it"
"""Begins the answer to a wish that was given up for another one."""


@dataclass(frozen=True)
class Wish:
    """What an operator wants of a model, until the policy has seen to it."""

    id: str
    model: str
    kind: Kind

    @property
    def made_at(self) -> float:
        """Seconds since 1970, by the clock of whoever took it down."""
        return int(self.id.partition("-")[0]) / 1e9


@dataclass(frozen=True)
class Report:
    """What a replica says of itself. model: as in the table; deployment: its own, which is another one where the model
    is not at its first placement. node, address: its node's id, and where that is. need_mb: memory that it will take,
    once that is known. members: models inside it, as their `deployments.shelf.Shown`."""

    model: str
    replica: str
    node: str
    phase: str = "starting"
    since: float = 0
    need_mb: float | None = None
    context_length: int | None = None
    failure: str | None = None
    deployment: str = ""
    members: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    address: str = ""


@dataclass
class Row:
    """All that the policy knows of a model and has decided: its memory too, if the controller is restarted.

    Times are the controller's clock. waiting: whether somebody wants it and it cannot answer yet. granted: whether the
    memory that it needs is reserved. started_why, ended_why: the reasons of its last start and end. kind: names what
    its sizes are of; another source is another model. peak_mb: the most that a replica was seen to take. load_s: what
    its last start took. wish_at: since when the policy knows of `wish`. answers: what became of the last wishes; empty
    is success. enough: replicas that were enough since `enough_since`, where that is fewer than it has. deployment:
    that of the placement which was chosen for it, the one to ask. placements: why those are not there that are not, by
    deployment; the chosen one too, as long as no node can hold it. pinned: what an operator said; None is as it is
    configured. lost: starts in a row whose process ended and did not say why.
    """

    replicas: int = 0
    running: int = 0
    reason: str = ""
    waiting: bool = False
    refused: bool = False
    queued: float = 0
    unfinished: float = 0
    waiting_since: float | None = None
    paused_since: float | None = None
    started_at: float | None = None
    started_why: str = ""
    ended_at: float | None = None
    ended_why: str = ""
    up_since: float | None = None
    last_used: float = 0
    was_up: bool = False
    saw_process: bool = False
    idle_limit_s: float | None = None
    keep_alive_s: float | None = None
    keep_alive_at: float = 0
    reserved_mb: float = 0
    measured_mb: float = 0
    kind: str = ""
    peak_mb: float | None = None
    load_s: float | None = None
    granted: bool = False
    auto_done: bool = False
    held: bool = False
    failure: str | None = None
    failed_replica: str | None = None
    wish: str | None = None
    wish_at: float = 0
    answers: dict[str, str] = field(default_factory=dict)
    enough: int = 0
    enough_since: float | None = None
    deployment: str = ""
    placements: dict[str, str] = field(default_factory=dict)
    pinned: bool | None = None
    lost: int = 0


@dataclass(frozen=True)
class Table:
    """life: what Serve's controller the policy belongs to. cap: places for models that are up. rows: by the name of the
    deployment of the model's first placement."""

    life: str = ""
    cap: int = 0
    rows: Mapping[str, Row] = field(default_factory=dict)

    def row(self, model: str) -> Row:
        return self.rows.get(model) or Row(deployment=model)


class Store(Protocol):
    """Bytes by key."""

    def put(self, key: str, value: bytes) -> None: ...
    def get(self, key: str) -> bytes | None: ...
    def keys(self, prefix: str) -> list[str]: ...
    def delete(self, key: str) -> None: ...


class Board:
    """The board of one application. Models go by the names of their first placement's deployments."""

    def __init__(self, application: str, store: Store | None = None) -> None:
        self._application = application
        self._store = store or ray_store()

    def wish(self, model: str, kind: Kind) -> Wish:
        wish = Wish(f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}", model, kind)
        self._store.put(self._key("wish", wish.id), _dump(asdict(wish)))
        return wish

    def wishes(self) -> tuple[Wish, ...]:
        """All that are not fulfilled, the oldest first."""
        return tuple(Wish(**_known(Wish, data)) for data in self._read("wish"))

    def fulfil(self, ids: Iterable[str]) -> None:
        for id_ in ids:
            self._store.delete(self._key("wish", id_))

    def report(self, report: Report) -> None:
        self._store.put(self._key("report", f"{report.model}/{report.replica}"), _dump(asdict(report)))

    def withdraw(self, report: Report) -> None:
        self._store.delete(self._key("report", f"{report.model}/{report.replica}"))

    def reports(self) -> tuple[Report, ...]:
        return tuple(Report(**_known(Report, data)) for data in self._read("report"))

    def publish(self, table: bytes) -> None:
        """table: as `encode` makes it."""
        self._store.put(self._key("table"), table)

    def table(self) -> Table | None:
        """None: no policy has published one yet."""
        value = self._store.get(self._key("table"))
        return None if value is None else decode(value)

    def _read(self, what: str) -> list[dict[str, Any]]:
        values = (self._store.get(key) for key in sorted(self._store.keys(self._key(what, ""))))
        return [json.loads(value) for value in values if value is not None]  # one may just have been deleted

    def _key(self, *parts: str) -> str:
        return "/".join((self._application, *parts))


_DEFAULTS = asdict(Row())


def encode(table: Table) -> bytes:
    """Rows hold what differs from a model that nothing is known of, at its first placement."""
    rows = {}
    for name, row in list(table.rows.items()):
        said = {key: value for key, value in vars(row).items() if value != _DEFAULTS[key]}
        if said.get("deployment") == name:
            del said["deployment"]
        if said:
            rows[name] = said
    return _dump({"life": table.life, "cap": table.cap, "rows": rows})


def decode(value: bytes) -> Table:
    data = json.loads(value)
    rows = {name: Row(**{"deployment": name, **_known(Row, row)}) for name, row in data["rows"].items()}
    return Table(data["life"], data["cap"], rows)


def _known(kind: type[Wish | Report | Row], data: Mapping[str, Any]) -> dict[str, Any]:
    """Without fields that this version does not know: another version may have written it."""
    names = {f.name for f in fields(kind)}
    return {key: value for key, value in data.items() if key in names}


def _dump(data: object) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()


def ray_store() -> Store:
    return _RayStore()


class _RayStore:
    """Ray is imported late: the pure parts of the project import this module too."""

    def put(self, key: str, value: bytes) -> None:
        from ray.experimental import internal_kv

        internal_kv._internal_kv_put(key, value, namespace=NAMESPACE)

    def get(self, key: str) -> bytes | None:
        from ray.experimental import internal_kv

        value: bytes | None = internal_kv._internal_kv_get(key, namespace=NAMESPACE)
        return value

    def keys(self, prefix: str) -> list[str]:
        from ray.experimental import internal_kv

        return [key.decode() for key in internal_kv._internal_kv_list(prefix, namespace=NAMESPACE)]

    def delete(self, key: str) -> None:
        from ray.experimental import internal_kv

        internal_kv._internal_kv_del(key, namespace=NAMESPACE)
