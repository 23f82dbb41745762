"""What happens in a server in, what Prometheus reads out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from riffusion_engine.errors import RiffusionError

if TYPE_CHECKING:
    from riffusion_rt.server.service import Service
    from riffusion_rt.server.work_queue import Job

JOB_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
"""Bounds of the histogram of jobs."""


class ServiceMetrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self, service: Service) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._answers = Counter(
            "riffusion_http_answers", "Answers", ["method", "route", "status"], registry=self._registry
        )
        self._answer_s = Histogram(
            "riffusion_http_seconds", "Seconds from request to answer", ["route"], registry=self._registry
        )
        self._asked = Counter(
            "riffusion_jobs_accepted",
            "Jobs, by where they came from",
            ["kind", "cached"],
            registry=self._registry,
        )
        self._ended = Counter(
            "riffusion_jobs_ended", "Jobs that have ended", ["kind", "status"], registry=self._registry
        )
        self._job_s = Histogram(
            "riffusion_job_seconds",
            "Seconds from acceptance to end of jobs that were done",
            ["kind"],
            buckets=JOB_SECONDS,
            registry=self._registry,
        )
        self._registry.register(_State(service))

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered; ``route`` is its template, so that there are few of them."""
        self._answers.labels(method, route, str(status)).inc()
        self._answer_s.labels(route).observe(seconds)

    def asked(self, kind: str, *, cached: bool) -> None:
        """A job was asked for."""
        self._asked.labels(kind, str(cached).lower()).inc()

    def job_ended(self, job: Job) -> None:
        """A job has ended."""
        self._ended.labels(job.kind, job.status.value).inc()
        if job.error is None and job.ended is not None:
            self._job_s.labels(job.kind).observe(job.ended - job.created)
        elif job.error is not None and not isinstance(job.error, RiffusionError):
            from riffusion_rt.server.answers import log

            log.error("A %s job failed", job.kind, exc_info=job.error)

    def text(self) -> bytes:
        """The page that Prometheus fetches."""
        return generate_latest(self._registry)


class _State(Collector):
    """What is read off when it is asked for."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """All gauges and the network's counters."""
        service = self._service
        counts = service.owner.counts
        gauges = {
            "riffusion_jobs_queued": ("Jobs that wait", service.queue.queued),
            "riffusion_jobs_running": ("Jobs under way", service.queue.running),
            "riffusion_live_sessions": ("Live sessions", len(service.live)),
            "riffusion_results": ("Results kept", len(service.store)),
            "riffusion_results_bytes": ("Bytes of results on the disk", service.store.stored_bytes),
            "riffusion_unet_waiting_rows": ("Rows that wait for the UNet", counts.waiting_rows),
            "riffusion_draining": ("Whether the server is shutting down", int(service.draining)),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value=value)
        counters = {
            "riffusion_unet_runs": ("Runs of the UNet", counts.runs),
            "riffusion_unet_rows": ("Rows that the UNet ran", counts.rows),
            "riffusion_unet_shared_runs": ("Runs that served more than one request", counts.shared_runs),
            "riffusion_unet_seconds": ("Seconds of running the UNet, over all lanes", counts.busy_s),
        }
        for name, (text, total) in counters.items():
            yield CounterMetricFamily(name, text, value=total)
