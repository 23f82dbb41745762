"""What an operator may choose of a cluster, checked: how many engines there are, and what each is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

from annotated_types import Ge, Le

from riffusion_engine.errors import RequestError

HEAD_NODE = "node:__internal_head__"
"""The resource by which Ray names the head node."""

A_TRACE = 0.001
"""Of the head node's one unit: enough to be placed there."""

ENGINES, DOOR = "riffusion-engines", "riffusion-door"
"""The names of the two Serve applications."""

MOST_AT_ONCE = 256
"""As ``ServiceSettings.at_once``."""


@dataclass(frozen=True)
class ClusterSettings:
    """Engine replicas and what each is given."""

    least: Annotated[int, Ge(1), Le(10_000)] = 1
    """Engines there are always."""
    most: Annotated[int, Ge(1), Le(10_000)] = 1
    """Engines under full load."""
    gpus: Annotated[float, Ge(0), Le(64)] = 0.0
    """Of each engine; 0.5 is half a GPU, which it shares with another one."""
    cpus: Annotated[float, Ge(0), Le(1024)] = 1.0
    """Of each engine."""
    at_once: Annotated[int, Ge(1), Le(MOST_AT_ONCE)] = 8
    """Jobs that one engine works on together: they share the network's runs."""
    busy_at: Annotated[float, Ge(0.1), Le(MOST_AT_ONCE)] = 4.0
    """Calls of one engine, on average, from which on another one is started."""
    live: Annotated[int, Ge(0), Le(1000)] = 4
    """Live sessions of one engine."""
    more_after_s: Annotated[float, Ge(0), Le(3600)] = 10.0
    """How long the load must last before an engine is added."""
    fewer_after_s: Annotated[float, Ge(0), Le(86_400)] = 300.0
    """And how long it must be gone before one is removed."""
    health_every_s: Annotated[float, Ge(0.1), Le(3600)] = 10.0
    """How often an engine is asked whether it is well."""
    surge: Annotated[int, Ge(0), Le(100)] = 0
    """Engines above ``most``, in percent, while they are replaced by those of another model."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            RequestError: a setting is outside its range, or there are to be fewer engines at most than at least.
        """
        from riffusion_rt.request import check_ranges

        check_ranges(self, get_type_hints(ClusterSettings, include_extras=True))
        if self.most < self.least:
            raise RequestError(
                f"{self.least} engines at least and {self.most} at most contradict each other",
                hint="Give --replicas as LEAST:MOST",
            )

    @property
    def jobs_at_once(self) -> int:
        """Jobs that the door lends to all engines together."""
        return min(MOST_AT_ONCE, self.most * self.at_once)


def parse_replicas(text: str) -> tuple[int, int]:
    """``3`` is always three engines, ``1:8`` as many as the load asks for.

    Raises:
        RequestError: it is neither.
    """
    least, colon, most = text.partition(":")
    try:
        return int(least), int(most if colon else least)
    except ValueError as error:
        raise RequestError(
            f"{text!r} is no number of engines", hint="Give --replicas as 3 or as LEAST:MOST"
        ) from error


def checked(kind: type[Any], values: dict[str, Any], what: str) -> Any:
    """A settings record from plain values of a configuration file.

    Raises:
        RequestError: there is a name that it does not know, or a value outside its range.
    """
    try:
        return kind(**values)
    except TypeError as error:
        raise RequestError(f"The {what} are not understood: {error}", hint="See docs/cluster.md") from error
