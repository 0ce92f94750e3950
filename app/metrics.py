"""Numbers for Prometheus, read when they are asked for: from the history, the machine and the requests answered so far.

No label holds anything a person said: routes are named by kind, jobs are counted by state.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psutil
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from app.history.usage import totals
from app.studio import Studio

TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0)
KINDS = (("/media/", "media"), ("/gradio_api/", "event"), ("/signin", "signin"), ("/signout", "signin"), ("/healthz", "health"),
         ("/readyz", "health"), ("/metrics", "metrics"), ("/assets/", "asset"), ("/studio/", "asset"), ("/static/", "asset"))


class Metrics:
    """The numbers of one site."""

    def __init__(self, studio: Studio) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("sprocket_http_requests", "Answers by kind of route and class of status", ("kind", "status"),
                                 registry=self._registry)
        self._seconds = Histogram("sprocket_http_seconds", "Time to the first byte of an answer", ("kind",), buckets=BUCKETS,
                                  registry=self._registry)
        self._registry.register(_State(studio))

    def answered(self, path: str, status: int, seconds: float) -> None:
        """One request."""
        kind = next((kind for start, kind in KINDS if path.startswith(start)), "page")
        self._requests.labels(kind, f"{status // 100}xx").inc()
        self._seconds.labels(kind).observe(seconds)

    def text(self) -> bytes:
        """All numbers as Prometheus reads them. Raises what reading the history raises."""
        return generate_latest(self._registry)


class _State(Collector):
    """What is true now."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    def describe(self) -> Any:
        """Nothing: registering would otherwise read the history."""
        return ()

    def collect(self) -> Iterator[Any]:
        status, held = self._studio.status(), totals(self._studio.store)
        jobs = GaugeMetricFamily("sprocket_jobs", "Jobs in the history by state", labels=("state",))
        for state in sorted(held.jobs):
            jobs.add_metric((state,), held.jobs[state])
        yield jobs
        yield GaugeMetricFamily("sprocket_queue_waiting", "Jobs that wait", value=status.queued)
        yield GaugeMetricFamily("sprocket_queue_running", "Jobs that run", value=status.running)
        yield GaugeMetricFamily("sprocket_worker_up", "1 while a worker lives", value=float(status.worker_alive))
        yield GaugeMetricFamily("sprocket_storage_blocked", "1 while nothing can be written",
                                value=float(status.blocked_reason is not None))
        yield GaugeMetricFamily("sprocket_disk_free_bytes", "Free on the disk of the data folder", value=status.disk_free_bytes)
        yield GaugeMetricFamily("sprocket_clips", "Finished clips", value=held.clips)
        yield GaugeMetricFamily("sprocket_clips_bytes", "Bytes of finished clips", value=held.clip_bytes)
        yield CounterMetricFamily("sprocket_frames", "Frames of finished clips", value=held.frames)
        yield from _process()


def _process() -> Iterator[Any]:
    """Of this web process, by the names Prometheus uses everywhere."""
    here = psutil.Process()
    with here.oneshot():
        yield GaugeMetricFamily("process_resident_memory_bytes", "Resident memory of the web process", value=here.memory_info().rss)
        yield GaugeMetricFamily("process_threads", "Threads of the web process", value=here.num_threads())
        yield GaugeMetricFamily("process_start_time_seconds", "Start, UTC seconds", value=here.create_time())
        times = here.cpu_times()
        yield CounterMetricFamily("process_cpu_seconds", "Processor time of the web process", value=times.user + times.system)
        if hasattr(here, "num_fds"):
            yield GaugeMetricFamily("process_open_fds", "Open files of the web process", value=here.num_fds())
