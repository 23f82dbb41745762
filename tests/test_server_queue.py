"""The queue does what it accepted, in fair turns, refuses what is too much, and lets go of what nobody wants."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from riffusion_engine.errors import RequestError
from riffusion_rt.server.result_store import Result
from riffusion_rt.server.unet_batches import Ticket, WorkCancelled
from riffusion_rt.server.work_queue import DeadlineError, Job, ServerBusy, Stage, Status, WorkQueue

RESULT = Result("id", "key", 0, 44100, 1, 44100, 0.1, {})


@contextmanager
def queue(**settings: Any) -> Iterator[WorkQueue]:
    chosen = {"at_once": 1, "most_queued": 10, "most_per_client": 10, "kept_s": 60.0, **settings}
    made = WorkQueue(lambda ticket: ticket.cancelled.set(), **chosen)
    try:
        yield made
    finally:
        made.close()


def job(
    work: Callable[[Ticket], Iterator[Any]] | None = None, client: str = "a", deadline_s: float = 60
) -> Job:
    return Job("test", client, work or (lambda ticket: iter([RESULT])), deadline_s)


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 5
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


class Gate:
    """Work that goes on until it is let go, and says when it began."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.begun: list[str] = []

    def work(self, name: str) -> Callable[[Ticket], Iterator[Any]]:
        def run(ticket: Ticket) -> Iterator[Any]:
            self.begun.append(name)
            while not self.open.is_set():
                if ticket.cancelled.is_set():
                    raise WorkCancelled
                yield Stage(0.5)
                time.sleep(0.002)
            yield RESULT

        return run


def test_a_job_ends_with_its_result_and_tells_who_waits() -> None:
    told = threading.Event()
    with queue() as jobs:
        one = jobs.submit(job())
        jobs.when_ended(one, told.set)
        assert told.wait(5)
        assert (one.status, one.result, one.stage.share) == (Status.DONE, RESULT, 1.0)
        assert jobs.find(one.id) is one


def test_clients_take_turns() -> None:
    gate = Gate()
    with queue() as jobs:
        jobs.submit(job(gate.work("first"), "x"))
        until(lambda: gate.begun)
        accepted = [jobs.submit(job(gate.work(f"a{n}"), "a")) for n in range(3)]
        other = jobs.submit(job(gate.work("b0"), "b"))
        assert [jobs.position(each) for each in accepted] == [0, 2, 3]
        assert jobs.position(other) == 1
        gate.open.set()
        until(lambda: not jobs.busy)
    assert gate.begun == ["first", "a0", "b0", "a1", "a2"]


def test_what_is_too_much_is_refused_with_a_time_to_come_back() -> None:
    gate = Gate()
    with queue(most_queued=2, most_per_client=2) as jobs:
        jobs.submit(job(gate.work("a"), "a"))
        until(lambda: gate.begun)
        jobs.submit(job(gate.work("b"), "a"))
        with pytest.raises(ServerBusy) as refused:
            jobs.submit(job(client="a"))
        assert refused.value.yours
        assert refused.value.retry_after_s >= 1
        jobs.submit(job(client="b"))
        with pytest.raises(ServerBusy) as full:
            jobs.submit(job(client="c"))
        assert not full.value.yours


def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_at_its_next_step() -> None:
    gate = Gate()
    with queue() as jobs:
        running = jobs.submit(job(gate.work("running")))
        until(lambda: gate.begun)
        waiting = jobs.submit(job(gate.work("waiting")))
        jobs.cancel(waiting)
        assert waiting.status is Status.CANCELLED
        jobs.cancel(running)
        until(lambda: running.status.ended)
        assert running.status is Status.CANCELLED
    assert gate.begun == ["running"]


def test_jobs_past_their_deadline_are_given_up_waiting_or_running() -> None:
    gate = Gate()
    with queue() as jobs:
        running = jobs.submit(job(gate.work("running"), deadline_s=0.1))
        waiting = jobs.submit(job(gate.work("waiting"), deadline_s=0.1))
        until(lambda: running.status.ended and waiting.status.ended)
        for each in (running, waiting):
            assert each.status is Status.FAILED
            assert isinstance(each.error, DeadlineError)


def test_a_failing_job_fails_alone() -> None:
    def fails(ticket: Ticket) -> Iterator[Any]:
        raise RequestError("No", hint="Yes")
        yield

    def breaks(ticket: Ticket) -> Iterator[Any]:
        yield Stage(0.1)
        raise ZeroDivisionError

    with queue() as jobs:
        one, two, three = jobs.submit(job(fails)), jobs.submit(job(breaks)), jobs.submit(job())
        until(lambda: not jobs.busy)
    assert [each.status for each in (one, two, three)] == [Status.FAILED, Status.FAILED, Status.DONE]
    assert isinstance(two.error, ZeroDivisionError)


def test_draining_refuses_new_work_and_finishes_the_old() -> None:
    gate = Gate()
    with queue() as jobs:
        accepted = [jobs.submit(job(gate.work(str(n)))) for n in range(3)]
        until(lambda: gate.begun)
        jobs.refuse_more()
        with pytest.raises(ServerBusy):
            jobs.submit(job())
        gate.open.set()
        until(lambda: not jobs.busy)
        assert all(each.status is Status.DONE for each in accepted)


def test_of_equal_jobs_one_is_done_at_a_time() -> None:
    gate = Gate()
    with queue(at_once=3) as jobs:
        first = jobs.submit(Job("test", "a", gate.work("first"), 60, "same"))
        until(lambda: gate.begun)
        jobs.submit(Job("test", "b", gate.work("second"), 60, "same"))
        jobs.submit(Job("test", "b", gate.work("other"), 60, "other"))
        until(lambda: len(gate.begun) == 2)
        time.sleep(0.02)
        assert gate.begun == ["first", "other"]
        gate.open.set()
        until(lambda: not jobs.busy)
    assert gate.begun[-1] == "second"
    assert first.status is Status.DONE


def test_old_jobs_are_forgotten() -> None:
    with queue(kept_s=0.05) as jobs:
        one = jobs.submit(job())
        until(lambda: one.status.ended)
        time.sleep(0.1)
        jobs.submit(job())
        assert jobs.find(one.id) is None
