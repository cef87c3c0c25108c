from fcos_d2.detect.threads import ahead, threads


def test_reading_runs_ahead_by_a_bounded_number():
    started = []
    with threads(2) as pool:
        results = ahead(pool, lambda i: started.append(i) or i, range(1000), depth=5)
        assert [next(results)[1].result() for _ in range(10)] == list(range(10))
    assert 10 <= len(started) <= 16
