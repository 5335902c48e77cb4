"""`ray job submit … -- python jobs/materialize.py USE_CASE --state … --data …` runs the steps up to `materialize`."""

import sys

from mlops_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "materialize")
    main()
