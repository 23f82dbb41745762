"""Work is shared out to threads, or done by the caller where one would do it all."""

from __future__ import annotations

import threading

import pytest

from riffusion_rt.worker_threads import worker_threads


@pytest.mark.parametrize("count", [1, 3])
def test_results_come_in_order(count: int) -> None:
    with worker_threads(count) as workers:
        assert list(workers.map(lambda a, b: a * b, range(9), range(9))) == [n * n for n in range(9)]
        assert workers.submit(divmod, 7, 2).result() == (3, 1)


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_comes_with_the_result(count: int) -> None:
    with worker_threads(count) as workers:
        failed = workers.submit(int, "no number")
        with pytest.raises(ValueError, match="no number"):
            failed.result()


def test_one_worker_is_the_caller() -> None:
    with worker_threads(1) as alone, worker_threads(2) as others:
        assert list(alone.map(lambda _: threading.get_ident(), [0])) == [threading.get_ident()]
        assert list(others.map(lambda _: threading.get_ident(), [0])) != [threading.get_ident()]
