"""An engine whose clips take a sleep and no computing: what two of them gain is the cluster's doing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ray_cluster_serving import SLEEP_S, STAGES

from riffusion_rt.scale.engine_replica import EngineReplica
from riffusion_rt.server.work_queue import Stage

if TYPE_CHECKING:
    from riffusion_rt.clip import Clip
    from riffusion_rt.server.making import Making
    from riffusion_rt.server.unet_batches import Ticket


class SleepingEngine(EngineReplica):
    """Makes one clip, and then gives it to everyone who has slept for it."""

    _clip: Clip | None = None

    def events(self, ticket: Ticket, request: Making) -> Iterator[Stage | Clip]:
        """Stages of a sleep, and the clip."""
        if self._clip is None:
            made: Any = list(super().events(ticket, request))
            self._clip = made[-1]
        for stage in range(STAGES):
            time.sleep(SLEEP_S / STAGES)
            yield Stage((stage + 1) / STAGES)
        yield self._clip
