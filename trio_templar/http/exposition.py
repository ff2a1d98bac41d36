"""`GET /metrics` in the text format of Prometheus. The only module that knows prometheus_client."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import trio
from prometheus_client import CollectorRegistry, GCCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from trio_templar.clients.statistics import Sources
from trio_templar.http.app import Request, Response, Routes, route_of
from trio_templar.http.input import NoQuery, read_query
from trio_templar.http.metrics import FAMILIES, PREFIX, Family, Scrape, buckets


class GatewayCollector(Collector):
    """Reads the plain numbers of a gateway when Prometheus asks: no metric object is on the path of a message."""

    def __init__(self, scrape: Callable[[], Scrape]) -> None:
        self._scrape = scrape

    def collect(self) -> Iterator[Metric]:
        """Yield each family with its samples."""
        scrape = self._scrape()
        for family in FAMILIES:
            yield _metric(family, scrape)


def _metric(family: Family, scrape: Scrape) -> Metric:
    name = PREFIX + family.name
    if family.kind == "histogram":
        distribution = family.read(scrape)
        return HistogramMetricFamily(name, family.help, buckets=buckets(distribution), sum_value=distribution.seconds)
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(name, family.help, labels=family.labels)
    for labels, value in family.read(scrape):
        metric.add_metric(labels, value)
    return metric


def metrics_routes(sources: Sources, answers: Mapping[tuple[str, int], int]) -> Routes:
    """Return the route for `HttpApi.routes`; `answers` are its own. Each gateway has a registry of its own."""

    def scrape() -> Scrape:
        return Scrape(sources.now(), sources.sent_bytes(), sources.peak_bytes(), answers)

    registry = CollectorRegistry()
    registry.register(GatewayCollector(scrape))
    GCCollector(registry)

    async def metrics(request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        read_query(request, NoQuery)
        return Response(200, generate_latest(registry), content_type=CONTENT_TYPE_PLAIN_0_0_4.encode())

    return route_of("GET", "/metrics", metrics)
