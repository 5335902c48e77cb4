"""New data into the online store: `ray job submit … -- python jobs/refresh_features.py USE_CASE …`."""

import sys

from mlops_ray.cli.main import main

if __name__ == "__main__":
    sys.argv[1:1] = ["features", "refresh"]
    main()
