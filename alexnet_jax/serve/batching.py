"""Computing together what is asked for at the same time."""

import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any


class Batcher:
    """Calls of many threads, answered in batches by one.

    A batch is what has arrived while the one before was computed: without load, a call waits for
    nothing.
    """

    def __init__(self, compute: Callable[[Sequence[Any]], Iterable[Any]], most: int):
        """Start the thread.

        Args:
          compute: Takes a batch and returns a result for each of it.
          most: The largest batch.
        """
        self._compute, self._most = compute, most
        self._asked: queue.SimpleQueue[tuple[Any, Future]] = queue.SimpleQueue()
        threading.Thread(target=self._serve, daemon=True).start()

    def __call__(self, item: Any) -> Any:
        """Return the result for an item, or raise what computing its batch raised."""
        future: Future = Future()
        self._asked.put((item, future))
        return future.result()

    def _serve(self) -> None:
        while True:
            batch = [self._asked.get()]
            while len(batch) < self._most and not self._asked.empty():
                batch.append(self._asked.get())  # this thread alone takes any
            items, futures = zip(*batch, strict=True)
            try:
                results = self._compute(items)
            except Exception as error:
                for future in futures:
                    future.set_exception(error)
            else:
                for future, result in zip(futures, results, strict=True):
                    future.set_result(result)
