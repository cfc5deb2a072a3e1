"""Numbers a server keeps, and how it shows them."""

from __future__ import annotations

import sys
import types
from dataclasses import FrozenInstanceError

import pytest

from actlink.serving import health
from actlink.serving.statistics import RECENT, Counters, EngineStatistics, Statistics


class TestStatistics:
    def test_percentiles_are_values_that_occurred(self) -> None:
        counters = Counters()
        for milliseconds in range(1, 101):
            counters.latency(float(milliseconds))
        statistics = counters.statistics(2.0, ())
        assert (statistics.latency_p50_ms, statistics.latency_p95_ms, statistics.latency_p99_ms) == (50.0, 95.0, 99.0)
        assert statistics.latency_mean_ms == 50.5

    def test_they_are_over_the_latest_and_the_memory_is_bounded(self) -> None:
        counters = Counters()
        for milliseconds in [1000.0] * 10 + [1.0] * RECENT:
            counters.latency(milliseconds)
        assert counters.statistics(1.0, ()).latency_p99_ms == 1.0
        assert len(counters._recent_ms) == RECENT

    def test_a_server_that_has_done_nothing_has_zeros(self) -> None:
        assert Counters().statistics(0.0, ()) == Statistics()

    def test_the_record_is_frozen_and_does_not_change_with_the_counters(self) -> None:
        counters = Counters()
        counters.error("spec")
        counters.batch(3)
        statistics = counters.statistics(
            1.5, (EngineStatistics("m", in_flight=2, queue_depth=1), EngineStatistics("n", queue_depth=3))
        )
        counters.error("spec")
        assert statistics.errors == {"spec": 1}
        assert (statistics.uptime_s, statistics.in_flight, statistics.queue_depth) == (1.5, 2, 4)
        assert (statistics.batches, statistics.mean_batch_size) == (1, 3.0)
        with pytest.raises(FrozenInstanceError):
            statistics.requests = 7  # type: ignore[misc]


class TestPages:
    def test_healthz_is_always_200_and_exactly_this(self) -> None:
        counters = Counters()
        counters.requests = 3
        counters.latency(1.0)
        counters.latency(1.5)
        page = health.pages(lambda: counters.statistics(0.0, (EngineStatistics("m"),)), lambda: False)("/healthz")
        assert page is not None and page.status == 200 and page.content_type == "application/json"
        assert page.body == b'{"status":"ok","requests":3,"avg_latency_ms":1.25}\n'

    def test_readyz_follows_the_server(self) -> None:
        ready = [False]
        pages = health.pages(lambda: Counters().statistics(0.0, ()), lambda: ready[0])
        assert pages("/readyz").status == 503  # type: ignore[union-attr]
        ready[0] = True
        assert pages("/readyz").status == 200  # type: ignore[union-attr]

    def test_there_is_nothing_else(self) -> None:
        pages = health.pages(lambda: Counters().statistics(0.0, ()), lambda: True)
        assert [pages(path) for path in ("/", "/statistics", "/healthz/", "/../healthz", "")] == [None] * 5


class TestLogLine:
    def test_it_says_what_matters(self) -> None:
        pytest.importorskip("psutil")
        statistics = Statistics(
            sessions=2, requests=30, latency_p50_ms=1.26, latency_p95_ms=3.0, queue_depth=4, errors={"spec": 1, "policy": 2}
        )
        text = health.log_line(statistics, health.Resources())
        assert "cpu " in text and "memory " in text
        assert "sessions 2, requests 30, p50 1.3 ms, p95 3.0 ms" in text
        assert "waiting 4, errors: policy 2, spec 1" in text

    def test_without_psutil_it_leaves_that_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "psutil", None)
        assert health.log_line(Statistics(), health.Resources()).startswith("sessions 0, requests 0")

    def test_gpu_memory_is_asked_of_torch_only_where_it_is_loaded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, "torch", raising=False)
        assert health.gpu_memory() is None
        assert "torch" not in sys.modules
        cuda = types.SimpleNamespace(
            is_initialized=lambda: True, device_count=lambda: 2, memory_reserved=lambda device: (device + 1) * health.MIB
        )
        monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))  # type: ignore[arg-type]
        assert health.gpu_memory() == 3 * health.MIB
        cuda.is_initialized = lambda: False
        assert health.gpu_memory() is None
