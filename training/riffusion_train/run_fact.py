"""What was done to a run's networks, kept as JSON in its folder for the card and for the stages after."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from riffusion_engine.whole_file import whole_file

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class RunFact:
    """One thing that was done, as a dataclass of plain values; ``FILE`` is its name in the run."""

    FILE: ClassVar[str]

    @classmethod
    def of_run(cls, run: Path) -> Self | None:
        """What was done to ``run``, None if it was not."""
        path = run / cls.FILE
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    def leave_in(self, run: Path) -> None:
        """Write it into ``run``, whole."""
        with whole_file(run / self.FILE) as file:
            file.write(json.dumps(asdict(self), indent=2).encode())

    @classmethod
    def forget(cls, run: Path) -> None:
        """It is not so of ``run`` any more."""
        (run / cls.FILE).unlink(missing_ok=True)
