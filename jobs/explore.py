"""Data explored on the cluster: `ray job submit … -- python jobs/explore.py profile USE_CASE …`."""

import sys

from mlops_ray.cli.main import main

if __name__ == "__main__":
    sys.argv[1:1] = ["explore"]
    main()
