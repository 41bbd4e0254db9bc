"""Judges any checkpoint, wherever it came from: chat and perplexity. Knows nothing of merging."""

from evaluation.chat import Reply, reply
from evaluation.error import Cancelled, EvaluationError
from evaluation.model import LanguageModel, load_model
from evaluation.perplexity import DocumentScore, Perplexity, perplexity

__all__ = [
    "Cancelled",
    "DocumentScore",
    "EvaluationError",
    "LanguageModel",
    "Perplexity",
    "Reply",
    "load_model",
    "perplexity",
    "reply",
]
