"""Linear algebra keeps to the thread that asks for it while our own threads share the work, and only then."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from threadpoolctl import threadpool_info

from riffusion_rt.single_blas import _apart, _controller, single_blas_threads


def _threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.fixture
def usual() -> Iterator[set[int]]:
    """Threads that linear algebra takes when nobody limits it; one, of which nothing could be seen, are made two."""
    limit = _apart(lambda: _controller().limit(limits=2, user_api="blas"))
    if _threads() != {2}:
        _apart(limit.restore_original_limits)
        pytest.skip(f"linear algebra takes {_threads() or 'no'} threads here, and not two when asked to")
    yield {2}
    _apart(limit.restore_original_limits)


def test_products_inside_take_one_thread_and_others_get_theirs_back(usual: set[int]) -> None:
    with single_blas_threads():
        assert _threads() == {1}
        with single_blas_threads():
            assert _threads() == {1}
        assert _threads() == {1}
    assert _threads() == usual


def test_the_last_of_many_threads_lifts_the_limit(usual: set[int]) -> None:
    second_is_in, first_is_out = threading.Event(), threading.Event()
    seen: list[set[int]] = []

    def first() -> None:
        with single_blas_threads():
            second_is_in.wait(10)
            seen.append(_threads())
        first_is_out.set()

    def second() -> None:
        with single_blas_threads():
            second_is_in.set()
            first_is_out.wait(10)
            seen.append(_threads())

    with ThreadPoolExecutor(2) as executor:
        for done in [executor.submit(first), executor.submit(second)]:
            done.result()
    assert seen == [{1}, {1}]
    assert _threads() == usual


def test_an_error_inside_lifts_it(usual: set[int]) -> None:
    with pytest.raises(ZeroDivisionError), single_blas_threads():
        raise ZeroDivisionError
    assert _threads() == usual
