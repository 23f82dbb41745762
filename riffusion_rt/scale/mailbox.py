"""Letters to a call that is under way in some replica in; that replica takes them out, in their order.

Serve routes a call to a replica of its own choosing, and says no more to it until it ends. A live session must hear
its client meanwhile: its replica waits here for what comes.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any, NamedTuple


class Letter(NamedTuple):
    """What a call is told."""

    call: str
    name: str
    values: tuple[Any, ...]


class Mailbox:
    """An actor of one door, which ends when the door does."""

    def __init__(self) -> None:
        self._boxes: defaultdict[str, asyncio.Queue[Letter]] = defaultdict(asyncio.Queue)

    async def post(self, replica: str, letter: Letter) -> None:
        """Put a letter into a replica's box."""
        self._boxes[replica].put_nowait(letter)

    async def take(self, replica: str) -> list[Letter]:
        """All letters for a replica, once there is one."""
        box = self._boxes[replica]
        letters = [await box.get()]
        while not box.empty():
            letters.append(box.get_nowait())
        return letters

    async def forget(self, replica: str) -> None:
        """The replica has died: drop its box."""
        self._boxes.pop(replica, None)
