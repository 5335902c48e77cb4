"""Labels from files to the ledger, for `ray job submit … -- python jobs/labels.py USE_CASE FILE --state …`."""

import sys

from mlops_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "labels")
    main()
