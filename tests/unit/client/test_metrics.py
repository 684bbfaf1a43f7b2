"""A site's metrics, as a Prometheus reads them: parsed from the port, never from the object."""

from __future__ import annotations

import math
import socket
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from client.network.metrics import SiteMetrics
from ecgshared.errors import RefusalCode, RunError


@pytest.fixture
def metrics():
    served = SiteMetrics(0)
    yield served
    served.close()


def scrape(metrics):
    """Return {(sample, values of its labels by their names): value}."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{metrics.port}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_answers_are_counted_timed_and_weighed(metrics):
    metrics.answered("train", "fit", 2.5, 1000)
    metrics.answered("train", "fit", 40.0, 500)
    metrics.answered("describe", "count", 0.05, 10)
    read = scrape(metrics)
    assert read["ecgfed_site_answer_seconds_count", "fit", "train"] == 2
    assert read["ecgfed_site_answer_seconds_sum", "fit", "train"] == 42.5
    assert read["ecgfed_site_answer_seconds_bucket", "3.0", "fit", "train"] == 1
    assert read["ecgfed_site_released_bytes_total", "fit", "train"] == 1500
    assert read["ecgfed_site_answer_seconds_count", "count", "describe"] == 1
    assert read["ecgfed_site_last_answer_timestamp_seconds",] > 1.7e9


def test_every_refusal_code_is_there_from_the_start(metrics):
    """An alarm on a rate needs the zero before the first refusal."""
    assert all(scrape(metrics)["ecgfed_site_refusals_total", code.value] == 0 for code in RefusalCode)
    metrics.refused(RefusalCode.BUDGET_SPENT)
    metrics.refused("budget-spent")
    metrics.refused("C:/patients/7.xml")
    read = scrape(metrics)
    assert read["ecgfed_site_refusals_total", "budget-spent"] == 2
    assert read["ecgfed_site_refusals_total", "other"] == 1
    assert not any("patients" in part for key in read for part in key)


def test_states(metrics):
    read = scrape(metrics)
    assert read["ecgfed_site_connected",] == read["ecgfed_site_paused",] == 0
    assert math.isnan(read["ecgfed_site_certificate_not_after_timestamp_seconds",])
    metrics.connected(True)
    metrics.paused(True)
    metrics.certificate(2e9)
    metrics.budget("scd risk", 1.5)
    metrics.budget("scd risk", 2.5)
    read = scrape(metrics)
    assert read["ecgfed_site_connected",] == read["ecgfed_site_paused",] == 1
    assert read["ecgfed_site_certificate_not_after_timestamp_seconds",] == 2e9
    assert read["ecgfed_site_epsilon_spent", "scd risk"] == 2.5
    assert read["process_resident_memory_bytes",] > 0


def test_a_label_is_a_plain_word(metrics):
    for text in ("/data/patients/7", "a\nb", "x" * 65, "", '"}'):
        metrics.answered(text, text, 1.0, 1)
        metrics.budget(text, 1.0)
    read = scrape(metrics)
    assert read["ecgfed_site_answer_seconds_count", "other", "other"] == 5
    assert ("ecgfed_site_epsilon_spent", "other") in read


def test_two_sites_in_one_process_do_not_share(metrics):
    other = SiteMetrics(0)
    try:
        metrics.connected(True)
        assert scrape(other)["ecgfed_site_connected",] == 0
    finally:
        other.close()


def test_loopback_alone(metrics):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        address = probe.getsockname()[0]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address, metrics.port), timeout=5)


def test_a_port_that_cannot_be_had(metrics):
    for port in (metrics.port, 70000):
        with pytest.raises(RunError, match="metrics cannot be served"):
            SiteMetrics(port)


def test_closing_frees_the_port():
    first = SiteMetrics(0)
    first.close()
    second = SiteMetrics(first.port)
    second.close()
    assert second.port == first.port
