"""``python -m month.server``: the embedded server, unchanged, whose jobs live in the simulated time too.

A job's container gets little of the server's environment; here it also gets the clock.
"""

from __future__ import annotations

import sys

from embedded_snowflake import __main__, ray_nodes
from month.clock import PASSED_ON

if __name__ == "__main__":
    ray_nodes._KEPT = (*ray_nodes._KEPT, *PASSED_ON)
    raise SystemExit(__main__.main(sys.argv[1:]))
