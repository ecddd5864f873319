"""`python -m controlplane.cli` is the command line too."""

import sys

from controlplane.cli import main

if __name__ == "__main__":
    sys.exit(main())
