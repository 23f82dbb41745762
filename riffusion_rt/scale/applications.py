"""Plain settings in, Serve applications out: what ``serve deploy`` imports and ``riffusion-rt serve --ray`` starts.

In a configuration file: ``import_path: riffusion_rt.scale.applications:engines`` and ``…:door``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from riffusion_rt.scale.cluster_settings import A_TRACE, HEAD_NODE, ClusterSettings, checked
from riffusion_rt.scale.door import Door
from riffusion_rt.scale.engine_replica import EngineReplica
from riffusion_rt.server.service_settings import ServiceSettings

if TYPE_CHECKING:
    from ray.serve import Application

QUIET = {"enable_access_log": False}
"""Serve's line for every request: the server counts them by itself, see ``/metrics``."""

ENGINE_SETTINGS = ("model", "device", "threads", "lanes", "rows_at_once", "idle_s", "resumable_s")
"""Of ``ServiceSettings``, what concerns engines; the rest is the door's."""

CONNECTIONS = 2000
"""Requests that the door answers at the same time; most of them wait for a job to end."""


def engines(args: dict[str, Any], replica: type[EngineReplica] = EngineReplica) -> Application:
    """The engines.

    Args:
        args: ``cluster``, a mapping of ``ClusterSettings``; the rest is ``ENGINE_SETTINGS``.
        replica: what each of them runs.

    Raises:
        RequestError: a setting is unknown or outside its range.
    """
    from ray import serve

    given = dict(args)
    cluster: ClusterSettings = checked(ClusterSettings, given.pop("cluster", None) or {}, "cluster settings")
    settings: ServiceSettings = checked(ServiceSettings, _plain(given), "engines' settings")
    deployment = serve.deployment(
        name="Engine",
        logging_config=QUIET,
        ray_actor_options={"num_cpus": cluster.cpus, "num_gpus": cluster.gpus},
        autoscaling_config={
            "min_replicas": cluster.least,
            "max_replicas": cluster.most,
            "target_ongoing_requests": cluster.busy_at,
            "upscale_delay_s": cluster.more_after_s,
            "downscale_delay_s": cluster.fewer_after_s,
        },
        max_ongoing_requests=cluster.at_once + cluster.live,
        max_surge_percent=cluster.surge,
        health_check_period_s=cluster.health_every_s,
        graceful_shutdown_timeout_s=settings.drain_s,
        graceful_shutdown_wait_loop_s=0.5,
    )(replica)
    return deployment.bind(_plain(given), live=cluster.live)


def door(args: dict[str, Any]) -> Application:
    """The ingress.

    Args:
        args: ``cluster``, the same mapping that the engines have; the rest is ``ServiceSettings``, of which the
            model and the device are the engines' business.

    Raises:
        RequestError: a setting is unknown or outside its range.
    """
    from ray import serve

    given = dict(args)
    cluster: ClusterSettings = checked(ClusterSettings, given.pop("cluster", None) or {}, "cluster settings")
    given.setdefault("at_once", cluster.jobs_at_once)
    given.setdefault("most_live", min(1000, cluster.live * cluster.most))
    settings: ServiceSettings = checked(ServiceSettings, _plain(given), "door's settings")
    deployment = serve.deployment(
        name="Door",
        logging_config=QUIET,
        num_replicas=1,
        ray_actor_options={"num_cpus": 0, "resources": {HEAD_NODE: A_TRACE}},
        max_ongoing_requests=CONNECTIONS,
        graceful_shutdown_timeout_s=settings.drain_s,
        graceful_shutdown_wait_loop_s=0.5,
    )(serve.ingress()(Door))
    return deployment.bind(replace(settings, model="", device="auto"))


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Lists of a configuration file as the tuples that the records hold."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
