"""`python -m controlplane` is the command line."""

import sys

from controlplane.cli import main

if __name__ == "__main__":
    sys.exit(main())
