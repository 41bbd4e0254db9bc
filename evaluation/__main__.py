"""`python -m evaluation`: the commands that judge, see `evaluation.command_line`."""

import sys

from evaluation.command_line import CANNOT_BE_JUDGED, DONE, main

__all__ = ["CANNOT_BE_JUDGED", "DONE", "main"]

if __name__ == "__main__":
    sys.exit(main())
