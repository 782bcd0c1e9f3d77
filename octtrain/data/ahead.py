"""Work that is done in a thread before its results are needed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterable[T], count: int) -> Generator[T, None, None]:
    """The same items, of which up to `count` are made before they are asked for, in a thread of its own.

    The thread ends with the generator. Its errors are raised here.
    """
    made: queue.SimpleQueue[tuple[T] | BaseException | None] = queue.SimpleQueue()
    slots = threading.Semaphore(count)
    stopped = threading.Event()

    def work() -> None:
        try:
            iterator = iter(items)
            while True:
                slots.acquire()
                if stopped.is_set():
                    return
                made.put((next(iterator),))
        except StopIteration:
            made.put(None)
        except BaseException as error:
            made.put(error)

    thread = threading.Thread(target=work, name="gather", daemon=True)
    thread.start()
    try:
        while (item := made.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            slots.release()
            yield item[0]
    finally:
        stopped.set()
        slots.release()
        thread.join()
