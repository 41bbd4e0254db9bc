"""`python -m healing`: the commands that heal, see `healing.command_line`."""

import sys

from healing.command_line import main

if __name__ == "__main__":
    sys.exit(main())
