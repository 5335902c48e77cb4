"""Replay the past under several policies: `ray job submit … -- python jobs/backtest.py USE_CASE --from … --to …`."""

import sys

from mlops_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "backtest")
    main()
