"""Metrics for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

_SECONDS = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 60)
_PHRASES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Metrics of one server, in a separate registry."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, processor time
        self.requests = Counter("refersam_requests", "Requests by response status", ["status"], registry=registry)
        self.seconds = Histogram(
            "refersam_request_seconds", "Seconds from request to response", buckets=_SECONDS, registry=registry
        )
        self.open_requests = Gauge("refersam_open_requests", "Open requests, running or waiting", registry=registry)
        self.batch_phrases = Histogram(
            "refersam_batch_phrases", "Phrases per model run", buckets=_PHRASES, registry=registry
        )
        self.phrases = Counter("refersam_phrases", "Phrases answered", ["no_target"], registry=registry)
