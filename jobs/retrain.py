"""What the governor orders: `ray job submit … -- python jobs/retrain.py USE_CASE --id … --as-of … --state …`."""

import sys

from mlops_ray.cli.main import main

if __name__ == "__main__":
    sys.argv[1:1] = ["retraining", "run"]
    main()
