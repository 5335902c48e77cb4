"""`ray job submit … -- python jobs/evaluate.py USE_CASE --state … --data …` runs the steps up to `evaluate`."""

import sys

from mlops_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "evaluate")
    main()
