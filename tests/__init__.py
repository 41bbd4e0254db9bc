"""The tests of Alloy."""
