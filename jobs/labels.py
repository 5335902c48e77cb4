"""Labels from files to the ledger: `ray job submit … -- python jobs/labels.py USE_CASE FILE --state …`."""

import sys

from mlops_ray.cli.main import main

if __name__ == "__main__":
    sys.argv[1:1] = ["labels", "import"]
    main()
