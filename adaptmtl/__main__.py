"""``python -m adaptmtl``: the command line, as ``accelerate launch -m adaptmtl`` starts it."""

import sys

from adaptmtl.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
