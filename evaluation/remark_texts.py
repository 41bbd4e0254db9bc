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
}  # fmt: skip

WORDING = Wording({**PHRASES, **REMARKS})
