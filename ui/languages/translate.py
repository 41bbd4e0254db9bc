"""Every sentence of the page, and the language in which a visitor reads it: the browser's first, or English.

Names and meanings of merge methods and their parameters are not here: they stand where the methods are declared.
What is built once for all visitors (labels, buttons, tabs) carries its translations and is said by the browser;
what is made for one visitor (cards, updates) is said here, in the language that the request asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import gradio as gr
from gradio.context import LocalContext

from ui.languages.korean.methods import KOREAN_METHODS
from ui.languages.korean.page import KOREAN
from ui.languages.korean.problems import KOREAN_PROBLEMS
from ui.languages.korean.report import KOREAN_REPORT

ENGLISH = {
    # the page
    "page.title": "Alloy",
    "page.subtitle": (
        "Merge language models in the browser. Mix the weights of models that grew from one base into a new "
        "model: no training, no GPU, minutes instead of days."
    ),
    "page.busy": "Too many are waiting here just now. What you wrote stays: try again in a moment.",
    "page.tab.merge": "Merge",
    "page.tab.chat": "Chat",
    "page.tab.score": "Score",
    # accounts
    "account.refused": "The Hub did not accept this login (status {code}). Sign in again.",
    "account.unreachable": "The Hub cannot be reached from here.",
    "account.visitor": "Signed in as {name}",
    "account.sign_in": "Sign in with Hugging Face",
    "account.sign_out": "Sign out ({name})",
    "account.machine": "This machine's Hugging Face login: {name}",
    "account.nobody.space": "Sign in with Hugging Face to save the result to your own account. You can plan without.",
    "account.nobody.laptop": (
        "No Hugging Face login on this machine, so the result goes into a folder. "
        "For your Hub account, run `hf auth login` and reload."
    ),
    # the recipe
    "recipe.start": "Start from",
    "recipe.more": "Start from a model, a link or a file",
    "recipe.source": "A merged model's name, its page on the Hub, or a link to a recipe",
    "recipe.source.placeholder": "owner/merged-model",
    "recipe.open": "Open",
    "recipe.file": "Or drop a .yml or a README.md",
    "recipe.opened": "Opened the recipe of {name}.",
    "recipe.opened.file": "Opened the file's recipe.",
    "recipe.link": "Copy link",
    "recipe.linked": "Link to this recipe",
    "recipe.linked.info": "It holds the whole recipe, nothing else. It is on your clipboard, if the browser allows.",
    "recipe.method": "Method",
    "recipe.paper": "Source",
    "recipe.base": "Base model",
    "recipe.base.info": "What the models were fine-tuned from.",
    "recipe.model": "Model {number}",
    "recipe.model.base": "Model {number} (the base)",
    "recipe.model.info": "Type to search the Hub, or paste a model's name.",
    "recipe.model.folder": "Type to search the Hub, or paste a model's name or a folder.",
    "search.about": "About the models",
    "search.quantized": "quantized ({how}): cannot be merged",
    "search.gguf": "GGUF only: cannot be merged",
    "search.architecture": "does not fit {other}: another architecture",
    "search.size": "does not fit {other}: another size",
    "search.gated": "gated: accept its terms on its page first",
    "search.adapter": "adapter: write base+adapter",
    "search.pickle": "pickles only: read without running them",
    "recipe.add": "Add a model",
    "recipe.remove": "Remove",
    "recipe.typed": "Type the values",
    "recipe.typed.info": "For values by layer, such as [0, 0.5, 1] from first to last, or beyond the sliders.",
    "recipe.typed.needed": "The recipe has values that sliders cannot show. Make them single numbers first.",
    "recipe.typed.one": "{name}",
    "recipe.rest": "{name}: everything else",
    "recipe.attention": "{name}: attention",
    "recipe.mlp": "{name}: MLP",
    "recipe.filter.empty": "as everything else",
    "recipe.dtype": "Number format of the result",
    "recipe.dtype.stored": "as the models are stored",
    "recipe.yaml": "YAML: this text is what runs",
    "recipe.held": "The YAML says more than the form can show: {reason}. What runs is the YAML; the form waits.",
    "recipe.rewrite": "Throw these changes away and go back to the form",
    # why the form waits: ends of the sentence above
    "held.yaml": "it is not valid YAML yet",
    "held.empty": "it is not a recipe yet",
    "held.method": "it names no merge method that Alloy knows",
    "held.slices": "it is built from slices of layers",
    "held.base": "its base model is not one of the two models",
    "held.dtype": "there is no number format '{dtype}'",
    "held.choice": "`{name}` has a value that its field cannot show",
    "held.model": "one of its models has fields that the form does not know",
    "held.name": "it names a model in the long form",
    "held.parameters": "its parameters are not a list of names and values",
    "held.models": "it has no list of models",
    "held.many": "it has more than {most} models",
    # the numbers of a recipe
    "knob.whole": "{name}: one number for all layers",
    "knob.filter": "{name}: {tensors}",
    "knob.slice": "slice {number}",
    # presets
    "preset.slerp": "Gradient SLERP",
    "preset.linear": "Linear average",
    "preset.task_arithmetic": "Task arithmetic",
    "preset.ties": "TIES of fine-tunes",
    "preset.dare": "DARE",
    "preset.stock": "Model Stock",
    "preset.chat_vector": "Chat Vector",
    "preset.depth": "Depth up-scaling",
    "preset.lora": "Make my LoRA stand alone",
    "preset.raw": "Raw YAML",
    # the plan
    "plan.button": "Check the plan",
    "plan.waiting": "The plan appears here: what will be made, or what is wrong. It reads only headers, no weights.",
    "plan.good": "Ready to merge",
    "plan.bad.one": "One thing to change first",
    "plan.bad.many": "{count} things to change first",
    "plan.warning.one": "Worth knowing",
    "problem.place": "line {line}, column {column}",
    "plan.where.laptop": "Runs on this machine's processor: a merge waits for reading and writing, not for arithmetic.",
    "plan.where.space": (
        "Runs on this Space's processor, and uses none of your GPU quota: a merge waits for reading and writing."
    ),
    "plan.where.chat": (
        "To chat with the result asks for about {seconds} s of the quota; without quota the processor answers, slower."
    ),
    "plan.memory.short": "It needs more memory than the {free} that are free now.",
    "plan.tokenizer": "Tokenizers, side by side",
    "plan.tokenizer.begins": "The result has {tokens} tokens in {rows} rows: those of {name}.",
    "plan.tokenizer.appended": "Appended: {tokens}.",
    "plan.tokenizer.tokens": "Tokens",
    "plan.tokenizer.unknown": "Unknown to it",
    "plan.tokenizer.lost": "Lost",
    "plan.tokenizer.special": "Special tokens that differ",
    "plan.tokenizer.template": "Chat template",
    "plan.tokenizer.template.none": "none",
    "plan.tokenizer.template.same": "the result's",
    "plan.tokenizer.template.other": "another",
    "plan.tokenizer.sample": "A conversation, as the result's template writes it:",
    "plan.licence": "Licence",
    "plan.licence.none": "none stated",
    "plan.licence.free": "The parents' licences ask for little: keep their notices.",
    "plan.licence.share": "The strictest is {licence} of {name}: pass the result on under the same terms.",
    "plan.licence.own": "The strictest is {licence} of {name}, its maker's own terms: read them before you publish.",
    "plan.licence.unknown": "{name} states no licence: ask its maker before you publish the result.",
    "plan.licence.noncommercial": "The strictest is {licence} of {name}: not for commercial use, and so is the result.",
    "plan.lineage": "Lineage",
    "lineage.label": "{result} is made from {parents}",
    "fix.write": "Write '{word}' for '{instead}'",
    "fix.base": "Add base model {model}",
    "fix.parameter": "Add {name}: {value}",
    "fix.ranges": "Give {count} layers from each",
    "fix.range": "End the range at {limit}",
    "fix.remove": "Remove '{name}'",
    "fix.move": "Say '{name}' for all models",
    "fix.union": "Unite the vocabularies",
    "fix.vocabulary": "Keep the base model's vocabulary",
    "fix.tokenizer": "Take the vocabulary of {model}",
    # what each layer gets
    "layers.heading": "What each layer gets",
    "layers.waiting": "The picture appears when the plan is good.",
    "layers.whole": "All layers of the models, first to last: layer by layer, each is merged with its counterparts.",
    "layers.slices": "In layer_range: [a, b] the first layer is 0, and b is not included. So:",
    "layers.slice": "Layers {first} to {last} of the result: {sources}",
    "layers.source": "layers {first} to {last} of {model}",
    "layers.and": " with ",
    "layers.axis": "layer {number}",
    "layers.copy": "copy of {model}",
    "layers.between": "{low} to {high}",
    "layers.varies": "{first} … {last}",
    # how alike the models are
    "alike.heading": "How alike the models are",
    "alike.button": "Compare the models",
    "alike.info": "Reads a few rows of every matrix, nothing is merged.",
    "alike.opening": "Reading headers …",
    "alike.reading": "{done} of {total} matrices compared",
    "alike.meaning": (
        "From a few rows of every matrix. Changes are what each model has more than the base. A cosine near 1: both "
        "learnt the same; near 0: changes that hardly touch each other, and merge well; below 0: they pull apart. "
        "Where many signs conflict, TIES and its like have work to do."
    ),
    "alike.meaning.plain": (
        "From a few rows of every matrix. A cosine near 1: the models are close together and can be averaged; near 0: "
        "they do not come from one base, and a merge is likely to answer nonsense."
    ),
    "alike.task_cosine": "Cosine between the changes of {one} and {two}",
    "alike.conflict": "Share of weights that {one} and {two} change in different directions",
    "alike.norm": "Size of the change of {model}, as a share of its weights",
    "alike.cosine": "Cosine between {one} and {two}",
    "alike.lacking": "Not compared, because the others have no such matrix of this shape: {count}.",
    "alike.one": "There is only one model here, and nothing to compare it with.",
    "plan.size": "Result",
    "plan.size.detail": "{tensors} tensors in {shards}",
    "plan.shards.one": "1 file",
    "plan.shards.many": "{count} files",
    "plan.read": "To read",
    "plan.read.detail.one": "from 1 model",
    "plan.read.detail.many": "from {count} models",
    "plan.memory": "Memory",
    "plan.time": "Time",
    "plan.time.detail": "about, on this machine",
    "plan.disk": "{size} of disk",
    "plan.disk.none": "no disk needed",
    "plan.model.name": "Model",
    "plan.model.parameters": "Size",
    "plan.model.adapter": "adapter on {model}",
    "plan.model.adapter.scaled": "adapter on {model}, scaled by {scale}",
    "plan.model.made": "made on the way with {method} of {parts}",
    # the destination
    "destination.heading": "Where the result goes",
    "destination.kind": "Save to",
    "destination.hub": "Hugging Face account",
    "destination.folder": "Folder on this machine",
    "destination.kind.info": "Folders are made in {folder}.",
    "destination.download": "Files to download",
    "destination.kind.download": "Files stay here for an hour, under a link that only you have.",
    "destination.owner": "Owner",
    "destination.name": "Name of the new model",
    "destination.name.info": "Empty: the name shown in grey.",
    "destination.private": "Private",
    "destination.private.info": "Only you can see it.",
    "destination.existing": "If a model of this name exists",
    "destination.existing.info": "Unless you choose otherwise here, it is never touched.",
    "destination.refuse": "stop and tell me",
    "destination.revision": "add a new revision",
    "destination.pull_request": "open a pull request",
    "destination.free": "{name} is free.",
    # jobs
    "merge.button": "Merge",
    "merge.cancel": "Stop this merge",
    "merge.retry": "Try again",
    "merge.reuse": "Use its recipe",
    "merge.chat": "Chat with it",
    "merge.score": "Score it",
    "merge.alone": "Does it stand alone?",
    "alone.checking": "Loading it where nothing else can be reached …",
    "alone.yes": "{name} stands on its own: with nothing else in reach it says “{answer}”.",
    "alone.no": "{name} does not stand on its own. {findings}",
    "alone.memory": "{name} has {size} of weights, and {free} of memory are free here. Check it on a larger machine.",
    "jobs.heading": "Your merges",
    "jobs.empty": "Nothing merged yet. A merge runs on the server: you may reload or close this page and come back.",
    "jobs.waiting": "Waiting",
    "jobs.waiting.next": "next in line",
    "jobs.waiting.position": "number {position} in line",
    "jobs.waiting.time": ", begins in about {time}",
    "jobs.download": "Download, within the hour:",
    "jobs.download.gone": "The files are gone: they were kept for an hour. Try again to have them made anew.",
    "jobs.elsewhere": "The same merge elsewhere: link, command line, Python",
    "jobs.remix": "Open this recipe on a page of its own; the link can be passed on",
    "jobs.shell": "In a shell, in a clone of this Space:",
    "jobs.python": "In Python:",
    "jobs.rented": "On a rented machine, with the client of Hugging Face (it costs money):",
    "jobs.running": "Merging",
    "jobs.stopping": "Stopping",
    "jobs.done": "Done",
    "jobs.failed": "Did not work",
    "jobs.cancelled": "Stopped",
    "jobs.cancelled.detail": "Nothing was left behind.",
    "jobs.phase.read headers": "Reading headers",
    "jobs.phase.merge": "Merging tensors",
    "jobs.phase.upload": "Uploading",
    "jobs.phase.finish": "Finishing",
    "jobs.phase.start": "Starting",
    "jobs.progress": "Progress of {title}",
    "jobs.tensors": "{done} of {total} tensors",
    "jobs.bytes": "{done} of {total}",
    "jobs.rate": "{rate} a second",
    "jobs.left": "{time} left",
    "jobs.took": "{size} in {time}",
    "jobs.verified": (
        "Verified: the Hub was asked afterwards for every file's size and hash and for the headers of the weights, "
        "and it is what was sent."
    ),
    "jobs.ways": "Read by: {read}. Written by: {written}.",
    "jobs.open": "Open {name}",
    "jobs.saved": "Saved in {folder}",
    "jobs.log": "Log",
    "jobs.log.queued": "queued",
    "jobs.log.started": "started",
    "jobs.log.done": "done: {location}",
    "jobs.log.failed": "failed",
    "jobs.log.cancelled": "stopped",
    "jobs.lost": "A download that this browser remembers is gone: the server was restarted.",
    "jobs.linked": "Copied, if the browser allows: {link}",
    "jobs.pull_request": "Open pull request {number} of {name}",
    "jobs.compared": "Beside its parents: structure and size",
    "jobs.compared.structure": "Structure",
    "jobs.compared.bytes": "Weights",
    "jobs.compared.layers": "{count} layers",
    "jobs.card": "Its model card",
    # chat
    "chat.model": "Model",
    "chat.other": "Compare with",
    "chat.other.info": "Empty: one model alone.",
    "chat.third": "And with",
    "chat.third.info": "Empty: no third one.",
    "chat.info": "A result of yours, one of its parents, or any model on the Hub.",
    "chat.answers": "Answers of {name}",
    "chat.answers.none": "Answers",
    "chat.placeholder": "Choose a model above and ask it something.",
    "chat.prompt": "Your message",
    "chat.prompt.placeholder": "What is the capital of Italy?",
    "chat.send": "Send",
    "chat.stop": "Stop",
    "chat.clear": "Clear",
    "chat.settings": "Settings",
    "chat.system": "System prompt",
    "chat.temperature": "Temperature",
    "chat.temperature.info": "0: always the likeliest word.",
    "chat.top_p": "Top-p",
    "chat.top_p.info": "Draw from the likeliest tokens that make up this share.",
    "chat.reasoning": "Reasoning",
    "chat.length": "Longest answer, in tokens",
    "chat.seed": "Seed",
    "chat.seed.info": "The same seed gives the same answer.",
    "chat.loading": "loading the model",
    "chat.thinking": "reading your message",
    "chat.no_template": "no chat template: a plain User/Assistant script is used",
    "chat.speed": "{tokens} tokens, {rate:.1f} a second",
    "chat.length.reached": "cut at the longest answer",
    "chat.stopped": "stopped",
    "chat.failed": "No answer",
    "chat.no_model": "Choose a model first.",
    "chat.no_prompt": "Type a message first.",
    "chat.warning.empty": "The answer holds no word. A merge that answers so is likely to be broken.",
    "chat.warning.repeated": "The answer repeats itself. A merge that answers so may be broken: try other weights.",
    "chat.empty_answer": "(the model ended without a word)",
    "vote.left": "Left is better",
    "vote.tie": "As good",
    "vote.right": "Right is better",
    "vote.export": "Download my votes",
    "vote.none": "There are no two answers to the same message yet.",
    "vote.tally": "Your votes: {one}: {first}, {two}: {second}, as good: {ties}. They stay in this browser.",
    # score
    "score.models": "Models",
    "score.models.info": "Up to {most}: the merge and its parents, or any model on the Hub.",
    "score.text": "Text to read",
    "score.text.info": "The more text, the surer the numbers. Choose text that the models were not trained on.",
    "score.button": "Score",
    "score.stop": "Stop",
    "score.meaning": (
        "Perplexity says how surprised a model is by each token of the text: lower is better, 1 is no surprise. "
        "It compares models with the same tokenizer; bits per byte compares any. Neither says whether answers are "
        "right or pleasant."
    ),
    "score.model": "Model",
    "score.perplexity": "Perplexity",
    "score.bits": "Bits per byte",
    "score.tokens": "Tokens",
    "score.seconds": "Seconds",
    "score.caption": "Scores of {count} models on {bytes} of text; lower is better",
    "score.caption.one": "Score of one model on {bytes} of text; lower is better",
    "score.working": "reading",
    "score.waiting": "waiting",
    "score.stopped": "stopped",
    "score.failed": "not scored",
    "score.short": "Only {tokens} tokens: differences of a few percent mean nothing here. Paste a page or more.",
    "score.tokenizers": (
        "These models cut the text into different tokens, so their perplexities cannot be compared: "
        "compare bits per byte."
    ),
    "score.no_models": "Choose at least one model.",
    "score.too_many": "Choose at most {most} models.",
    "score.no_text": "Paste some text first.",
    "score.too_long": "The text has {length} characters; at most {most} can be scored here.",
    "score.where": "Where it ran: {where}.",
    "score.bundled.english": "English sample",
    "score.bundled.korean": "Korean sample",
    "score.file": "Open a text file",
    "score.dataset": "Or a data set on the Hub",
    "score.dataset.name": "Data set",
    "score.dataset.name.info": "owner/name; then the text above is not read.",
    "score.dataset.subset": "Configuration",
    "score.dataset.split": "Part",
    "score.dataset.column": "Column",
    "score.dataset.rows": "Rows",
    "score.cut": "Only the first {most} characters were read.",
    "score.bos.all": "Each document began with the BOS token.",
    "score.bos.none": "No BOS token: the first token of each document is given, not scored.",
    "score.bos.some": "BOS before each document, by the tokenizer's rule: {names}. Others score no first token.",
    "score.window": "Windows of {context} tokens, a new one every {stride}.",
    "score.difference.better": "{model} predicts this text better than {other}: {figures}.",
    "score.difference.worse": "{model} predicts this text worse than {other}: {figures}.",
    "score.difference.none": "{model} and {other}: no difference that this text can show ({figures}).",
    "score.difference.short": "Too little text to say whether {model} and {other} differ. Give a page or more.",
    "score.difference.outlier": "Too little text to say whether {model} and {other} differ: one document differs from "
    "all others and decides the result. Give 20 documents or more.",
    "score.detectable": "A text like this mostly shows differences of {value} and more.",
    "score.more": "About {count} more documents like these would show a difference of {value}.",
    "score.blocks": "Measured on {count} blocks of this text, so it holds for this text; only five documents or more "
    "(rows of a data set) speak for others like them.",
    "score.figures": "{value} bits per byte, 95 % interval {low} to {high}",
    "score.picture": "Where {model} differs from {other}, token by token",
    "score.picture.better": "{model} better",
    "score.picture.worse": "{model} worse",
    "score.picture.scale": "the deeper, the more bits; point at a piece for its number",
    "score.picture.cut": "The first {count} characters of {total}.",
    "score.picture.bits": "{bits} bits",
    "score.benchmarks": "Ask benchmarks",
    "score.chat": "Check the answers",
    "score.weights": "Look at the weights",
    "score.sizes": "Compare size and speed",
    "score.compare": "Measure",
    "score.compare.info": (
        "File size, structure, memory, time to load and to answer, and whether each model answers with all others out "
        "of reach."
    ),
    "score.compare.caption": "Each model alone in a process of its own, on this machine's processor",
    "score.compare.working": "Measuring {name} ...",
    # benchmarks
    "check.meaning": (
        "The same {count} questions to every model above, half of them in English and half in Korean, each answered "
        "with the likeliest words. Plain rules count what is wrong, and no model judges. Empty: no letter, digit or "
        "emoji. Repeated: words or characters repeat in a row, or most runs of four words occur more than once. Cut: "
        "not finished after {tokens} tokens. Wrong language: a good part is neither in the language of the question "
        "nor in one that it names."
    ),
    "check.button": "Let them answer",
    "check.caption": "Faults in {count} answers of each model; fewer is better",
    "check.fault.empty": "Empty",
    "check.fault.repeated": "Repeated",
    "check.fault.cut": "Cut",
    "check.fault.wrong_language": "Wrong language",
    "check.answers": "The answers of {model}",
    "benchmark.meaning": (
        "Questions with known answers, asked by lm-eval of every model above; the first is compared with each of the "
        "others on the same questions."
    ),
    "benchmark.tasks": "Benchmarks",
    "benchmark.tasks.info": "Of KMMLU and HAE-RAE, each subject is a task.",
    "benchmark.limit": "Questions of each task",
    "benchmark.limit.info": "The first so many; 0 asks all.",
    "benchmark.how": "How it is asked",
    "benchmark.few_shot": "Solved examples before each question",
    "benchmark.few_shot.info": "Empty: the task's own number.",
    "benchmark.template": "As a conversation",
    "benchmark.template.info": "In each model's own chat template.",
    "benchmark.button": "Ask",
    "benchmark.none": "Choose at least one benchmark.",
    "benchmark.answered": "{done} of {total} answered",
    "benchmark.caption": "Scores with their standard errors on {count} questions; higher is better",
    "benchmark.caption.waiting": "Scores appear when a model has answered all of its questions",
    "benchmark.how.said": "Asked by lm-eval {version}. What a model has answered is kept, and not asked again.",
    "benchmark.figures": "{value} on {count} questions, 95 % interval {low} to {high}",
    "benchmark.pair.few": "{count} questions are too few to compare {model} with {other}.",
    "benchmark.pair.none": "{model} and {other}: no difference that these questions can show ({figures}).",
    "benchmark.pair.higher": "{model} scores higher than {other}: {figures}.",
    "benchmark.pair.lower": "{model} scores lower than {other}: {figures}.",
    "benchmark.pair.metric.higher": "{model} has a higher {metric} than {other}: {figures}.",
    "benchmark.pair.metric.lower": "{model} has a lower {metric} than {other}: {figures}.",
    "benchmark.pair.whole": "{metric} is computed over all questions at once, so {model} and {other} are not compared "
    "question by question.",
    "benchmark.detectable": "So many questions mostly show differences of {value} and more.",
    "benchmark.more": "About {count} more questions like these would show a difference of {value}.",
    "benchmark.left_out": "Not means over questions, and not compared here: {metrics}.",
    "benchmark.parts": "The {count} tasks of {model}",
    "benchmark.task": "Task",
    "benchmark.score": "Score",
    "benchmark.questions": "Questions",
    # weights
    "weights.meaning": (
        "Reads the first model's weights beside those of the others, without running any: how far each tensor is from "
        "theirs, and what looks wrong. No figure here says how good a model is."
    ),
    "weights.more": "Base model and more",
    "weights.base": "Base model",
    "weights.base.info": "What the others were fine-tuned from: then their changes are compared with each other too.",
    "weights.amount": "How much is read",
    "weights.amount.quick": "a little of each tensor",
    "weights.amount.slow": "a million weights of each",
    "weights.amount.all": "everything",
    "weights.activations": "Run the models too",
    "weights.activations.info": "On the text above, and compare their states layer by layer (linear CKA).",
    "weights.activations.working": "Running the models ...",
    "weights.button": "Look",
    "weights.opening": "Reading headers ...",
    "weights.reading": "{done} of {total} tensors",
    "weights.signal": "Signal",
    "weights.signal.change": "Size of the change, as a share of the parent",
    "weights.signal.cosine": "Cosine with the parent",
    "weights.signal.effective_rank": "Effective rank of the change",
    "weights.signal.energy": "Energy of the change in its 64 leading directions",
    "weights.signal.parents_cosine": "Cosine between parents",
    "weights.signal.task_cosine": "Cosine between the parents' changes",
    "weights.signal.sign_conflict": "Share of weights that the parents change in different directions",
    "weights.signal.overlap": "Overlap of the leading directions of the parents' changes",
    "weights.signal.norm": "Norm of the weights read",
    "weights.signal.dead_rows": "Rows of zeros",
    "weights.signal.spoilt": "NaN and Inf",
    "weights.against": "Against",
    "weights.pair": " and ",
    "weights.cka": "Linear CKA of the states, layer by layer, at {count} places of the text",
    "weights.sound": "{model} looks sound",
    "weights.sound.so_far": "What was read of {model} looks sound",
    "weights.unsound": "Something is wrong with {model}",
    "weights.duplicates": "The same numbers twice: {names}.",
    "weights.lacking": "Not compared with {model}, which has no such tensor of that shape: {count}.",
    "weights.share": "From samples: of the largest tensor {share} was read.",
    # results to take home
    "home.heading": "What was found of {model}",
    "home.kinds": "Results",
    "home.kind.text": "Perplexity",
    "home.kind.benchmarks": "Benchmarks",
    "home.kind.chat": "Chat checks",
    "home.kind.weights": "Weights",
    "home.kind.sizes": "Size and speed",
    "home.take": "Copy or download: Markdown and JSON",
    "home.markdown": "The chosen results as Markdown",
    "home.copy.markdown": "Copy Markdown",
    "home.copy.json": "Copy JSON",
    "home.download.markdown": "Download Markdown",
    "home.download.json": "Download JSON",
    "home.way": "Into the model's card",
    "home.way.info": "Perplexity and benchmarks as the Hub's own metadata, all as text. What others wrote there stays.",
    "home.commit": "at once",
    "home.pull_request": "as a pull request",
    "home.write": "Write into the card",
    "home.written": "Written into the card",
    "home.proposed": "Proposed to the model's owner",
    "home.nobody": "Sign in with Hugging Face first: the card is written in your name.",
    # the GPU
    "gpu.asked": "{seconds} s of GPU asked for",
    "gpu.refused": "on the processor, which is slower: {reason}",
    "gpu.quota": "today's GPU quota is used up",
    "gpu.quota.until": "today's GPU quota is used up, more in {time}",
    "gpu.too_long": "this needs more GPU time than one request may ask for",
    "gpu.none_free": "no GPU is free now",
    "gpu.ended": "The GPU was taken away before this was done ({reason}). Try again, or ask for less at a time.",
    "gpu.quota.left": "GPU quota: {left} of {base} s left today.",
    "gpu.quota.renewed": "GPU quota: {left} of {base} s left, whole again at {time} UTC.",
    # results in memory and as files
    "try.button": "Try it first",
    "try.info": "Merges into memory and opens the chat; nothing is saved.",
    "try.gone": "This trial has ended: it was not used for a while, or others needed the memory.",
    "try.gone.fix": "Press 'Try it first' again.",
    "tune.which": "A number of the recipe",
    "tune.which.info": "Turn it: the models are merged anew in memory, and your last message is answered again.",
    "tune.value": "Its value",
    "tune.again": "Merge and answer again",
    "tune.use": "Use in the recipe",
    "tune.first": "as tried first",
    "tune.ask": "Merged with {values}. Now ask it something.",
    "tune.heard": "Answers to “{message}”, by the values they were merged with",
    "tune.elsewhere": (
        "The recipe on the Merge tab is another one by now, and was left alone. Write it there yourself: {values}"
    ),
    # methods
    "page.tab.methods": "Methods",
    "methods.method": "Method",
    "methods.meaning": "What it does",
    "methods.parameters": "Parameters",
    "methods.all": "All methods",
    "methods.scene": "Three fine-tunes that",
    "methods.scene.info": "Each model here is two numbers, a point in the plane; what happens is the same in millions.",
    "methods.scene.agree": "agree",
    "methods.scene.disagree": "disagree",
    "methods.scene.turned": "point far apart",
    "methods.value": "Value",
    "methods.of": "{name} of {model}",
    "methods.base.subtracted": "Works on what each model changed: takes the base off, and adds it again.",
    "methods.base.first": "The first model is the base.",
    "methods.base.optional": "Takes a base model or none; with one, works on what each model changed.",
    "methods.base.ordinary": "Needs no base model.",
    "methods.count.one": "Number of models: {count}.",
    "methods.count.up": "Number of models: {low} or more.",
    "methods.count.range": "Number of models: {low} to {high}.",
    "methods.random": "Draws at random; the recipe's `seed` decides, so that the same recipe gives the same bytes.",
    "methods.required": "has to be given",
    "methods.optional": "may be left out",
    "methods.default": "by default {value}",
    "methods.expects.bool": "true or false",
    "methods.expects.choice": "one of {choices}",
    "methods.expects.number": "a number",
    "methods.expects.number.range": "a number from {low} to {high}",
    "methods.expects.integer": "a whole number",
    "methods.expects.integer.range": "a whole number from {low} to {high}",
    "methods.each": "One for each model.",
    "methods.symbols": (
        "θ: the result; θ₀: the base; θᵢ: the models; δᵢ = θᵢ − θ₀; wᵢ: weight; λ: lambda; d: density; δ̂: "
        "what is left of δ. Entry by entry."
    ),
    "methods.mergekit": "Recipe",
    "methods.mergekit.yes": "as in mergekit",
    "methods.mergekit.no": "Alloy's own",
    "methods.recipe.same": "The same name and parameters as in mergekit 0.1.5.",
    "methods.recipe.own": "Alloy's own: mergekit 0.1.5 has no such method.",
    "methods.recipe.more": "Not read by mergekit:",
    "methods.recipe.idle": "Taken, as mergekit takes it, and without effect:",
    "methods.point.base": "base",
    "methods.drawing": "The result lies at {where}",
    "methods.legend": "The filled circle is the result, made by the same code that merges models.",
    "methods.legend.random": "{count} draws, made by the same code that merges models.",
    "methods.legend.way": "The line is its way as {name} goes from {low} to {high}.",
    # anywhere
    "unexpected": "Something failed inside Alloy: {error}",
    # units
    "unit.second": "{value} s",
    "unit.minute": "{value} min",
    "unit.hour": "{value} h",
}


LANGUAGES = {"en": ENGLISH, "ko": KOREAN}
# Set while something is said in each language in turn.
_language: ContextVar[str | None] = ContextVar("language", default=None)


class Said(str):
    """A text in English that knows what it is in the other languages."""

    translations: dict[str, str]

    def __str__(self) -> str:
        return self  # components make texts of their values, and would lose the translations


def t(key: str, **values: object) -> str:
    """The sentence for a key, with its values filled in."""
    wanted = language()
    if wanted is None:
        return in_each_language(lambda: t(key, **values))
    text = LANGUAGES[wanted].get(key) or ENGLISH[key]
    return text.format(**values) if values else text


def of_registry(sentence: str) -> str:
    """What the registry of methods says of a method or a parameter, in the visitor's language."""
    return _in_tongue(sentence, lambda: KOREAN_METHODS[sentence])


def of_report(cell: str) -> str:
    """A cell of the report on sizes, or what a benchmark asks, in the visitor's language; numbers as they are."""
    return _in_tongue(cell, lambda: KOREAN_REPORT.get(cell, cell))


def _in_tongue(english: str, korean: Callable[[], str]) -> str:
    """What stands in English elsewhere, in the visitor's language; while the page is built, in each."""
    wanted = language()
    if wanted is None:
        return in_each_language(lambda: _in_tongue(english, korean))
    return korean() if wanted == "ko" else english


def of_problem(code: str) -> str:
    """What an engine's problem is, for who does not read its English; empty for who does, and for our own problems."""
    return KOREAN_PROBLEMS.get(code, "") if language() == "ko" else ""


def language() -> str | None:
    """Of the request that is being answered; None while the page is built, for everybody."""
    if wanted := _language.get():
        return wanted
    request = LocalContext.request.get(None)
    if request is None:
        return None
    return spoken(str(request.headers.get("accept-language") or ""))


def spoken(asked: str) -> str:
    """Of the languages here, the one that a browser's `accept-language` asks for."""
    # The first alone: Gradio's own words in the browser go by that.
    tag = asked.partition(",")[0].partition(";")[0].partition("-")[0].strip().lower()
    return tag if tag in LANGUAGES else "en"


@contextmanager
def speaking(name: str | None) -> Iterator[None]:
    """Say everything in one language, whatever the request asks for; None changes nothing."""
    token = _language.set(name)
    try:
        yield
    finally:
        _language.reset(token)


def in_each_language(make: Callable[[], str]) -> str:
    """What `make` says, with its translations; in the visitor's language alone where there is a visitor."""
    if language() is not None:
        return make()
    translations = {}
    for name in LANGUAGES:
        with speaking(name):
            translations[name] = str(make())
    said = Said(translations["en"])
    said.translations = translations
    return said


# Properties of components that the browser translates.
_SPOKEN = ("label", "info", "placeholder")
_SPOKEN_VALUES = (gr.Button, gr.UploadButton, gr.DownloadButton, gr.HTML)


def translated(page: gr.Blocks) -> gr.I18n:
    """Let the browser say every text of a page in its language.

    Returns:
        What `launch` has to be given.
    """
    tables: dict[str, dict[str, str]] = {name: {} for name in LANGUAGES}

    def marked(text: object) -> object:
        if not isinstance(text, Said):
            return text
        key = f"alloy.{len(tables['en'])}"
        for name, translation in text.translations.items():
            tables[name][key] = translation
        return gr.i18n.I18nData(key)

    for block in page.blocks.values():
        for name in (*_SPOKEN, *(["value"] if isinstance(block, _SPOKEN_VALUES) else [])):
            if isinstance(getattr(block, name, None), Said):
                setattr(block, name, marked(getattr(block, name)))
        if isinstance(choices := getattr(block, "choices", None), list):
            choices[:] = [(marked(said), value) for said, value in choices]
    return gr.I18n(**tables)
