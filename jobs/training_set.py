"""`ray job submit … -- python jobs/training_set.py USE_CASE --state … --data …` runs the steps up to `training_set`."""

import sys

from mlops_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "training-set")
    main()
