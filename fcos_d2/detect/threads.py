"""Work that runs ahead in threads, by a bounded number of items and in their order."""

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

__all__ = ["ahead", "ctrl_c_as_event", "threads", "with_last"]


@contextmanager
def threads(number: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose work is dropped, but for what has begun, when its user ends."""
    pool = ThreadPoolExecutor(number)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def ahead(
    pool: ThreadPoolExecutor,
    function: Callable[[Any], Any],
    items: Iterable[Any],
    depth: int,
    as_soon_as_done: bool = False,
) -> Iterator[tuple[Any, Future]]:
    """Run ``function`` on items, ``depth`` of them ahead of what is yielded, in their order.

    Args:
        as_soon_as_done: do not wait for ``depth`` others first; for the end of a chain.
    """
    pending: deque[tuple[Any, Future]] = deque()
    for item in items:
        pending.append((item, pool.submit(function, item)))
        while pending and (len(pending) > depth or (as_soon_as_done and pending[0][1].done())):
            yield pending.popleft()
    while pending:
        yield pending.popleft()


def with_last(items: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    """Each item, and whether it is the last one."""
    previous: list[Any] = []
    for item in items:
        if previous:
            yield previous.pop(), False
        previous.append(item)
    if previous:
        yield previous.pop(), True


@contextmanager
def ctrl_c_as_event() -> Iterator[threading.Event]:
    """Within this, the first Ctrl-C only sets the event; the next one interrupts as always.

    Signals come to the main thread only: in another one this does nothing.
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
