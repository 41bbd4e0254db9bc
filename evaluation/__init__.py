"""Judges any checkpoint, wherever it came from. Knows nothing of merging."""

from evaluation.chat import Reply, reply
from evaluation.difference import Difference, difference
from evaluation.error import Cancelled, EvaluationError
from evaluation.independence import Independence, check_independence
from evaluation.model import FetchedModel, LanguageModel, fetch_model, load_fetched, load_model
from evaluation.perplexity import DocumentScore, Perplexity, perplexity

__all__ = [
    "Cancelled",
    "Difference",
    "DocumentScore",
    "EvaluationError",
    "FetchedModel",
    "Independence",
    "LanguageModel",
    "Perplexity",
    "Reply",
    "check_independence",
    "difference",
    "fetch_model",
    "load_fetched",
    "load_model",
    "perplexity",
    "reply",
]
