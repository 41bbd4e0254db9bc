"""Judges any checkpoint: chat, perplexity, independence of its parents. Knows nothing of merging."""

from evaluation.chat import Reply, reply
from evaluation.error import Cancelled, EvaluationError
from evaluation.independence import Independence, check_independence
from evaluation.model import LanguageModel, load_model
from evaluation.perplexity import DocumentScore, Perplexity, perplexity

__all__ = [
    "Cancelled",
    "DocumentScore",
    "EvaluationError",
    "Independence",
    "LanguageModel",
    "Perplexity",
    "Reply",
    "check_independence",
    "load_model",
    "perplexity",
    "reply",
]
