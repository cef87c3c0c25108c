from fcos_d2.detect.threads import map_ahead, thread_pool


def test_reading_runs_ahead_by_a_bounded_number():
    started = []
    with thread_pool(2) as pool:
        results = map_ahead(pool, lambda i: started.append(i) or i, range(1000), depth=5)
        assert [next(results)[1].result() for _ in range(10)] == list(range(10))
    assert 10 <= len(started) <= 16
