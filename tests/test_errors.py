"""The error family: one sentence, one hint."""

from __future__ import annotations

import copy
import pickle

import pytest

from riffusion_engine import errors

FAMILY = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.RiffusionError)
]


@pytest.mark.parametrize("kind", FAMILY)
def test_an_error_reads_as_its_message_and_then_the_next_command(kind: type[errors.RiffusionError]) -> None:
    error = kind("The file is short.", hint="Copy it again: cp A B")
    assert str(error) == "The file is short. Copy it again: cp A B"
    assert error.hint == "Copy it again: cp A B"


@pytest.mark.parametrize("kind", FAMILY)
def test_an_error_crosses_a_process_boundary_whole(kind: type[errors.RiffusionError]) -> None:
    error = kind("The file is short", hint="Copy it again")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is kind
        assert (str(twin), twin.hint) == (str(error), error.hint)


def test_one_except_clause_catches_the_family() -> None:
    assert len(FAMILY) >= 10
    with pytest.raises(errors.RiffusionError):
        raise errors.BundleError("It is empty", hint="Fill it")


def test_a_hint_cannot_be_left_out() -> None:
    with pytest.raises(TypeError):
        errors.BundleError("It is empty")  # type: ignore[call-arg]
