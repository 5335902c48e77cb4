"""The past under several policies: `ray job submit … -- python jobs/backtest.py USE_CASE --from … --to …`."""

import sys

from mlops_ray.cli.main import main

if __name__ == "__main__":
    sys.argv[1:1] = ["retraining", "backtest"]
    main()
