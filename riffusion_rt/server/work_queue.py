"""Jobs in, each done in its turn by one of a few workers: bounded, fair to clients, with progress and a way out."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from riffusion_engine.errors import RiffusionError
from riffusion_rt.server.unet_batches import Ticket, WorkCancelled

if TYPE_CHECKING:
    from riffusion_rt.server.result_store import Result

USUAL_JOB_S = 5.0
"""What a job is thought to take until one was seen."""

FORGETTING = 0.2
"""Weight of the newest job in the estimate of what jobs take."""

LONGEST_RETRY_S = 120.0

MOST_FINISHED = 5000
"""Finished jobs that are remembered, however young."""


class Status(str, Enum):
    """Where a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self in (Status.DONE, Status.FAILED, Status.CANCELLED)


class ServerBusy(RiffusionError):
    """No more work is taken at the moment."""

    def __init__(self, message: str, *, hint: str, retry_after_s: float, yours: bool) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s
        self.yours = yours
        """Whether it is this client that has too much going on, and not the server."""


class DeadlineError(RiffusionError):
    """A job took longer than it may."""


@dataclass(frozen=True)
class Stage:
    """How far a job has come."""

    share: float
    """0 … 1."""
    preview: Callable[[], bytes] | None = None
    """Makes a PNG of what the picture looks like by now."""


Work = Callable[[Ticket], Iterator["Stage | Result"]]
"""What a job does: stages, then its result."""


@dataclass(eq=False)
class Job:
    """One request under way. Only the queue changes it."""

    kind: str
    client: str
    work: Work
    deadline_s: float
    key: str = ""
    """Of several jobs with one key only one is under way at a time: the others find its result."""
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    status: Status = Status.QUEUED
    stage: Stage = Stage(0.0)
    result: Result | None = None
    error: BaseException | None = None
    fetched: bool = False
    """Whether someone has had its result."""
    created: float = field(default_factory=time.monotonic)
    started: float | None = None
    ended: float | None = None
    ticket: Ticket = field(init=False)
    _listeners: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ticket = Ticket(self.client)

    @property
    def overdue(self) -> bool:
        """Whether it took longer than it may."""
        return time.monotonic() - self.created > self.deadline_s


class WorkQueue:
    """Accepts jobs and does them.

    Args:
        cancel: takes a ticket's work out of the network's batches.
        at_once: jobs under way at the same time.
        most_queued: jobs that may wait.
        most_per_client: jobs of one client, under way and waiting.
        kept_s: how long finished jobs are remembered.
        on_end: told of every job that has ended.
    """

    def __init__(
        self,
        cancel: Callable[[Ticket], None],
        *,
        at_once: int,
        most_queued: int,
        most_per_client: int,
        kept_s: float,
        on_end: Callable[[Job], None] | None = None,
    ) -> None:
        self._cancel, self._on_end = cancel, on_end
        self._at_once, self._most_queued, self._most_per_client = at_once, most_queued, most_per_client
        self._kept_s = kept_s
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()
        self._running: set[Job] = set()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._job_s = USUAL_JOB_S
        self._open = True
        self._workers = [
            threading.Thread(target=self._serve, name=f"job-{number}", daemon=True)
            for number in range(at_once)
        ]
        self._watch = threading.Thread(target=self._watch_deadlines, name="deadlines", daemon=True)
        for thread in (*self._workers, self._watch):
            thread.start()

    @property
    def queued(self) -> int:
        """Jobs that wait."""
        with self._changed:
            return self._queued()

    @property
    def running(self) -> int:
        """Jobs under way."""
        return len(self._running)

    @property
    def busy(self) -> bool:
        """Whether any job is not yet ended."""
        with self._changed:
            return bool(self._running or self._waiting)

    @property
    def unfetched(self) -> bool:
        """Whether a job has a result that nobody has had."""
        with self._changed:
            return any(job.status is Status.DONE and not job.fetched for job in self._jobs.values())

    def submit(self, job: Job) -> Job:
        """Accept a job.

        Raises:
            ServerBusy: too many wait.
        """
        with self._changed:
            self._forget_old()
            if not self._open:
                raise ServerBusy(
                    "The server is shutting down", hint="Try again later", retry_after_s=10, yours=False
                )
            own = len(self._waiting.get(job.client, ())) + sum(
                each.client == job.client for each in self._running
            )
            if own >= self._most_per_client:
                raise ServerBusy(
                    f"You have {own} jobs going on already",
                    hint="Wait until one is done, or cancel it",
                    retry_after_s=self._wait_s(own),
                    yours=True,
                )
            queued = self._queued()
            if queued >= self._most_queued and queued + len(self._running) >= self._at_once:
                raise ServerBusy(
                    f"{queued} jobs are waiting already",
                    hint="Try again later",
                    retry_after_s=self._wait_s(queued),
                    yours=False,
                )
            self._waiting.setdefault(job.client, deque()).append(job)
            self._jobs[job.id] = job
            self._changed.notify_all()
        return job

    def finished(self, job: Job, result: Result) -> Job:
        """Accept a job whose result is already there."""
        job.status, job.result, job.stage = Status.DONE, result, Stage(1.0)
        job.started = job.ended = time.monotonic()
        with self._changed:
            self._forget_old()
            self._jobs[job.id] = job
        return job

    def find(self, identity: str) -> Job | None:
        """The job of that id, if it is remembered."""
        with self._changed:
            return self._jobs.get(identity)

    def position(self, job: Job) -> int:
        """Jobs that will be begun before this one; 0 if it is under way or ended."""
        with self._changed:
            own = self._waiting.get(job.client)
            if own is None or job not in own:
                return 0
            turn = own.index(job)
            clients = list(self._waiting)
            before = clients.index(job.client)
            return turn + sum(
                min(len(jobs), turn + (place < before))
                for place, (client, jobs) in enumerate(self._waiting.items())
                if client != job.client
            )

    def cancel(self, job: Job) -> None:
        """Give a job up: at once if it waits, at its next step if it is under way."""
        self._give_up(job, Status.CANCELLED, None)

    def when_ended(self, job: Job, listener: Callable[[], None]) -> None:
        """Call ``listener`` once the job has ended, from whatever thread; at once if it has."""
        with self._changed:
            if not job.status.ended:
                job._listeners.append(listener)
                return
        listener()

    def close(self) -> None:
        """Accept nothing more, give up what waits and what is under way, and end the workers."""
        with self._changed:
            self._open = False
            jobs = [job for jobs in self._waiting.values() for job in jobs] + list(self._running)
        for job in jobs:
            self.cancel(job)
        with self._changed:
            self._changed.notify_all()
        for thread in (*self._workers, self._watch):
            thread.join()

    def refuse_more(self) -> None:
        """Accept nothing more, but go on with what was accepted."""
        with self._changed:
            self._open = False

    def _queued(self) -> int:
        return sum(len(jobs) for jobs in self._waiting.values())

    def _wait_s(self, ahead: int) -> float:
        return min(LONGEST_RETRY_S, max(1.0, self._job_s * ahead / self._at_once / 2))

    def _next(self) -> Job | None:
        """The first job that can be begun of the client whose turn it is; that client goes to the end."""
        made = {job.key for job in self._running if job.key}
        for client, jobs in self._waiting.items():
            job = next((each for each in jobs if each.key not in made), None)
            if job is None:
                continue
            jobs.remove(job)
            if jobs:
                self._waiting.move_to_end(client)
            else:
                del self._waiting[client]
            return job
        return None

    def _serve(self) -> None:
        while True:
            with self._changed:
                while (job := self._next()) is None:
                    if not self._open:
                        return
                    self._changed.wait()
                self._running.add(job)
                job.status, job.started = Status.RUNNING, time.monotonic()
            try:
                result = self._worked(job)
            except WorkCancelled:
                self._end(job, Status.CANCELLED if job.error is None else Status.FAILED)
            except BaseException as error:
                job.error = error
                self._end(job, Status.FAILED)
            else:
                # A deadline may have passed while the last step was taken: what is done is done.
                job.result, job.error = result, None
                self._end(job, Status.DONE)

    def _worked(self, job: Job) -> Result:
        for event in job.work(job.ticket):
            if isinstance(event, Stage):
                job.stage = event
            else:
                return event
            if job.ticket.cancelled.is_set():
                raise WorkCancelled
        raise RuntimeError(f"A {job.kind} job ended without a result")

    def _end(self, job: Job, status: Status) -> None:
        with self._changed:
            job.ended = time.monotonic()
            job.status, job.stage = status, Stage(1.0 if status is Status.DONE else job.stage.share)
            self._running.discard(job)
            if status is Status.DONE and job.started is not None:
                self._job_s += FORGETTING * (job.ended - job.started - self._job_s)
            listeners, job._listeners = job._listeners, []
            # What a job works with may be large: it is remembered for long, its work is not.
            job.work = _nothing
            self._changed.notify_all()
        for listener in listeners:
            listener()
        if self._on_end is not None:
            self._on_end(job)

    def _give_up(self, job: Job, status: Status, error: BaseException | None) -> None:
        with self._changed:
            if job.status.ended:
                return
            job.error = error
            own = self._waiting.get(job.client)
            waits = own is not None and job in own
            if own is not None and waits:
                own.remove(job)
                if not own:
                    del self._waiting[job.client]
        if waits:
            job.ticket.cancelled.set()
            self._end(job, status)
        else:
            self._cancel(job.ticket)

    def _watch_deadlines(self) -> None:
        while True:
            with self._changed:
                if not self._open and not self._running and not self._waiting:
                    return
                self._changed.wait(0.5)
                jobs = [job for jobs in self._waiting.values() for job in jobs] + list(self._running)
            for job in [each for each in jobs if each.overdue and not each.ticket.cancelled.is_set()]:
                late = DeadlineError(
                    f"The job was not done within {job.deadline_s:g} s",
                    hint="Ask for less, or try again later",
                )
                self._give_up(job, Status.FAILED, late)

    def _forget_old(self) -> None:
        now = time.monotonic()
        for identity, job in list(self._jobs.items()):
            old = job.ended is not None and now - job.ended > self._kept_s
            if job.status.ended and (old or len(self._jobs) > MOST_FINISHED):
                del self._jobs[identity]
            elif not job.status.ended:
                continue
            else:
                break


def _nothing(ticket: Ticket) -> Iterator[Any]:
    yield from ()
