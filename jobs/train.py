"""`ray job submit … -- python jobs/train.py USE_CASE --state … --data …` runs the steps up to `train`."""

import sys

from mlops_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
