"""Settings in, everything of a server but HTTP out: one model, its queue, its results, its live sessions."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from riffusion_engine.closing import Closing
from riffusion_engine.devices import available_cores
from riffusion_rt.server.engine_owner import EngineOwner
from riffusion_rt.server.live_sessions import LiveSessions
from riffusion_rt.server.making import Order, Workshop
from riffusion_rt.server.order_bodies import OrderReader, make_bodies
from riffusion_rt.server.result_store import ResultStore
from riffusion_rt.server.service_metrics import ServiceMetrics
from riffusion_rt.server.service_settings import ServiceSettings
from riffusion_rt.server.work_queue import Job, ServerBusy, WorkQueue

ENDED_SOON_S = 5.0
"""How long a result that was finished while draining waits to be fetched."""


class Service(Closing):
    """What the routes work with. Opening takes as long as the model does.

    Raises:
        ModelNotFoundError, BundleError, DeviceError, MissingExtraError: as ``Riffusion``.
        OutputError: the folder cannot be made.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self.owner = self._open_owner()
        self._folder = tempfile.TemporaryDirectory(prefix="riffusion-rt-", dir=settings.folder)
        self.folder = Path(self._folder.name)
        self.store = ResultStore(self.folder, most_bytes=settings.kept_bytes, kept_s=settings.kept_s)
        self.workshop = self._make_workshop()
        self.metrics = ServiceMetrics(self)
        self.queue = WorkQueue(
            self.owner.cancel,
            at_once=settings.at_once,
            most_queued=settings.most_queued,
            most_per_client=settings.most_queued_per_client,
            kept_s=settings.kept_s,
            on_end=self.metrics.job_ended,
        )
        self.bodies = make_bodies(settings)
        self.reader = OrderReader(settings, self.owner.manifest)
        self.live = self._make_live()
        self.draining = False

    def _open_owner(self) -> EngineOwner:
        owner = open_engine(self.settings)
        owner.warm_up()
        return owner

    def _make_workshop(self) -> Workshop:
        return Workshop(self.owner, self.store, finishing=available_cores())

    def _make_live(self) -> LiveSessions:
        return LiveSessions(self.owner, self.settings)

    def submit(self, order: Order, client: str, *, deadline_s: float | None = None) -> Job:
        """A job for an order; one that is done already if the same was made before.

        Raises:
            ServerBusy: too many wait.
        """
        longest = self.settings.deadline_s
        job = Job(
            order.kind, client, self.workshop.work(order), min(deadline_s or longest, longest), order.key
        )
        found = self.store.find(order.key)
        self.metrics.asked(order.kind, cached=found is not None)
        try:
            if found is not None:
                order.discard()
                return self.queue.finished(job, found)
            self.queue.submit(job)
        except BaseException:
            order.discard()
            raise
        self.queue.when_ended(job, order.discard)
        return job

    def begin_drain(self) -> None:
        """Accept nothing more; what was accepted goes on."""
        self.draining = True
        self.queue.refuse_more()
        self.live.refuse_more()

    @property
    def settled(self) -> bool:
        """Whether nothing accepted is still under way."""
        return not self.queue.busy

    def close(self) -> None:
        """Give up what is under way and release everything."""
        self.draining = True
        self.live.close()
        self.queue.close()
        self.owner.close()
        self._folder.cleanup()


def open_engine(settings: ServiceSettings) -> EngineOwner:
    """The owner of the model that the settings name.

    Raises:
        ModelNotFoundError, BundleError, DeviceError, MissingExtraError: as ``Riffusion``.
    """
    return EngineOwner(
        settings.model,
        device=settings.device,
        threads=settings.threads,
        rows_at_once=settings.rows_at_once,
        lanes=settings.lanes,
    )


class NotReady(ServerBusy):
    """The model is still being opened."""

    def __init__(self) -> None:
        super().__init__(
            "The model is being opened", hint="Try again in a moment", retry_after_s=2, yours=False
        )


ServiceSource = Callable[[], Service]
"""Gives the service of an app; before it is open, ``NotReady`` is raised."""
