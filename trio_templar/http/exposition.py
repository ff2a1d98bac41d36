"""`GET /metrics` in the text format of Prometheus. The only module that knows prometheus_client."""

from __future__ import annotations

from collections.abc import Iterator

import trio
from prometheus_client import CollectorRegistry, GCCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from trio_templar.http.app import Request, Response, Routes, route_of
from trio_templar.http.input import NoQuery, read_query
from trio_templar.http.metrics import FAMILIES, PREFIX, Family, Sources, buckets


class GatewayCollector(Collector):
    """Reads the plain numbers of a gateway when Prometheus asks: no metric object is on the path of a message."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        """Yield each family with its samples."""
        for family in FAMILIES:
            yield _metric(family, self._sources)


def _metric(family: Family, sources: Sources) -> Metric:
    name = PREFIX + family.name
    if family.kind == "histogram":
        histogram = family.read(sources)
        return HistogramMetricFamily(name, family.help, buckets=buckets(histogram), sum_value=histogram.seconds)
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(name, family.help, labels=family.labels)
    for labels, value in family.read(sources):
        metric.add_metric(labels, value)
    return metric


def metrics_routes(sources: Sources) -> Routes:
    """Return the route for `HttpApi.routes`. Each gateway has a registry of its own."""
    registry = CollectorRegistry()
    registry.register(GatewayCollector(sources))
    GCCollector(registry)

    async def metrics(request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        read_query(request, NoQuery)
        return Response(200, generate_latest(registry), content_type=CONTENT_TYPE_PLAIN_0_0_4.encode())

    return route_of("GET", "/metrics", metrics)
