"""`ray job submit … -- python jobs/ingest.py USE_CASE --state … --data …` runs the steps up to `ingest`."""

import sys

from mlops_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "ingest")
    main()
