"""Entries of a prompt file in, their clips out, made all over a cluster with Ray Data.

Ray Data keeps a pool of makers, hands entries to those that are free, starts a maker that died again and gives what it
was at to another one, and stops handing out while the writer is behind. The clips come back as bytes, so that no disk
needs to be shared and there is one writer: what was made twice, because a node died after its clip was sent, is
written once.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from riffusion_rt.bulk import MadeClip, made_clip

if TYPE_CHECKING:
    from riffusion_rt.bulk import Entry, Maker
    from riffusion_rt.pipeline import Riffusion
    from riffusion_rt.scale.cluster_settings import ClusterSettings

MOST_BLOCKS = 2000
"""Tasks of one run. With more prompts a task has several: they are made again if it is killed."""


class ClipMaker:
    """One model in one worker of the cluster."""

    def __init__(self, model: str, options: dict[str, Any], suffix: str) -> None:
        from riffusion_rt.pipeline import Riffusion

        self._riffusion: Riffusion = Riffusion(model, **options)
        self._suffix = suffix

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Make one entry."""
        entry: Entry = pickle.loads(row["entry"])
        return {"clip": pickle.dumps(made_clip(self._riffusion, entry, self._suffix))}


def made_by_cluster(model: str, options: dict[str, Any], suffix: str, cluster: ClusterSettings) -> Maker:
    """A maker on the cluster that the process is connected to.

    Args:
        model, options: as ``Riffusion`` takes them, on every node.
        suffix: of the sound.
        cluster: how many makers there are, and what each is given.
    """

    def make(entries: Sequence[Entry]) -> Iterator[MadeClip]:
        import ray

        if not entries:
            return
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.verbose_stats_logs = False
        # Without it one maker's death at the wrong moment would end the run.
        context.actor_task_retry_on_errors = False
        rows = [{"entry": pickle.dumps(entry)} for entry in entries]
        made = ray.data.from_items(rows, override_num_blocks=min(len(rows), MOST_BLOCKS)).map(
            cast(Any, ClipMaker),  # Ray makes it in each worker; its types know functions only.
            fn_constructor_args=(model, options, suffix),
            compute=ray.data.ActorPoolStrategy(min_size=cluster.least, max_size=cluster.most),
            num_cpus=cluster.cpus,
            num_gpus=cluster.gpus or None,
        )
        written: set[int] = set()
        for row in made.iter_rows():
            clip: MadeClip = pickle.loads(row["clip"])
            if clip.number not in written:
                written.add(clip.number)
                yield clip

    return make
