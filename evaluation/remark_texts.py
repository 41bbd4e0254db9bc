"""The words of every remark about a result, in English. Templates are as `checkpoints.wording` says.

Other languages have tables of the same form in `ui/languages`.
"""

from __future__ import annotations

from checkpoints.problem_texts import PHRASES
from checkpoints.wording import Template, Wording

_BITS = "({value:+.4f} bits per byte, 95 % interval {low:+.4f} to {high:+.4f})"
_SCORE = "({value:+.3f} on {count:,} questions, 95 % interval {low:+.3f} to {high:+.3f})"
_AS_CONFIGURED = "no NaN or Inf, no row of zeros, layers, vocabulary and head as config.json says."

REMARKS: dict[str, Template] = {
    # how two models predict a text
    "difference-better": f"{{model}} predicts this text better than {{other}} {_BITS}.",
    "difference-worse": f"{{model}} predicts this text worse than {{other}} {_BITS}.",
    "difference-none": f"{{model}} and {{other}}: no difference that this text can show {_BITS}.",
    "difference-short": (
        "Too little text to compare {model} with {other}: {documents} different {documents:document|documents} with "
        "{bytes:,} bytes. Give {least} documents or more, or at least {least_bytes:,} bytes."
    ),
    "difference-outlier": (
        "Too little text to compare {model} with {other}: one of {documents} documents differs from all others and "
        "decides the result. Give {least} documents or more."
    ),
    "difference-outlier-block": (
        "Too little text to compare {model} with {other}: one of {blocks} blocks differs from all others and decides "
        "the result. Give {least} documents or more."
    ),
    "difference-detectable": "A text like this usually shows differences of {value:.4f} or more.",
    "difference-more": "About {count:,} more documents like these would show a difference of {value:.2g}.",
    "difference-blocks": (
        "Measured on {blocks} blocks of {documents} {documents:document|documents}, so it holds for this text; only "
        "{least} documents or more speak for others like them."
    ),
    "difference-tokenizers": (
        "Their tokenizers differ, so compare bits per byte: perplexities of different tokens do not compare."
    ),
    # how two models score on a benchmark
    "score-higher": f"{{model}} scores higher than {{other}} {_SCORE}.",
    "score-lower": f"{{model}} scores lower than {{other}} {_SCORE}.",
    "score-none": f"{{model}} and {{other}}: no difference that these questions can show {_SCORE}.",
    "score-few": (
        "{count} {count:question is|questions are} too few to compare {model} with {other}. Ask {least} or more."
    ),
    "metric-higher": f"{{model}} has a higher {{metric}} than {{other}} {_SCORE}.",
    "metric-higher-better": f"{{model}} has a higher (better) {{metric}} than {{other}} {_SCORE}.",
    "metric-higher-worse": f"{{model}} has a higher (worse) {{metric}} than {{other}} {_SCORE}.",
    "metric-lower": f"{{model}} has a lower {{metric}} than {{other}} {_SCORE}.",
    "metric-lower-better": f"{{model}} has a lower (better) {{metric}} than {{other}} {_SCORE}.",
    "metric-lower-worse": f"{{model}} has a lower (worse) {{metric}} than {{other}} {_SCORE}.",
    "metric-of-all": (
        "{metric} is computed over all questions at once ({value:+.3f}), so {model} and {other} are not compared "
        "question by question."
    ),
    "score-detectable": "This many questions usually show differences of {value:.3f} or more.",
    "score-more": "About {count:,} more questions like these would show a difference of {value:.2g}.",
    "score-left-out": "Not compared here, as they are not means over questions: {metrics:all}.",
    # what a model's weights look like
    "weights-spoilt": (
        "{count} {count:tensor holds|tensors hold} NaN or Inf, such as {first} ({nan} NaN, {inf} Inf): the model "
        "cannot answer."
    ),
    "weights-untied-head": (
        '{head} is untied in the weights but tied in config.json: loaders drop the head that is stored. Set '
        '"tie_word_embeddings" to false.'
    ),
    "weights-vocabulary": "config.json says vocab_size {stated}, and the embedding has {rows} rows.",
    "weights-layers": "config.json says {stated} layers, and the weights have {found}.",
    "weights-zero-rows": "{count} {count:row is|rows are} all zero, {most} of them in {tensor}.",
    "weights-unchanged": "Every tensor equals that of {parent}: nothing was merged.",
    "weights-unchanged-so-far": "Every tensor equals that of {parent}, as far as it was read: nothing was merged.",
    "weights-read": "That is from {share:.2%} of the weights, which were read.",
    "weights-unread": "Tensors of {dtypes:all} were not read.",
    "weights-sound": f"Nothing wrong was found in {{count}} {{count:tensor|tensors}}: {_AS_CONFIGURED}",
    "weights-sound-so-far": (
        f"Nothing wrong was found in the {{share:.2%}} that was read of {{count}} {{count:tensor|tensors}}: "
        f"{_AS_CONFIGURED}"
    ),
    # what ties a model to others
    "adapter-needs-base": "{adapter} is an adapter and needs its base.",
    "adapter-file": "{file} is there: loaders would look for the base that it names.",
    "link-out": "{file} is a link to {target}.",
    "not-json": "{file} is not JSON.",
    "names-origin": "{place} has {key}: {value!r}.",
    "runs-code": "{place} has auto_map: it runs code beside the weights, or of another repository.",
    "names-parent": "{place} names the parent {parent}.",
    "points-at": "{file} points at {base}.",
    "unmerged-lora": "There are LoRA tensors that were not merged.",
    "no-answer-alone": "With nothing else in reach it does not answer: {why:phrase}",
    "lacks-tensor": "it lacks {tensor}.",
    "took-too-long": "it took more than {seconds:.0f} seconds.",
    "ended-early": "it ended with status {status}: {words}",
    "needs-nothing": "{model} needs nothing else ({means:phrase}). It says: {answer!r}",
    "held-by-landlock": "held by Landlock",
    "held-by-namespace": "held by a mount namespace",
    "held-by-python": "links were resolved and Python's own file opens refused; this system offers no more",
    # models side by side
    "alone-yes": "yes",
    "alone-no": "no",
    "ran-on": "{device}, {dtype}",
    "ran-from-disk": "{device}, {dtype}, part of it on the disk",
    "same-structure": "{model} and {other}: the same modules of the same shapes.",
    "other-structure": "{model} (here) and {other} (there) differ: {changes:each}.",
    "only-here": ("only here: {tensors} {here:phrase} ({count} of them)", "only here: {tensors} {here:phrase}"),
    "only-there": ("only there: {tensors} {there:phrase} ({count} of them)", "only there: {tensors} {there:phrase}"),
    "changed-shape": (
        "changed: {tensors} {here:phrase} here, {there:phrase} there ({count} of them)",
        "changed: {tensors} {here:phrase} here, {there:phrase} there",
    ),
    "one-number": "one number",
    "changed-config": "{key}: {one!r} here, {two!r} there",
    "number-format-alone": (
        "{model} is stored in {dtypes} and {other} in {other_dtypes}, with the same number of weights: the difference "
        "in size is the number format alone, no compression."
    ),
    "stands-alone": "Stands alone: it answered in a process that could read no other model ({means:each}).",
    "speeds": (
        "Speeds: mean ± standard deviation of {count} answers of {tokens} tokens, after one to warm up."
    ),
    # what a search costs and can show
    "search-trial": "A trial takes {seconds:.2f} s, {making:.3f} s of them to make the model.",
    "search-time": "The search takes about {minutes:.1f} minutes, or less.",
    "search-shows": "The report part mostly shows differences of {value:.4f} and more.",
    "search-shows-nothing": "The report part has too few documents to show any difference. Give more text.",
    "search-coarse": "Searches seldom gain more than {value:g}: give more text, or expect no verdict.",
    # what a search found
    "search-unfinished": "The search was not finished, so its best recipe was not judged on the report part.",
    "search-no-winner": "No trial kept the limits. Take the plain average, or allow more.",
    "search-guards": (
        "On the report part the best recipe breaks a limit: {limits:and}. Take the plain average, or allow more."
    ),
    "search-limit": "{name} by {over:.4f}",
    "search-short": (
        "The report part has too few documents to tell the best recipe from the others. Take the plain average, or "
        "give more text."
    ),
    "search-better": (
        "The best recipe is better than {others:and}, on documents that the search never used (against "
        "{other:phrase}: {difference:phrase})."
    ),
    "search-worse": "Take {other:phrase}: it is better than the best recipe ({difference:phrase}).",
    "search-none": (
        "No difference that this text can show between the best recipe and {other:phrase} ({difference:phrase}). Take "
        "the simpler one: {other:phrase}."
    ),
    "search-none-corrected": (
        "No difference that this text can show between the best recipe and {other:phrase} ({difference:phrase}): among "
        "{count} comparisons an interval may leave out 0 by chance. Take the simpler one: {other:phrase}."
    ),
    "search-difference": (
        "{value:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}; p = {p:.2g}, corrected for {count} "
        "{count:comparison|comparisons}",
        "{value:+.4f}",
    ),
    "search-corrected": (
        "Below 0 the best recipe is better. The verdicts follow p, which is corrected for {count} "
        "{count:comparison|comparisons} (Holm); the intervals are not corrected."
    ),
    "search-interval": "{low:+.4f} to {high:+.4f}",
    "search-ends": "{low} to {high}",
    "search-how": (
        "{trials} {trials:trial|trials} ({by}, seed {seed}), {stopped} of them stopped early and {failed} failed. "
        "Searched on {search} {search:document|documents}, chosen on {choice}, reported on {report} others: {texts}."
    ),
    "search-benchmark": "Searched on {count} {count:question|questions} of {name}, so its score is no result.",
    "search-gains": "Gain over the plain average: {gains:all}. What is lost from left to right was chance.",
    "search-gains-so-far": "Gain over the plain average: {gains:all}.",
    "search-gain-search": "{value:+.4f} where it searched",
    "search-gain-choice": "{value:+.4f} where it chose",
    "search-gain-report": "{value:+.4f} in the report",
    "search-seeds": "With other seeds: {values}.",
    "search-is-better": "better",
    "search-is-worse": "worse",
    "search-is-equal": "not clearly different",
    "search-is-short": "too little text",
    "search-named": "{who:phrase}",
    "recipe-best": "the best recipe",
    "recipe-average": "the plain average",
    "recipe-given": "the recipe as given",
    "recipe-cocktail": "LM-Cocktail weights",
    "recipe-soup": "the greedy soup",
    "recipe-parent": "{name}",
    # headings of its report
    "search-heading": "What the search found",
    "search-heading-how": "How the recipe was found",
    "search-heading-beside": "The best recipe beside others, on the report part",
    "search-heading-numbers": "Numbers",
    "search-heading-recipe": "Recipe",
    "search-column-difference": "difference",
    "search-column-interval": "95 % interval",
    "search-column-p": "p, corrected (Holm)",
    "search-column-verdict": "the best recipe is",
    "search-column-five": "the best five",
    "search-part-search": "search",
    "search-part-choice": "choice",
    "search-part-report": "report",
}  # fmt: skip

WORDING = Wording({**PHRASES, **REMARKS})
