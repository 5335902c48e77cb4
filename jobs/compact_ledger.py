"""The ledger into its table, at an interval: `ray job submit … -- python jobs/compact_ledger.py USE_CASE --state …`."""

import sys

from mlops_ray.cli.main import main

if __name__ == "__main__":
    sys.argv[1:1] = ["ledger", "compact"]
    main()
