"""Many rows scored on the cluster: `ray job submit … -- python jobs/score.py USE_CASE --input … --output …`."""

import sys

from mlops_ray.cli.main import main

if __name__ == "__main__":
    sys.argv[1:1] = ["score"]
    main()
