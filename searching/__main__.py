"""`python -m searching`: the commands that search, see `searching.command_line`."""

import sys

from searching.command_line import main

if __name__ == "__main__":
    sys.exit(main())
