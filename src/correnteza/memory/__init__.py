"""Features with memory: what is remembered of a stream, and what is made of it, in training and in serving alike.

`Memory` is the whole of it; `entries` has the log that it is made from, `snapshots` how it is written down.
"""

from correnteza.memory.limits import Limits
from correnteza.memory.memory import Memory, Taken

__all__ = ["Limits", "Memory", "Taken"]
