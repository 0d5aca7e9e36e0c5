"""Whether the disk has room, as those ask who write: a fault may say that it has none.

What a full disk does to a write belongs where that write is; which writes it strikes in ``fault_injection``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextvars import ContextVar

# Whether the disk is full for the next write of the request that runs. The threads of a request inherit it.
strikes: ContextVar[Callable[[], bool] | None] = ContextVar("strikes", default=None)


def may_run_out() -> bool:
    """Whether a write of this request may be struck."""
    return strikes.get() is not None


def require(what: str) -> None:
    """Raises OSError (ENOSPC) where there is no room for ``what``."""
    struck = strikes.get()
    if struck and struck():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), what)
