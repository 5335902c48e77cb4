"""Score rows on the cluster, for `ray job submit … -- python jobs/score.py USE_CASE --input … --output … --state …`."""

import sys

from mlops_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "score")
    main()
