"""The pipeline, or with `--until STEP` its beginning: `ray job submit … -- python jobs/pipeline.py USE_CASE …`."""

import sys

from mlops_ray.cli.main import main

if __name__ == "__main__":
    sys.argv[1:1] = ["run"]
    main()
