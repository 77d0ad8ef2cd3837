"""Start the command line with ``python -m fedfuse``."""

import sys

from fedfuse.cli import main

if __name__ == "__main__":
    sys.exit(main())
