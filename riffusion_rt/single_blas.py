"""Threads that multiply matrices in, the same threads without a crowd of helpers out.

Linear algebra libraries split every product over all cores. Where our own threads do that work already, theirs only
wait for one another: phases took half as long again. The limit is the process's, so it is set while the first of our
threads needs it, and lifted after the last.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

_changing = threading.Lock()
_inside = 0
_limit: Any = None


@contextmanager
def single_blas_threads() -> Iterator[None]:
    """Let products inside be computed by the thread that asks for them. May be nested, and entered by many threads."""
    global _inside, _limit
    with _changing:
        if _inside == 0:
            _limit = _apart(lambda: _controller().limit(limits=1, user_api="blas"))
        _inside += 1
    try:
        yield
    finally:
        with _changing:
            _inside -= 1
            if _inside == 0:
                _apart(_limit.restore_original_limits)
                _limit = None


def _apart(change: Callable[[], Any]) -> Any:
    """Make a change in a thread that ends with it.

    A living thread that has set OpenBLAS's limit is the only one that threadpoolctl lets change it; but the first of
    our threads to come need not be the last to go, and both must be heard.
    """
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(change()))
    thread.start()
    thread.join()
    return results[0]


@lru_cache(maxsize=1)
def _controller() -> Any:
    import numpy  # noqa: F401 - only libraries that are loaded are found.
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
