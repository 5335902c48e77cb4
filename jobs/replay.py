"""Recorded rows to a live endpoint: `ray job submit … -- python jobs/replay.py USE_CASE --from … --to … --url …`."""

import sys

from mlops_ray.cli.main import main

if __name__ == "__main__":
    sys.argv[1:1] = ["retraining", "replay"]
    main()
