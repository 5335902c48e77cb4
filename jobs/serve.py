"""Deploy the champion on the cluster, for `ray job submit … -- python jobs/serve.py USE_CASE --state … --data …`."""

import sys

from mlops_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "serve")
    main()
