"""Ordered, bounded prefetching in threads."""

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

__all__ = ["ctrl_c_as_event", "map_ahead", "mark_last", "thread_pool"]


@contextmanager
def thread_pool(num_threads: int) -> Iterator[ThreadPoolExecutor]:
    """A thread pool that cancels pending work on exit."""
    pool = ThreadPoolExecutor(num_threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def map_ahead(
    pool: ThreadPoolExecutor,
    function: Callable[[Any], Any],
    items: Iterable[Any],
    depth: int,
    as_soon_as_done: bool = False,
) -> Iterator[tuple[Any, Future]]:
    """Run ``function`` on items in a pool, at most ``depth`` items ahead of the consumer.

    Args:
        pool: threads that run ``function``.
        function: called with one item.
        items: read in the caller's thread.
        depth: number of items that may be started and not yet yielded.
        as_soon_as_done: yield a finished item at once, before ``depth`` others are started; for
            the last stage of a chain.

    Yields:
        Each item with its future, in the order of ``items``.
    """
    pending: deque[tuple[Any, Future]] = deque()
    for item in items:
        pending.append((item, pool.submit(function, item)))
        while pending and (len(pending) > depth or (as_soon_as_done and pending[0][1].done())):
            yield pending.popleft()
    while pending:
        yield pending.popleft()


def mark_last(items: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    """Yield each item with True if it is the last one, else False."""
    previous: list[Any] = []
    for item in items:
        if previous:
            yield previous.pop(), False
        previous.append(item)
    if previous:
        yield previous.pop(), True


@contextmanager
def ctrl_c_as_event() -> Iterator[threading.Event]:
    """Context in which the first Ctrl-C only sets the event; the next one interrupts as usual.

    Only the main thread receives signals: in another thread the event is never set.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    usual = signal.getsignal(signal.SIGINT) or signal.default_int_handler

    def on_first(*_: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, on_first)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, usual)
