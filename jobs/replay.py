"""Recorded rows to a live endpoint: `ray job submit … -- python jobs/replay.py USE_CASE --from … --to … --url …`."""

import sys

from mlops_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "replay")
    main()
