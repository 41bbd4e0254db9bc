"""`python -m merging`: the commands that merge, see `merging.command_line`."""

import sys

from merging.command_line import main

if __name__ == "__main__":
    sys.exit(main())
