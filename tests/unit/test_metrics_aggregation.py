import json

from prometheus_client import generate_latest

from service.runtime.metrics import Metrics
from service.runtime.metrics_aggregation import AggregatedMetrics, samples


def lines(summed, beginning):
    told = generate_latest(summed).decode().splitlines()
    return [line for line in told if line.startswith(beginning) and "_created" not in line]


def reported(**stored):
    """What a process reports that has answered so many callbacks, as it comes over a pipe."""
    metrics = Metrics()
    for answer, number in stored.items():
        metrics.callbacks.labels(answer).inc(number)
    metrics.callback_seconds.observe(0.003)
    metrics.spooled.set(100)
    return json.loads(json.dumps(samples(metrics.registry)))


def test_what_others_report_is_added_to_our_own():
    ours = Metrics()
    ours.callbacks.labels("stored").inc(1)
    summed = AggregatedMetrics(ours.registry)
    summed.report("1", reported(stored=10, busy=2))
    summed.report("2", reported(stored=100))
    assert lines(summed, "rollcall_callbacks_total") == [
        'rollcall_callbacks_total{answer="stored"} 111.0',
        'rollcall_callbacks_total{answer="busy"} 2.0',
    ]
    assert lines(summed, "rollcall_callback_seconds_count") == ["rollcall_callback_seconds_count 2.0"]
    assert lines(summed, 'rollcall_callback_seconds_bucket{le="0.005"}')[0].endswith(" 2.0")
    assert lines(summed, "rollcall_spool_bytes") == ["rollcall_spool_bytes 200.0"]


def test_a_later_report_takes_the_place_of_an_earlier_one():
    summed = AggregatedMetrics(Metrics().registry)
    summed.report("1", reported(stored=10))
    summed.report("1", reported(stored=11))
    assert lines(summed, "rollcall_callbacks_total") == ['rollcall_callbacks_total{answer="stored"} 11.0']


def test_what_a_process_counted_outlives_it_and_its_gauges_do_not():
    summed = AggregatedMetrics(Metrics().registry)
    for stored in (10, 5):
        summed.report("1", reported(stored=stored))
        summed.end("1")
    summed.report("1", reported(stored=1))
    summed.end("never heard of")
    assert lines(summed, "rollcall_callbacks_total") == ['rollcall_callbacks_total{answer="stored"} 16.0']
    assert lines(summed, "rollcall_callback_seconds_count") == ["rollcall_callback_seconds_count 3.0"]
    assert lines(summed, "rollcall_spool_bytes") == ["rollcall_spool_bytes 100.0"]


def test_without_others_the_metrics_are_our_own():
    ours = Metrics()
    ours.callbacks.labels("stored").inc(3)
    ours.inbox.set(7)
    plain = [line for line in generate_latest(ours.registry).decode().splitlines() if "_created" not in line]
    summed = [
        line
        for line in generate_latest(AggregatedMetrics(ours.registry)).decode().splitlines()
        if "_created" not in line
    ]
    assert summed == plain
