"""The clock in, seconds since this process began out: what a user waits, the interpreter's start included."""

from __future__ import annotations

import os
import time
from pathlib import Path

_PROCESS = Path("/proc/self/stat")
_START_FIELD = 22
"""Of /proc/self/stat: start of the process in clock ticks since boot (proc(5))."""


def process_age_s() -> float:
    """Seconds since this process was started, to a clock tick (10 ms); where unknown, seconds of CPU time."""
    try:
        # The second field, the program's name, may hold blanks and brackets.
        fields = _PROCESS.read_text().rpartition(")")[2].split()
        start_s = int(fields[_START_FIELD - 3]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - start_s)
    except (OSError, AttributeError, ValueError, IndexError):
        return time.process_time()
