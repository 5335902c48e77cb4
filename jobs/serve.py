"""The champion deployed on the cluster: `ray job submit … -- python jobs/serve.py USE_CASE --state …`."""

import sys

from mlops_ray.cli.main import main

if __name__ == "__main__":
    sys.argv[1:1] = ["serve"]
    main()
