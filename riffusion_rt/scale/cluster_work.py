"""Orders in, stages and results out, made by whichever engine is free, and by another one where the first one dies."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from riffusion_engine.errors import EngineError
from riffusion_rt.scale.engine_calls import EngineCall, EngineLost, Engines
from riffusion_rt.server.making import Order, Workshop, plan_text
from riffusion_rt.server.result_store import Result, ResultStore, readable_metadata
from riffusion_rt.server.unet_batches import BatchCounts, Ticket, WorkCancelled
from riffusion_rt.server.work_queue import Stage

if TYPE_CHECKING:
    from riffusion_engine.manifest import Manifest
    from riffusion_rt.clip import Clip
    from riffusion_rt.scale.engine_replica import EngineFacts
    from riffusion_rt.server.engine_owner import EngineOwner

MOST_TRIES = 20
"""Engines that may die over one job before it is taken to be what kills them."""

AGAIN_S = 0.25
"""Before another try; Serve needs a moment to notice which replicas are gone."""


class ClusterOwner:
    """What a server asks of its model's owner, answered for engines elsewhere.

    Args:
        handle: Serve's, of the engines.
        mailbox: through which calls are told things.
        on_facts: told of another model than the one known so far.

    Raises:
        EngineError: no engine can be had.
    """

    def __init__(self, handle: Any, mailbox: Any, on_facts: Callable[[EngineFacts], None]) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, BatchCounts] = {}
        self._calls: dict[Ticket, EngineCall] = {}
        self._on_facts = on_facts
        self.lost = 0
        """Calls whose engine died while it was at them."""
        self.engines = Engines(handle, mailbox, self._renew, self._counted)
        self.facts: EngineFacts = _first_facts(handle)

    @property
    def manifest(self) -> Manifest:
        """Of the model of the engine that was met last: while one model replaces another there are two."""
        return self.facts.manifest

    @property
    def device(self) -> str:
        """The engines' device."""
        return self.facts.device

    @property
    def counts(self) -> BatchCounts:
        """What the networks of all engines did, as far as was heard of it."""
        with self._lock:
            counts = list(self._counts.values())
        return BatchCounts(
            runs=sum(each.runs for each in counts),
            rows=sum(each.rows for each in counts),
            shared_runs=sum(each.shared_runs for each in counts),
            busy_s=sum(each.busy_s for each in counts),
            waiting_rows=sum(each.waiting_rows for each in counts),
        )

    def begin(self, ticket: Ticket) -> EngineCall:
        """A new call, which ``cancel`` ends."""
        call = EngineCall(self.engines, self.facts.digest)
        self._calls[ticket] = call
        return call

    def end(self, ticket: Ticket) -> None:
        """The call is over."""
        self._calls.pop(ticket, None)

    def cancel(self, ticket: Ticket) -> None:
        """Have a ticket's work end at its next step."""
        ticket.cancelled.set()
        call = self._calls.get(ticket)
        if call is not None:
            call.give_up()

    def close(self) -> None:
        """Give up all calls. The engines stay."""
        for ticket in list(self._calls):
            self.cancel(ticket)

    def _renew(self, facts: EngineFacts) -> None:
        self.facts = facts
        self._on_facts(facts)

    def _counted(self, replica: str, counts: Any) -> None:
        if isinstance(counts, BatchCounts):
            with self._lock:
                self._counts[replica] = counts


class ClusterWorkshop(Workshop):
    """Carries orders out elsewhere, and keeps here what comes of them.

    Args:
        owner: the engines.
        store: where results go.
    """

    def __init__(self, owner: ClusterOwner, store: ResultStore) -> None:
        super().__init__(cast("EngineOwner", owner), store, finishing=1)
        self._engines_owner = owner

    def work(self, order: Order) -> Callable[[Ticket], Iterator[Stage | Result]]:
        """What a job does for an order."""
        asked_of = self._engines_owner.facts.digest

        def run(ticket: Ticket) -> Iterator[Stage | Result]:
            found = self._store.find(order.key)
            if found is not None:
                yield found
                return
            started = time.perf_counter()
            clip: Clip | None = None
            for event in self._tried(order, ticket):
                if isinstance(event, Stage):
                    yield event
                else:
                    clip = event
            assert clip is not None
            # Made by the model that has come meanwhile, it is no answer to the same question to the old one.
            same = asked_of == self._engines_owner.facts.digest
            yield self._store.put(
                order.key if same else secrets.token_urlsafe(12),
                clip,
                metadata=readable_metadata(clip, order.hidden),
                compute_s=time.perf_counter() - started,
                plan=plan_text(order.request),
            )

        return run

    def _tried(self, order: Order, ticket: Ticket) -> Iterator[Stage | Clip]:
        for tried in range(MOST_TRIES):
            try:
                yield from self._lent(order, ticket)
                return
            except EngineLost:
                self._engines_owner.lost += 1
                if tried + 1 == MOST_TRIES:
                    raise
            if ticket.cancelled.wait(AGAIN_S * min(tried + 1, 8)):
                raise WorkCancelled

    def _lent(self, order: Order, ticket: Ticket) -> Iterator[Stage | Clip]:
        recording = order.uploads[0].read_bytes() if order.uploads else None
        call = self._engines_owner.begin(ticket)
        try:
            for event in call.events("make", order.request, recording, ticket.client):
                if event[0] == "stage":
                    yield Stage(event[1], partial(_preview, call) if event[2] else None)
                elif event[0] == "clip":
                    yield event[1]
                elif event[0] == "failed":
                    raise event[1]
                elif event[0] == "cancelled":
                    raise WorkCancelled
        finally:
            self._engines_owner.end(ticket)


def _preview(call: EngineCall) -> bytes:
    from starlette.exceptions import HTTPException

    picture = call.ask("preview")
    if picture is None:
        raise HTTPException(409, "There is nothing to be seen at the moment")
    assert isinstance(picture, bytes)
    return picture


def _first_facts(handle: Any) -> EngineFacts:
    """Wait for the first engine and learn what it is."""
    import ray
    from ray.serve.exceptions import RayServeException

    try:
        facts: EngineFacts = handle.facts.remote().result()
    except (ray.exceptions.RayError, RayServeException) as error:
        raise EngineError(
            "No engine can be had of the cluster", hint="See what keeps them from starting: serve status"
        ) from error
    return facts
