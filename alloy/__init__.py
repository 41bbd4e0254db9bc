"""Alloy: merge language models, chat with the result and score it, by one command."""

__version__ = "1.0.0"
