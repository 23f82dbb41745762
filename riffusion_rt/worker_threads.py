"""A number of threads in, something that shares work out to them out; one thread is the caller's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class CallersThread(Executor):
    """Work is done where it is handed in: a single helper would only hand each piece to and fro."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Do it now; the future is done."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[T]:
        """Each piece when its result is asked for, so that no more than one lies about."""
        return map(fn, *iterables)


def worker_threads(count: int) -> Executor:
    """``count`` threads to work in, from 1; to be closed with ``with``."""
    return ThreadPoolExecutor(count) if count > 1 else CallersThread()
