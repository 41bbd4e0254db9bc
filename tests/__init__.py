"""The tests of Alloy."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
