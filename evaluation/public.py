"""What `from evaluation import ...` offers."""

from checkpoints.problems import Cancelled
from evaluation.card import WrittenCard, benchmark_results, card_with, perplexity_results, write_card
from evaluation.chat import Reply, reply
from evaluation.difference import Difference, difference, interval
from evaluation.error import EvaluationError, OtherSliceError
from evaluation.independence import Independence, check_independence
from evaluation.influence import Cut, Influence, Trial, Trials, candidates, influence, try_cuts
from evaluation.model import (
    FetchedModel,
    LanguageModel,
    fetch_model,
    hold_memory,
    load_fetched,
    load_model,
)
from evaluation.perplexity import DocumentScore, Perplexity, Unfinished, perplexity, perplexity_slice
from evaluation.text import TextSource

__all__ = [
    "Cancelled",
    "Cut",
    "Difference",
    "DocumentScore",
    "EvaluationError",
    "FetchedModel",
    "Independence",
    "Influence",
    "LanguageModel",
    "OtherSliceError",
    "Perplexity",
    "Reply",
    "TextSource",
    "Trial",
    "Trials",
    "Unfinished",
    "WrittenCard",
    "benchmark_results",
    "candidates",
    "card_with",
    "check_independence",
    "difference",
    "fetch_model",
    "hold_memory",
    "influence",
    "interval",
    "load_fetched",
    "load_model",
    "perplexity",
    "perplexity_results",
    "perplexity_slice",
    "reply",
    "try_cuts",
    "write_card",
]
