"""Route over a fake of Serve's handle: who waits, who shares, and what is given back."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import pickle
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.errors import ApiError, Capacity, EngineFailed, ModelLoadFailed, ModelLoading, ModelNotFound
from deployments.server import MEMBER_HEADER, SECRET_HEADER
from ingress import leases
from ingress.leases import RETRY_AFTER_S, Lease, Route, load_failed, still_loading
from ingress.states import Loading, ModelState, Reading, State, States

LONG = 30.0
HERE = "node-1"
request_var: contextvars.ContextVar[str] = contextvars.ContextVar("request_var", default="none")


class Slot:
    """What `choose_replica` returns: a replica's slot, reserved from enter to exit."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    async def __aenter__(self) -> SimpleNamespace:
        await self._handle.happens("choose")
        n = self._handle.counts["choose"]
        metadata = {"host": "10.0.0.7", "port": 8000 + n, "secret": f"secret-{n}"}
        return SimpleNamespace(replica_metadata=metadata, node_id=self._handle.node)

    async def __aexit__(self, *_: object) -> None:
        await self._handle.happens("give back")


class Handle:
    """Serve's handle of a deployment. Each step counts itself, waits for its gate and fails as it is told."""

    def __init__(self) -> None:
        self.node = HERE
        self.gate = asyncio.Event()
        self.gate.set()
        self.failures: list[BaseException] = []
        self.counts: Counter[str] = Counter()
        self.contexts: list[str] = []
        self.calls: list[tuple[str, dict[str, str]]] = []  # each with its options
        self._options: dict[str, str] = {}
        self._changed = asyncio.Condition()
        self._router: Handle | None = self  # open from the first use on, and there is no test before that

    def shutdown(self) -> asyncio.Future[None]:
        """Of its router."""
        return asyncio.ensure_future(self.happens("shutdown"))

    @property
    def wake(self) -> SimpleNamespace:
        return SimpleNamespace(remote=lambda: self.happens("wake"))

    @property
    def load(self) -> SimpleNamespace:
        return SimpleNamespace(remote=lambda member: self.happens(f"load {member}"))

    @property
    def unload(self) -> SimpleNamespace:
        return SimpleNamespace(remote=lambda member: self.happens(f"unload {member}"))

    @property
    def cancelled(self) -> int:
        return self.counts["cancelled"]

    def options(self, **options: str) -> Handle:
        """Another handle of the same deployment, as Serve's."""
        other = copy.copy(self)
        other._options = {**self._options, **options}
        return other

    def choose_replica(self) -> Slot:
        return Slot(self)

    async def happens(self, what: str) -> None:
        self.counts[what] += 1
        self.calls.append((what, self._options))
        self.contexts.append(request_var.get())
        async with self._changed:
            self._changed.notify_all()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.counts["cancelled"] += 1
            async with self._changed:
                self._changed.notify_all()
            raise
        if self.failures:
            raise self.failures.pop(0)

    async def reaches(self, what: str, count: int) -> None:
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: self.counts[what] >= count)


@pytest.fixture(autouse=True)
def constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases end only when a test ends them; nothing else waits long."""
    monkeypatch.setattr(leases, "LEASE_S", 3600.0)
    monkeypatch.setattr(leases, "LOOK_S", 0.01)
    monkeypatch.setattr(leases, "RETRY_S", 0.0)


def route(handle: Any, *, share: int = 100, state: ModelState | None = None, member: str | None = None) -> Route:
    states = States(lambda: Reading({} if state is None else {"org--m": state}))
    return Route(
        {"org--m": handle}, name="org/m", deployment_name="org--m", share=share, here=HERE, states=states, member=member
    )


class Looks(States):
    """Counts how often a waiting request looks at the states."""

    def __init__(self, outcome: ModelState | Exception) -> None:
        self.outcome = outcome
        self.count = 0
        self._changed = asyncio.Condition()

    async def of(self, deployment_name: str, max_age_s: float | None = None) -> ModelState:
        self.count += 1
        async with self._changed:
            self._changed.notify_all()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def expire(self) -> None:
        pass

    async def reaches(self, count: int) -> None:
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: self.count >= count)

    def route(self, handle: Any, elsewhere: Any = None, member: str | None = None) -> Route:
        handles = {"org--m": handle, "org--m~1": elsewhere}
        return Route(handles, name="org/m", deployment_name="org--m", share=100, here=HERE, states=self, member=member)


async def all_waiting(*tasks: asyncio.Task[Any]) -> None:
    """Lets the tasks run until each of them waits for something."""
    for _ in range(5):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)


async def acquire(r: Route, count: int = 1) -> list[Lease]:
    return await asyncio.gather(*(r.acquire(LONG) for _ in range(count)))


# Waiting together ----------------------------------------------------------------------------------------------------


async def test_many_waiters_share_one_opening() -> None:
    handle = Handle()
    handle.gate.clear()
    r = route(handle)
    waiters = [asyncio.create_task(r.acquire(LONG)) for _ in range(50)]
    await all_waiting(*waiters)
    handle.gate.set()
    lent = await asyncio.gather(*waiters)
    assert len(set(lent)) == 1
    assert lent[0].users == 50
    assert (handle.counts["wake"], handle.counts["choose"]) == (1, 1)


async def test_waiter_that_leaves_does_not_end_the_others_wait() -> None:
    handle = Handle()
    handle.gate.clear()
    r = route(handle)
    first, second, third = (asyncio.create_task(r.acquire(LONG)) for _ in range(3))
    await all_waiting(first, second, third)
    first.cancel()  # also the one whose request began the opening
    await asyncio.wait({first})
    await all_waiting(second, third)
    handle.gate.set()
    assert await second is await third
    assert (handle.counts["wake"], handle.cancelled) == (1, 0)


async def test_last_waiter_that_leaves_cancels_the_wake() -> None:
    handle = Handle()
    handle.gate.clear()
    r = route(handle)
    waiters = [asyncio.create_task(r.acquire(LONG)) for _ in range(2)]
    await all_waiting(*waiters)
    for waiter in waiters:
        waiter.cancel()
    await asyncio.wait(waiters)
    await asyncio.sleep(0)
    assert handle.cancelled == 1
    assert handle.counts["choose"] == 0


async def test_wake_that_was_cancelled_is_begun_anew_for_the_next() -> None:
    handle = Handle()
    handle.gate.clear()
    r = route(handle)
    leaver = asyncio.create_task(r.acquire(LONG))
    await all_waiting(leaver)
    leaver.cancel()
    await asyncio.wait({leaver})
    handle.gate.set()
    (lease,) = await acquire(r)
    assert lease.users == 1
    assert handle.counts["wake"] == 2


async def test_opening_knows_nothing_of_the_request_that_began_it() -> None:
    """Ray would cancel it with that request."""
    handle = Handle()
    r = route(handle)
    request_var.set("mine")
    (lease,) = await acquire(r)
    lease.end()
    r.release(lease)
    await handle.reaches("give back", 1)
    assert handle.contexts == ["none"] * 3  # wake, choose, give back


# Sharing -------------------------------------------------------------------------------------------------------------


async def test_lease_is_shared_by_later_requests() -> None:
    handle = Handle()
    r = route(handle)
    (first,) = await acquire(r)
    r.release(first)
    (second,) = await acquire(r)
    assert second is first
    assert handle.counts["choose"] == 1


async def test_share_limit_opens_another_lease() -> None:
    handle = Handle()
    r = route(handle, share=2)
    lent = await acquire(r, 5)
    assert sorted(Counter(lent).values()) == [1, 2, 2]
    assert handle.counts["choose"] == 3


async def test_model_with_a_lease_is_not_woken_again() -> None:
    handle = Handle()
    r = route(handle, share=1)
    await acquire(r, 3)
    assert (handle.counts["wake"], handle.counts["choose"]) == (1, 3)


async def test_ended_lease_is_not_lent_again() -> None:
    handle = Handle()
    r = route(handle)
    (first,) = await acquire(r)
    first.end()
    (second,) = await acquire(r)
    assert second is not first
    assert second.url != first.url


async def test_lease_is_given_back_once_when_its_last_user_ends() -> None:
    handle = Handle()
    r = route(handle)
    lease, *_ = await acquire(r, 3)
    lease.end()
    r.release(lease)
    r.release(lease)
    await asyncio.sleep(0)
    assert handle.counts["give back"] == 0
    r.release(lease)
    await handle.reaches("give back", 1)
    r._expire("", lease)  # its time is up afterwards
    await asyncio.sleep(0)
    assert handle.counts["give back"] == 1


async def test_model_is_woken_again_when_all_leases_were_given_back() -> None:
    handle = Handle()
    r = route(handle)
    (lease,) = await acquire(r)
    lease.end()
    r.release(lease)
    await acquire(r)
    assert handle.counts["wake"] == 2


async def test_lease_ends_by_itself_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_S", 0.02)
    handle = Handle()
    r = route(handle)
    (lease,) = await acquire(r)
    r.release(lease)
    await handle.reaches("give back", handle.counts["choose"])
    assert lease.done
    assert not lease.lends(100)


async def test_lease_that_is_out_of_time_is_kept_for_its_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_S", 0.02)
    handle = Handle()
    r = route(handle)
    (lease,) = await acquire(r)
    async with asyncio.timeout(10):
        while (other := (await acquire(r))[0]) is lease:
            r.release(other)
    r.release(other)
    await handle.reaches("give back", 1)  # the other one
    assert not lease.done
    r.release(lease)
    await handle.reaches("give back", handle.counts["choose"])
    assert lease.done


async def test_lease_that_nobody_came_for_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last waiter leaves in the moment in which the replica is there."""
    monkeypatch.setattr(leases, "LEASE_S", 0.0)
    handle = Handle()
    r = route(handle)
    await r._open("", "org--m")
    await handle.reaches("give back", 1)


# Failing -------------------------------------------------------------------------------------------------------------


async def test_failed_load_reaches_all_waiters_with_its_reason() -> None:
    handle = Handle()
    handle.gate.clear()
    r = route(handle, state=ModelState(State.FAILED, "ValueError: no weights", backing_off=True))
    waiters = [asyncio.create_task(r.acquire(LONG)) for _ in range(5)]
    errors = await asyncio.wait_for(asyncio.gather(*waiters, return_exceptions=True), 10)
    assert [type(error) for error in errors] == [ModelLoadFailed] * 5
    assert "'org/m'" in str(errors[0])
    assert "ValueError: no weights" in str(errors[0])
    await asyncio.sleep(0)
    assert (handle.counts["wake"], handle.cancelled) == (1, 1)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (None, Capacity),
        (ModelState(State.STOPPED), Capacity),
        (ModelState(State.STOPPING), Capacity),
        (ModelState(State.STARTING), Capacity),
        (ModelState(State.STARTING, has_place=True), ModelLoading),
        (ModelState(State.RUNNING), ModelLoading),
        (ModelState(State.FAILED, "no weights"), ModelLoadFailed),
    ],
)
async def test_wait_that_is_over_says_what_it_waited_for(state: ModelState | None, expected: type[ApiError]) -> None:
    handle = Handle()
    handle.gate.clear()
    with pytest.raises(expected) as caught:
        await asyncio.wait_for(route(handle, state=state).acquire(0.03), 10)
    assert caught.value.retry_after_s == 10
    await asyncio.sleep(0)
    assert handle.cancelled == 1


async def test_failure_that_is_not_backed_off_from_is_waited_out() -> None:
    """It is of an earlier start; this request begins the next one."""
    handle = Handle()
    handle.gate.clear()
    looks = Looks(ModelState(State.FAILED, "no weights"))
    waiter = asyncio.create_task(looks.route(handle).acquire(LONG))
    await looks.reaches(3)
    assert not waiter.done()
    handle.gate.set()
    assert (await waiter).users == 1


async def test_nobody_waits_at_serve_for_a_start_that_was_lost_until_serve_has_forgotten_it() -> None:
    handle = Handle()
    handle.gate.clear()
    looks = Looks(ModelState(State.STARTING))
    waiter = asyncio.create_task(looks.route(handle).acquire(LONG))
    await handle.reaches("wake", 1)
    looks.outcome = ModelState(State.STARTING, lost=True)
    await handle.reaches("cancelled", 1)
    seen = looks.count
    await looks.reaches(seen + 5)
    assert (handle.counts["wake"], waiter.done()) == (1, False)
    looks.outcome = ModelState(State.STOPPED)
    await handle.reaches("wake", 2)
    handle.gate.set()
    assert (await waiter).users == 1


async def test_wait_for_a_lost_start_that_is_given_up_ends_with_the_reason() -> None:
    handle = Handle()
    handle.gate.clear()
    looks = Looks(ModelState(State.STARTING, lost=True))
    waiter = asyncio.create_task(looks.route(handle).acquire(LONG))
    await handle.reaches("cancelled", 1)
    looks.outcome = ModelState(State.FAILED, "its process ended", backing_off=True)
    with pytest.raises(ModelLoadFailed, match="its process ended"):
        await asyncio.wait_for(waiter, 10)


async def test_model_that_will_never_have_room_is_answered_at_once_with_the_figures() -> None:
    handle = Handle()
    handle.gate.clear()
    refused = ModelState(State.STARTING, refused=True, reason="it needs 9,000 MB of memory, and the limit is 8,000 MB")
    waiters = [asyncio.create_task(route(handle, state=refused).acquire(LONG)) for _ in range(3)]
    errors = await asyncio.wait_for(asyncio.gather(*waiters, return_exceptions=True), 10)
    assert [type(error) for error in errors] == [Capacity] * 3
    assert isinstance(errors[0], Capacity)
    assert "'org/m'" in errors[0].message
    assert "it needs 9,000 MB of memory, and the limit is 8,000 MB." in errors[0].message
    assert errors[0].retry_after_s == RETRY_AFTER_S


async def test_handle_is_closed_once_nobody_has_needed_it_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "REST_S", 0.01)
    monkeypatch.setattr(leases, "LEASE_S", 0.01)
    handle = Handle()
    r = route(handle)
    async with asyncio.timeout(10):
        r.release(await r.acquire(LONG))
        await handle.reaches("shutdown", 1)
        assert handle._router is None
        r.release(await r.acquire(LONG))
        assert handle.counts["wake"] == 2


async def test_handle_stays_open_while_it_is_needed() -> None:
    handle = Handle()
    r = route(handle)
    handle.gate.clear()
    loading = asyncio.create_task(r.acquire(LONG))
    await handle.reaches("wake", 1)
    r._rest()
    assert handle._router is not None, "a model loads"
    handle.gate.set()
    await loading
    r._rest()
    assert handle._router is not None, "a request is under way"


async def test_model_that_newer_settings_have_no_more_is_answered_at_once() -> None:
    handle = Handle()
    handle.gate.clear()
    with pytest.raises(ModelNotFound, match="'org/m' does not exist any more"):
        await asyncio.wait_for(route(handle, state=ModelState(State.STOPPED, gone=True)).acquire(LONG), 10)


async def test_states_that_cannot_be_read_end_no_wait_before_its_time() -> None:
    handle = Handle()
    handle.gate.clear()
    looks = Looks(RuntimeError("no controller"))
    r = looks.route(handle)
    waiter = asyncio.create_task(r.acquire(LONG))
    await looks.reaches(2)
    with pytest.raises(Capacity):
        await asyncio.wait_for(r.acquire(0.0), 10)
    assert not waiter.done()
    handle.gate.set()
    assert (await waiter).users == 1


async def test_wait_of_one_that_is_over_does_not_end_the_others() -> None:
    handle = Handle()
    handle.gate.clear()
    r = route(handle)
    patient = asyncio.create_task(r.acquire(LONG))
    with pytest.raises(Capacity):
        await asyncio.wait_for(r.acquire(0.0), 10)
    handle.gate.set()
    assert (await patient).users == 1
    assert handle.counts["wake"] == 1


async def test_replica_that_dies_while_it_is_waited_for_is_asked_for_again() -> None:
    handle = Handle()
    handle.failures = [RuntimeError("actor died"), RuntimeError("actor died")]
    (lease,) = await asyncio.wait_for(acquire(route(handle, state=ModelState(State.STARTING))), 10)
    assert lease.users == 1
    assert handle.counts["wake"] == 3


async def test_wake_that_serve_cancels_by_itself_is_asked_for_again() -> None:
    """Awaiting Serve's response raises CancelledError when the call was cancelled anywhere."""
    handle = Handle()
    handle.failures = [asyncio.CancelledError()]
    waiter = asyncio.create_task(route(handle).acquire(LONG))
    await asyncio.wait({waiter}, timeout=10)
    assert not waiter.cancelled()
    assert handle.counts["wake"] == 2


async def test_failure_of_serve_is_told_as_the_models_when_it_is_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LOOK_S", 10.0)  # which it has for the reading, too
    handle = Handle()
    handle.failures = [RuntimeError("deployment failed")]
    with pytest.raises(ModelLoadFailed, match="no weights"):
        await route(handle, state=ModelState(State.FAILED, "no weights", backing_off=True)).acquire(LONG)
    assert handle.counts["wake"] == 1


async def test_failures_of_serve_end_with_the_wait() -> None:
    handle = Handle()
    handle.failures = [RuntimeError("no replica")] * 10**6
    with pytest.raises(Capacity):
        await asyncio.wait_for(route(handle).acquire(0.02), 10)


# What is said of a model that is not up -------------------------------------------------------------------------------


def test_failed_load_says_why_and_when_to_come_back() -> None:
    error = load_failed("org/m", ModelState(State.FAILED, "ValueError: no weights"))
    assert error.message == "The model 'org/m' could not be loaded: ValueError: no weights"
    assert (error.code, error.retry_after_s) == ("model_load_failed", RETRY_AFTER_S)


def test_slow_load_says_how_far_it_is_and_when_it_should_be_done() -> None:
    loading = Loading("preparing the weights", 3.2, 20.0)
    error = still_loading("org/m", ModelState(State.STARTING, has_place=True, loading=loading))
    assert error.message == (
        "The model 'org/m' is still loading: preparing the weights, 3 s so far; the last start took 20 s."
    )
    assert error.body()["error"]["code"] == "model_loading"
    assert error.body()["error"]["loading"] == {"phase": "preparing the weights", "seconds": 3.2, "last_seconds": 20.0}
    assert error.headers() == {"retry-after": "17"}


def test_first_load_promises_no_time() -> None:
    loading = Loading("loading", 3.2, None)
    error = still_loading("org/m", ModelState(State.STARTING, has_place=True, loading=loading))
    assert error.retry_after_s == 10


def test_load_of_which_nothing_is_known_is_still_loading() -> None:
    error = still_loading("org/m", ModelState(State.RUNNING))
    assert (error.message, error.code) == ("The model 'org/m' is still loading.", "model_loading")
    assert error.body()["error"].keys() == {"message", "type", "param", "code"}
    assert error.retry_after_s == RETRY_AFTER_S


@pytest.mark.parametrize(
    ("reason", "why"),
    [("waits: all 3 places are in use", "waits: all 3 places are in use"), ("", "the others are in use")],
)
def test_wait_for_a_place_is_a_lack_of_capacity_with_its_reason(reason: str, why: str) -> None:
    error = still_loading("org/m", ModelState(State.STARTING, reason=reason, loading=Loading(reason, 3, None)))
    assert error.message == f"No room for the model 'org/m': {why}."
    assert (error.code, error.retry_after_s) == ("capacity", RETRY_AFTER_S)


# Lease ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("node", "url"), [(HERE, "http://127.0.0.1:8001"), ("node-2", "http://10.0.0.7:8001")])
async def test_replica_of_the_same_node_is_asked_over_loopback(node: str, url: str) -> None:
    handle = Handle()
    handle.node = node
    (lease,) = await acquire(route(handle))
    assert lease.url == url
    assert lease.headers == {SECRET_HEADER.decode(): "secret-1"}


# Several placements --------------------------------------------------------------------------------------------------


def served_at(deployment: str, **more: Any) -> Looks:
    return Looks(ModelState(State.STARTING, deployment=deployment, **more))


async def test_wait_goes_on_at_the_placement_where_the_model_is_served() -> None:
    first, second = Handle(), Handle()
    first.gate.clear()
    waiters = [asyncio.create_task(acquiring) for acquiring in _of_one(served_at("org--m~1").route(first, second), 5)]
    lent = await asyncio.wait_for(asyncio.gather(*waiters), 10)
    assert len(set(lent)) == 1
    assert (first.counts["wake"], first.cancelled, first.counts["choose"]) == (1, 1, 0)
    assert (second.counts["wake"], second.counts["choose"]) == (1, 1)


def _of_one(r: Route, count: int) -> list[Any]:
    return [r.acquire(LONG) for _ in range(count)]


async def test_place_is_remembered_for_the_next_request() -> None:
    first, second = Handle(), Handle()
    first.gate.clear()
    r = served_at("org--m~1").route(first, second)
    (lease,) = await acquire(r)
    lease.end()
    r.release(lease)
    await acquire(r)
    assert (first.counts["wake"], second.counts["wake"]) == (1, 2)


async def test_model_moves_back() -> None:
    first, second = Handle(), Handle()
    first.gate.clear()
    looks = served_at("org--m~1")
    r = looks.route(first, second)
    (lease,) = await acquire(r)
    lease.end()
    r.release(lease)
    first.gate.set()
    second.gate.clear()
    looks.outcome = ModelState(State.STARTING, deployment="org--m")
    await asyncio.wait_for(r.acquire(LONG), 10)
    assert (second.counts["wake"], second.cancelled, first.counts["choose"]) == (2, 1, 1)


async def test_model_that_moved_is_woken_though_a_lease_of_its_old_place_is_held() -> None:
    """A call that only reserves a slot could not be cancelled while it waits for the model."""
    first, second = Handle(), Handle()
    looks = Looks(ModelState(State.RUNNING, deployment="org--m"))
    r = looks.route(first, second)
    (lease,) = await acquire(r)
    lease.end()  # its stream goes on
    first.gate.clear()
    looks.outcome = ModelState(State.STARTING, deployment="org--m~1")
    await asyncio.wait_for(r.acquire(LONG), 10)
    assert [call for call, _ in second.calls] == ["wake", "choose"]


@pytest.mark.parametrize("deployment", ["", "org--m~7", "other"])
async def test_place_that_is_not_the_models_moves_nothing(deployment: str) -> None:
    first = Handle()
    first.gate.clear()
    looks = served_at(deployment)
    waiter = asyncio.create_task(looks.route(first, Handle()).acquire(LONG))
    await looks.reaches(3)
    first.gate.set()
    assert (await waiter).users == 1
    assert first.counts["wake"] == 1


async def test_wait_that_moves_ends_at_its_time() -> None:
    first, second = Handle(), Handle()
    first.gate.clear()
    second.gate.clear()
    with pytest.raises(ModelLoading):
        await asyncio.wait_for(served_at("org--m~1", has_place=True).route(first, second).acquire(0.1), 10)
    await asyncio.sleep(0)
    assert (first.cancelled, second.cancelled) == (1, 1)


# Members -------------------------------------------------------------------------------------------------------------


async def test_member_is_named_to_serve_and_to_the_replica() -> None:
    handle = Handle()
    (lease,) = await acquire(route(handle, member="style"))
    assert handle.calls == [(call, {"multiplexed_model_id": "style"}) for call in ("wake", "choose")]
    assert lease.headers == {SECRET_HEADER.decode(): "secret-1", MEMBER_HEADER.decode(): "style"}


async def test_model_with_replicas_of_its_own_names_no_member() -> None:
    handle = Handle()
    (lease,) = await acquire(route(handle))
    assert handle.calls == [("wake", {}), ("choose", {})]
    assert MEMBER_HEADER.decode() not in lease.headers


async def test_load_and_unload_reach_a_replica_that_has_the_member() -> None:
    handle = Handle()
    r = route(handle, member="style")
    await r.load()
    await r.unload()
    assert handle.calls == [(f"{what} style", {"multiplexed_model_id": "style"}) for what in ("load", "unload")]


@pytest.mark.parametrize("method", ["load", "unload"])
async def test_member_is_loaded_and_unloaded_where_its_host_is_served(method: str) -> None:
    first, second = Handle(), Handle()
    r = served_at("org--m~1").route(first, second, member="style")
    await getattr(r, method)()
    assert [call for call, _ in second.calls] == [f"{method} style"]
    assert not first.calls


class Wrapped(Exception):
    """As Ray's, around what a replica raises."""

    def __init__(self, cause: BaseException | None) -> None:
        super().__init__("a long trace")
        self.cause = cause


@pytest.mark.parametrize("method", ["load", "unload"])
@pytest.mark.parametrize(
    ("failure", "expected", "text"),
    [
        (Wrapped(ModelLoadFailed("no weights", retry_after_s=3)), ModelLoadFailed, "^no weights$"),
        (ModelNotFound("not served here"), ModelNotFound, "^not served here$"),
        (Wrapped(KeyError("style")), EngineFailed, r"'org/m' failed: KeyError\('style'\)"),
        (Wrapped(None), EngineFailed, "'org/m' failed: Wrapped"),
        (RuntimeError("actor died"), EngineFailed, r"'org/m' failed: RuntimeError\('actor died'\)"),
    ],
)
async def test_failure_inside_a_replica_is_told_as_what_it_is(
    method: str, failure: Exception, expected: type[ApiError], text: str
) -> None:
    handle = Handle()
    handle.failures = [failure]
    with pytest.raises(expected, match=text) as caught:
        await getattr(route(handle, member="style"), method)()
    assert type(caught.value) is expected


def test_error_crosses_processes_whole() -> None:
    error = pickle.loads(pickle.dumps(ModelLoading("slow", retry_after_s=3, details={"loading": {"phase": "up"}})))
    assert (error.message, error.retry_after_s, error.code) == ("slow", 3, "model_loading")
    assert error.body()["error"]["loading"] == {"phase": "up"}


# Sessions ------------------------------------------------------------------------------------------------------------


async def test_session_is_named_to_serve_beside_the_member() -> None:
    handle = Handle()
    await route(handle, member="style").acquire(LONG, "ann")
    assert [options for _, options in handle.calls] == [{"multiplexed_model_id": "style", "session_id": "ann"}] * 2


async def test_requests_of_a_session_share_and_those_of_two_never_do() -> None:
    handle = Handle()
    r = route(handle)
    names = ["ann", "bob", "", "ann", "bob", ""]
    lent = await asyncio.gather(*(r.acquire(LONG, name) for name in names))
    assert lent[:3] == lent[3:]
    assert len(set(lent)) == 3
    assert handle.counts["choose"] == 3
    assert {options.get("session_id", "") for call, options in handle.calls if call == "choose"} == {"ann", "bob", ""}


async def test_waiter_of_one_session_that_leaves_ends_no_other_sessions_wait() -> None:
    handle = Handle()
    handle.gate.clear()
    r = route(handle)
    leaves, stays = (asyncio.create_task(r.acquire(LONG, name)) for name in ("ann", "bob"))
    await all_waiting(leaves, stays)
    leaves.cancel()
    await asyncio.wait({leaves})
    handle.gate.set()
    assert (await stays).users == 1
    assert handle.cancelled == 1


async def test_share_of_a_session_is_bounded_as_others_are() -> None:
    handle = Handle()
    r = route(handle, share=2)
    lent = await asyncio.gather(*(r.acquire(LONG, "ann") for _ in range(3)))
    assert sorted(Counter(lent).values()) == [1, 2]


async def test_nothing_is_kept_of_sessions_that_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_S", 0.02)
    handle = Handle()
    r = route(handle)
    for lease in await asyncio.gather(*(r.acquire(LONG, f"session-{n}") for n in range(20))):
        r.release(lease)
    await handle.reaches("give back", handle.counts["choose"])
    assert (r._current, r._opening, r._held) == ({}, {}, {})


async def test_nothing_is_kept_of_sessions_that_got_no_replica() -> None:
    handle = Handle()
    handle.gate.clear()
    r = route(handle)
    for n in range(3):
        with pytest.raises(Capacity):
            await r.acquire(0.0, f"session-{n}")
    assert (r._current, r._opening, r._held) == ({}, {}, {})
