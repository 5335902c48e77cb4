"""One scheduled operation: `ray job submit … -- python jobs/schedule.py USE_CASE OPERATION --due … --state …`."""

import sys

from mlops_ray.cli.main import main

if __name__ == "__main__":
    sys.argv[1:1] = ["schedule", "run"]
    main()
