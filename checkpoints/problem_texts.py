"""The words of every problem, in English: what a code and its values say, and what to do about it.

A template names its values in braces (see `wording`). Each code has one message; where there is more than one, the
first is used whose values are all given. Other languages have tables of the same form in `ui/languages`.
"""

from __future__ import annotations

from typing import NamedTuple

from checkpoints.wording import Template, Wording


class Text(NamedTuple):
    """What a problem says, and what to do next; the latter is empty where the message says it all."""

    message: Template
    fix: Template = ""


_MEANT = ("Did you mean '{near}'?", "Known: {known:plain}.")
_ALL_LAYERS = "Merge all layers, in their order."
_DOWNLOAD_AGAIN = "Download or upload it again."
_CONVERT = "Convert it at https://huggingface.co/spaces/safetensors/convert first."
_MERGE_WITH_PEFT = "Merge it into its base with PEFT (`PeftModel.merge_and_unload`), and name the result."
_GROWN_BASE = "Name the base with the grown vocabulary that it was trained on."
_TRAINED_ON = ("It says that it was trained on {trained_on}.", "Name the base that it was trained on.")
_SAVE_AS_FAST = (
    "Save its tokenizer once as a fast one (`AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER)`), and put "
    "tokenizer.json beside the weights."
)
_NO_DISK = "Make room, or merge to the Hub (`hf://owner/name`), which needs no disk space."
_WHOLE_NUMBER = "Write a whole number, 0 or more."
_NAME_ORIGINAL = "Name {original} instead, which has the full precision."
_NAME_UNQUANTIZED = (_NAME_ORIGINAL, "Name the model that it was made from, in bfloat16, float16 or float32.")

PROBLEMS: dict[str, Text] = {
    # models: where they are
    "no-folder-or-model-id": Text(
        "'{given}' is neither a folder here nor a model's id.", "Write `owner/name`."
    ),
    "no-model-id": Text("'{given}' is not a model's id.", "Write `owner/name`."),
    "model-not-found": Text(
        "{model} was not found on {host}, or this login has no access to it.",
        (
            "Did you mean {similar}?",
            "Check the spelling. If the model is private, sign in with an account that may read it.",
        ),
    ),
    "no-revision": Text(
        "{model} has no revision '{revision}'.", "Name one of its branches, tags or commits."
    ),
    "no-part": Text(
        "{model} has nothing at '{place}'.", ("Its folders: {folders:all}.", "It has no folders.")
    ),
    "gated": Text(
        "{model} is gated, and this login has no access.",
        "Accept its terms on {page} and sign in with that account.",
    ),
    "access-lost": Text(
        "{model} can no longer be read with this login (status {status}).",
        "The token was revoked or has expired, or the model is gone. Sign in and start again.",
    ),
    "hub-silent-for": Text(
        "The Hub did not answer for {model} ({error}).", "Check the connection and try again."
    ),
    "unreadable": Text(
        "Bytes {start} to {end} of {file} could not be read ({reason}).",
        (
            "The host asks you to wait {seconds:.0f} {seconds:second|seconds}. Try again later.",
            "Try again. If it keeps failing, check the model's page.",
        ),
    ),
    "not-cached": Text(
        (
            "Revision '{revision}' of {model} is not in the Hugging Face cache, and HF_HUB_OFFLINE is set.",
            "{model} is not in the Hugging Face cache, and HF_HUB_OFFLINE is set.",
        ),
        "Run `hf download {model}`, or unset HF_HUB_OFFLINE.",
    ),
    "file-not-cached": Text(
        "{file} of {model} cannot be read from the Hugging Face cache, and HF_HUB_OFFLINE is set.",
        "Run `hf download {model}`, or unset HF_HUB_OFFLINE.",
    ),
    "cache-closed": Text(
        "{model} is in the cache of this server, and the Hub cannot be asked who may read it.",
        "Unset HF_HUB_OFFLINE.",
    ),
    "file-cut-short": Text(
        "{file} is too short: bytes {start} to {end} were expected.", "Copy or download it again."
    ),
    "unknown-format": Text(
        "{file} is in no format that can be read ({known:all}).", "Name a file of weights."
    ),
    "store-refused": Text(
        "Addresses that begin with {scheme} cannot be used on this server.",
        "Use a model on the Hub, or run Alloy on a machine of your own.",
    ),
    "store-address": Text(
        "What begins with {scheme} here is not an address in an object store.",
        "Write {scheme}bucket/path. Credentials belong in the environment, not into the address.",
    ),
    "no-address": Text(
        (
            "'{given}' is not an address in a bucket of the Hub.",
            "The bucket is missing.",
        ),
        "Write `hf://buckets/owner/name`, with a folder behind it if you like.",
    ),
    "no-address-here": Text(
        (
            "'{given}' is not an address in a bucket or an object store.",
            "The bucket is missing.",
        ),
        "Write `hf://buckets/owner/name`, or `s3://bucket/path` (also `gs://`, `az://`).",
    ),
    "bucket-address": Text(
        "'{given}' is not an address in a bucket of the Hub.",
        "Write `hf://buckets/owner/name`, and a folder behind it. Buckets have no revisions.",
    ),
    "stores-not-installed": Text(
        "Addresses that begin with {scheme} need the package obstore, which is not installed.",
        "Run `pip install 'alloy-merge[stores]'`.",
    ),
    "store-unreadable": Text(
        "{address} cannot be read ({reason}).",
        "Check the bucket's name, and the credentials, region and endpoint in the environment.",
    ),
    "not-in-store": Text("There is nothing at {address}.", "Check the spelling."),
    # models: what is in them
    "large-file": Text(
        "{file} has {size} bytes; a file beside the weights is expected to be small.",
        "Does it hold weights under another name?",
    ),
    "not-json": Text("{file} of {model} is not JSON ({error}).", "Repair the model's repository."),
    "no-config": Text("{model} has no config.json.", "Name a transformers model."),
    "damaged-config": Text("config.json of {model} is not a mapping.", "Repair the model's repository."),
    "count-beyond-weights": Text(
        "config.json of {model} says {key}: {count}, and its weights have {tensors} {tensors:tensor|tensors}.",
        "Repair the model's config.",
    ),
    "frequencies-beyond-weights": Text(
        "config.json of {model} asks for {count} rotary frequencies, and the keys of its weights have {rows} rows.",
        "Repair the model's config.",
    ),
    "adapter": Text(
        "{adapter} is an adapter, not a whole model.",
        ("Write `{base}+{adapter}`.", "Write `BASE+{adapter}`."),
    ),
    "pickle-only": Text("{model} has its weights in pickles that are not called {file}.", _CONVERT),
    # GGUF files that are made
    "gguf-not-installed": Text(
        "GGUF files need the package {package}, which is not installed.",
        "Run `pip install 'alloy-merge[gguf]'`.",
    ),
    "gguf-twice": Text(
        "The packages {package} and {converter} are both installed. Both bring a module `gguf`, and one has "
        "overwritten the other's.",
        "Run `pip uninstall {package}`, then `pip install --force-reinstall --no-deps {converter}`.",
    ),
    "gguf-no-quantizer": Text(
        "The types {types:all} need the package libgguf, which is not installed.",
        "Run `pip install 'alloy-merge[gguf]'`, or choose BF16, F16 or Q8_0.",
    ),
    "gguf-needs-importance": Text(
        "{type} needs an importance matrix, which Alloy does not compute.", "Choose one of {known:all}."
    ),
    "gguf-unknown-type": Text("Alloy makes no GGUF files of type '{type}'.", _MEANT),
    "gguf-no-type": Text("No type of GGUF file is given.", "Choose one of {known:all}."),
    "gguf-unknown-architecture": Text(
        "{model}: llama.cpp's converter does not know the architecture {architecture}.",
        "Leave the GGUF files out.",
    ),
    "gguf-unknown-tensor": Text(
        "{model}: llama.cpp's converter does not know the tensor {tensor}.", "Leave the GGUF files out."
    ),
    "gguf-unknown-pre-tokenizer": Text(
        "{model}: llama.cpp's converter does not recognize how the tokenizer splits texts, and no model that was "
        "merged splits them in a way that it does.",
        "Use the tokenizer of one of the models, unchanged or with added tokens.",
    ),
    "gguf-cannot-convert": Text(
        "{model}: llama.cpp's converter failed ({error}).", "Leave the GGUF files out."
    ),
    "gguf-limit": Text(
        "{model}: laying out the GGUF files took more than {seconds} s of processor time or {memory:.0f} GB of memory.",
        "Leave the GGUF files out.",
    ),
    "gguf-lost": Text(
        "{name}: a GGUF file did not arrive.", "Run it again: files that arrived are not made again."
    ),
    # GGUF files that are read
    "damaged-gguf": Text(
        "{file} is no GGUF file that can be read, or it is damaged: {error}.", _DOWNLOAD_AGAIN
    ),
    "several-gguf": Text(
        "{model} has several models in GGUF files: {files:few}.",
        "Name one of them. The largest, which lost least, is `{model}/{file}`.",
    ),
    "gguf-not-understood": Text(
        "{model}: {file} cannot be read as a model of transformers: {error}.",
        (_NAME_ORIGINAL, "Name the model that it was made from."),
    ),
    "gguf-tokenizer": Text(
        "{model}: its tokenizer cannot be rebuilt from its GGUF file, which calls it {kind}.",
        "Take the tokenizer of another model: `tokenizer: {{source: MODEL}}`.",
    ),
    "no-weights": Text("{model} has no weights that can be read.", "Name a model with model.safetensors."),
    "missing-shard": Text(
        "{index} of {model} names {file}, which is missing.",
        "The model is incomplete: its author has to upload the file, or you have to download it.",
    ),
    "missing-part": Text(
        "{model} has numbered files of weights, of which {file} is missing, and no {index}.",
        "The model is incomplete: its author has to upload the files, or you have to download them.",
    ),
    "lfs-pointer": Text(
        "{file} only stands for a file that Git LFS has not downloaded.",
        "Run `git lfs pull` in its folder, or `hf download` its model.",
    ),
    "header-length": Text(
        "{file} is damaged: its header would be {length} bytes long, in a file of {size}.", _DOWNLOAD_AGAIN
    ),
    "header-unreadable": Text("{file} is damaged: its header cannot be read ({error}).", _DOWNLOAD_AGAIN),
    "header-entry": Text(
        "{file} is damaged: its header describes {tensor} by something else than a dtype, sizes and two offsets.",
        _DOWNLOAD_AGAIN,
    ),
    "tensor-limits": Text(
        "{file} cannot be read: {tensor} is too large, has more than 16 axes ({axes}), or its name is not text of up "
        "to 256 characters.",
        "Save it again with the safetensors library.",
    ),
    "too-many-tensors": Text(
        "{model} cannot be read: its files describe more than {most:,} tensors.",
        "Save it again in fewer tensors.",
    ),
    "long-header": Text(
        "{file} cannot be read: its header has more entries than a model of {most:,} tensors needs.",
        "Save it again in fewer tensors.",
    ),
    "large-headers": Text(
        "{model} cannot be read: the headers of its files have more than {most:,} bytes together.",
        "Save it again with the safetensors library.",
    ),
    "header-gap": Text(
        "{file} is damaged: the bytes of {tensor} do not follow those before it.", _DOWNLOAD_AGAIN
    ),
    "header-tensor-size": Text(
        "{file} is damaged: {tensor} has {bytes} bytes for shape {shape}.", _DOWNLOAD_AGAIN
    ),
    "header-file-size": Text(
        "{file} is damaged: it has {size} bytes where its header says {end}.", _DOWNLOAD_AGAIN
    ),
    # pickles, which are read and never run
    "pickle-big-endian": Text(
        "{file} cannot be read without running it: its numbers are big-endian.", _CONVERT
    ),
    "pickle-not-whole": Text(
        "{file} cannot be read without running it: it is not a whole file of torch.save.", _CONVERT
    ),
    "pickle-no-names": Text(
        "{file} cannot be read without running it: its pickle holds no tensors by name.", _CONVERT
    ),
    "pickle-no-tensor": Text(
        "{file} cannot be read without running it: {name} in it is not a tensor.", _CONVERT
    ),
    "pickle-view": Text(
        "{file} cannot be read without running it: {tensor} in it is not contiguous, but a view of rows or columns "
        "of another tensor.",
        _CONVERT,
    ),
    "pickle-bytes-missing": Text(
        "{file} cannot be read without running it: the bytes of {tensor} are not in it.", _CONVERT
    ),
    "pickle-old": Text(
        "{file} cannot be read without running it: its form is older than torch 1.6, or it was cut short.",
        f"Save it again with a newer torch. {_CONVERT}",
    ),
    "pickle-compressed": Text(
        "{file} cannot be read without running it: {name} in it is compressed or encrypted.", _CONVERT
    ),
    "pickle-damaged": Text(
        "{file} cannot be read without running it: its pickle is damaged ({error}).", _CONVERT
    ),
    "pickle-endless": Text(
        "{file} cannot be read without running it: its pickle is damaged, with no end.", _CONVERT
    ),
    "pickle-place": Text(
        "{file} cannot be read without running it: its pickle is damaged (the place of a tensor makes no sense).",
        _CONVERT,
    ),
    "pickle-type": Text(
        "{file} cannot be read without running it: its pickle is damaged (a {found} where a {expected} belongs).",
        _CONVERT,
    ),
    "pickle-operation": Text(
        "{file} cannot be read without running it: its pickle holds more than tensors: it asks for the operation "
        "{name}.",
        _CONVERT,
    ),
    "pickle-import": Text(
        "{file} cannot be read without running it: its pickle holds more than tensors: it asks for {name}.",
        _CONVERT,
    ),
    "pickle-reference": Text(
        "{file} cannot be read without running it: its pickle holds more than tensors: it refers to a {name}.",
        _CONVERT,
    ),
    "pickle-call": Text(
        "{file} cannot be read without running it: its pickle holds more than tensors: it calls {name}.",
        _CONVERT,
    ),
    # adapters
    "no-adapter-config": Text("The adapter {adapter} has no {file}.", "Name an adapter as PEFT saves it."),
    "adapter-is-model": Text(
        "The adapter {adapter} has no {file}.",
        "It is a whole model: give it an entry of its own under `models:`.",
    ),
    "damaged-adapter-config": Text(
        "The adapter {adapter} has a {file} that is not a mapping.", "Repair its repository."
    ),
    "adapter-without-weights": Text(
        "The adapter {adapter} has no {file}.", "Its upload is incomplete; tell its author."
    ),
    "adapter-factor": Text("The adapter {adapter} has only one factor for {module}.", _DOWNLOAD_AGAIN),
    "adapter-tokens": Text("The adapter {adapter} names tokens that are not numbers.", "Repair its config."),
    "adapter-kind": Text(
        "The adapter {adapter} is of the kind {kind}, not one of {known:all}.", _MERGE_WITH_PEFT
    ),
    "adapter-never-merges": Text(
        (
            "The adapter {adapter} ({kind} with {options:all}) steers its base by the input, which no change of "
            "weights does.",
            "The adapter {adapter} ({kind}) steers its base by the input, which no change of weights does.",
        ),
        "It cannot be merged, by PEFT neither. Merge its base without it, and load the adapter beside the result.",
    ),
    "adapter-changes-base": Text(
        "The adapter {adapter} began as `init_lora_weights: {init}`, which changes the weights of its base.",
        _MERGE_WITH_PEFT,
    ),
    "adapter-options": Text(
        "The adapter {adapter} uses {options:all}, which cannot be applied to tensors one by one.",
        _MERGE_WITH_PEFT,
    ),
    "adapter-tensor": Text("The adapter {adapter} holds {tensor}, which is unknown.", _MERGE_WITH_PEFT),
    "adapter-pattern": Text(
        "The adapter {adapter} has the entry '{pattern}' in its {option}, which cannot be used ({error}).",
        _MERGE_WITH_PEFT,
    ),
    "adapter-brings-head": Text(
        "{adapter} brings {tensors:few}, which {base} does not have. The result is a {kind}, as in training."
    ),
    "adapter-option": Text(
        "The config of the adapter {adapter} has {option}: {value}, where {expected:phrase} is expected.",
        "Save the adapter again with PEFT.",
    ),
    "adapter-modules": Text(
        "{adapter} changes modules that {base} does not have: {modules:few}.", _TRAINED_ON
    ),
    "adapter-misfit": Text("{adapter} does not fit {base}: {misfits:few}.", _TRAINED_ON),
    "adapter-empty": Text(
        "{adapter} changes nothing: it holds no weights that are known.", "Name an adapter as PEFT saves it."
    ),
    "adapter-rows": Text(
        "{adapter} trains token {token}, the base has {tokens} tokens, and no model has rows for the {count} "
        "{count:token|tokens} between, such as {first}.",
        _GROWN_BASE,
    ),
    "adapter-vocabulary": Text("With {adapter} the vocabulary has two sizes: {sizes:and} rows.", _GROWN_BASE),
    "adapter-bias": Text(
        "{adapter} adds a bias to {module}, which has none in the base.",
        "It cannot be merged. Train it without `lora_bias`, or keep it as an adapter.",
    ),
    "other-base": Text(
        "{adapter} says that it was trained on {trained_on}, not on {base}.",
        "Its tensors fit; make sure that the models belong together.",
    ),
    "adapter-without-tokenizer": Text(
        "{adapter} has rows for new tokens, but no tokenizer that knows them.",
        "Name a model whose tokenizer does with `tokenizer_source:`.",
    ),
    # recipes: their text
    "too-long": Text(
        "The text has {count:,} characters; up to {most:,} are read.", "A recipe is a page of text."
    ),
    "too-many-values": Text(
        "The text stands for more than {most:,} values, counting what its aliases repeat.",
        "Use fewer aliases.",
    ),
    "too-many-recipes": Text("This server is busy with other long recipes.", "Try again in a few seconds."),
    "too-deep": Text("The text is nested more than {most} levels deep.", "Close the brackets before."),
    "endless-alias": Text("The alias '*{name}' is inside what it names.", "Write the value out."),
    "yaml-tag": Text("The tag '{tag}' is not read.", "Write the value without it."),
    "yaml": Text("This is not YAML: {error}.", "Check the indentation, colons and brackets there."),
    "empty": Text("The recipe is empty.", "Start with `merge_method:` and `models:`."),
    "not-a-mapping": Text(
        "Expected {what:phrase} as `key: value` lines; found {found:phrase}.",
        ("Keys: {known:all}.", "Write one `name: value` a line."),
    ),
    "not-a-list": Text(
        "`{name}` must be a list with at least one entry; found {found:phrase}.",
        "Write each entry after a dash.",
    ),
    "not-text": Text("Expected {what:phrase}; found {found:phrase}.", "Write it as text."),
    "key": Text("A key must be a word."),
    "repeated-key": Text("'{name}' is given twice in {what:phrase}.", "Keep one of them."),
    "unknown-key": Text("Unknown key '{name}' in {what:phrase}.", _MEANT),
    "anchor-key": Text("'{name}' only holds anchors, which other parts of the recipe use; it is ignored."),
    "ignored-key": Text("'{name}' in {what:phrase} changes nothing in the result; it is ignored."),
    "misplaced-key": Text(
        "'{name}' in {what:phrase} would be ignored: a recipe has it once, at the top.",
        "Move it to the top of the recipe.",
    ),
    "misplaced-parameter": Text(
        "'{name}' in {what:phrase} would be ignored: it is a parameter of the method.",
        "Move it under `parameters:`.",
    ),
    "revision-beside-model": Text(
        "`revision` beside `model` would be ignored.", "Write `model: owner/name@revision`."
    ),
    "adapter-beside-model": Text(
        "`{name}` beside `model` would be ignored.", "Write `model: owner/name+owner/adapter`."
    ),
    "other-program": Text(
        "`{key}` makes this a recipe for {program}, which does something else.",
        "A recipe for Alloy begins with `merge_method:`.",
    ),
    "repeated-name": Text("Two recipes are called '{name}'.", "Give each its own `name:`."),
    "nameless-recipes": Text(
        "Of several recipes only the last in the chain may be without a name.", "Give the others a `name:`."
    ),
    "circle": Text("Recipes use each other in a circle: {chain}.", "One of them has to come first."),
    "unused-merge": Text(
        "Nothing uses the merge '{name}'.", "Name it as a model, or move it to its own file."
    ),
    # recipes: mixtures of experts
    "mixture-without-base": Text(
        "A mixture of experts needs a base model, for attention, embeddings and norms.", "Add `base_model:`."
    ),
    "no-experts": Text("The recipe lists no experts.", "Add `experts:`, a list of models."),
    "no-source-model": Text("An expert names no model.", "Add `source_model:`."),
    "too-many-experts": Text("{count} experts; at most {most} are possible.", "Leave some out."),
    "unknown-choice": Text("`{key}` cannot be '{name}'.", _MEANT),
    "experts-per-token": Text("`experts_per_token` is {found:phrase}.", "Write a whole number, 1 or more."),
    "more-than-experts": Text(
        "`experts_per_token` is {given}, but there {count:is one expert|are {count} experts}.",
        "Write at most the number of experts.",
    ),
    "shared-experts": Text(
        "{count} shared experts; no architecture that is offered has more than one.", "Keep one of them."
    ),
    "expert-number": Text(
        "`{key}` is {found:phrase}.", "Write a finite number (`noise_scale` cannot be negative)."
    ),
    "expert-without-prompts": Text(
        "The expert {model} has no `positive_prompts`, which `gate_mode: {mode}` needs.",
        "List texts of the kind that should reach it, or choose `gate_mode: random`.",
    ),
    "too-many-prompts": Text("{count} prompts; at most {most} are read.", "Leave some out."),
    "same-prompts": Text(
        "{models:and} have the same positive prompts, so nothing tells them apart.",
        "Give each expert prompts of its own.",
    ),
    # recipes: their fields
    "no-method": Text("The recipe names no merge method.", "Add `merge_method:`, one of {known:all}."),
    "unknown-method": Text("There is no merge method '{name}'.", _MEANT),
    "models-or-slices": Text(
        "{what:phrase} has only one of {known:code}; this one has {given:code}.", "Keep one of them."
    ),
    "no-models": Text("{what:phrase} names no models.", "Add a list `models:` (or `slices:` for layers)."),
    "no-modules": Text("`modules` names no module.", "Write `name:`, and `models:` or `slices:` below it."),
    "no-model": Text("This entry names no model.", "Add `model: owner/name`."),
    "no-path": Text("This model has no `path`.", "Add `path: owner/name`."),
    "model-name": Text(
        "'{given}' is not a model's name.",
        "Write `owner/name`, `owner/name@revision` or a folder, with `+` before each adapter.",
    ),
    "lora-or-adapters": Text(
        "A model has either `lora` or `adapters`; this one has both.", "Put them into one list `adapters:`."
    ),
    "several-adapters": Text(
        "'{given}' is more than one adapter.", "Give each its own entry under `adapters:`."
    ),
    "scale": Text(
        "`scale` must be a number; found {found:phrase}.",
        "1 applies the adapter as it was trained, 0.5 half of it.",
    ),
    "no-base": Text("{title} ({method}) needs a base model, and the recipe has none.", "Add `base_model:`."),
    "slice-without-base": Text(
        "{title} needs a base model, and this slice has none.",
        "Add `base_model:` to the slice, or to the recipe for all slices.",
    ),
    "base-not-in-slice": Text(
        "The base model {base} is not among the sources of this slice.",
        "Add it to the sources, with the layers it gives.",
    ),
    "adapter-on-base": Text(
        "{title} merges what models changed of the base, and here is only the base itself ({base}).",
        "To merge {adapters:and} into its base, write `merge_method: passthrough`; to change another model with it, "
        "name the base without it as `base_model`.",
    ),
    "number-of-models": Text(
        (
            "{title} merges exactly {wanted} {wanted:model|models} besides the base {base}; {given} given.",
            "{title} merges exactly {wanted} {wanted:model|models}; {given} given.",
        ),
        "Add or remove models.",
    ),
    "too-few-models": Text(
        (
            "{title} merges at least {wanted} {wanted:model|models} besides the base {base}; {given} given.",
            "{title} merges at least {wanted} {wanted:model|models}; {given} given.",
        ),
        "Add models.",
    ),
    "too-many-models": Text(
        (
            "{title} merges at most {wanted} {wanted:model|models} besides the base {base}; {given} given.",
            "{title} merges at most {wanted} {wanted:model|models}; {given} given.",
        ),
        "Remove models.",
    ),
    "many-models": Text(
        "The recipe names {count} models and adapters; up to {most} are opened.",
        "Merge some of them first, and then the results.",
    ),
    "layers-of-models": Text(
        "`models:` takes all layers of each model; mergekit ignores this range.",
        "Write `slices:` with these entries as `sources:`, or leave the range out.",
    ),
    "no-sources": Text("This slice has no `sources`.", "Add a list `sources:`."),
    "no-layer-range": Text(
        "A source of a slice must say which layers it gives.",
        "Add `layer_range: [start, end]`. The end is not included; the first layer is 0.",
    ),
    "not-a-layer-range": Text(
        "A layer range is [start, end] with 0 <= start <= end; found {found:phrase}.",
        "The end is not included: [0, 8] are layers 0 to 7.",
    ),
    "unequal-ranges": Text(
        "The sources of a slice must give equally many layers; given {given:all}.",
        "Make the ranges equally long.",
    ),
    "seed": Text("`seed` is {found:phrase}.", _WHOLE_NUMBER),
    "dtype": Text("There is no dtype '{name}' for weights.", _MEANT),
    "fp8-dtype": Text(
        "`dtype` is also what weights without scales are stored in, so it cannot be {name}.",
        "Write `out_dtype: {name}`.",
    ),
    "fp8-no-linear": Text(
        "{dtype} is for the weights of linear layers, and none of {architecture} is known to be one.",
        "Write `out_dtype: bfloat16`. The class has to be one that the installed transformers builds.",
    ),
    "fp8-not-in-files": Text(
        "Eight-bit weights with scales go into safetensors files, not into memory, GGUF files or other merges.",
        "Leave out `out_dtype:`, or name a 16-bit type.",
    ),
    "fp8-packed-experts": Text(
        "{dtype} has a matrix for each expert, and {tensors:few} hold all experts of a layer.",
        "Write `out_dtype: bfloat16`.",
    ),
    "fp8-shape": Text(
        "{dtype} needs rows and columns that are multiples of {multiple}: {tensors:few}.",
        (
            "Write `out_dtype: {rows}`, with a scale for each row, or `bfloat16`.",
            "Write `out_dtype: bfloat16`.",
        ),
    ),
    "chat-template": Text("'{given}' is neither the name of a chat template nor a template itself.", _MEANT),
    "tokenizer-or-source": Text(
        "A recipe has either `tokenizer` or `tokenizer_source`; this one has both.",
        "Move the source into `tokenizer:`.",
    ),
    "pad-to-multiple-of": Text(
        "`pad_to_multiple_of` is {found:phrase}.", "Write a whole number from 1 to {most}."
    ),
    "approximate": Text("`approximate` is {found:phrase}, which is not a rule for rows.", _MEANT),
    "neighbours": Text(
        "`k`, the number of tokens that an approximated row is made of, is {found:phrase}.",
        "Write a whole number from 1 to {most}.",
    ),
    "k-without-neighbours": Text(
        "`k: {k}` goes with `approximate: omp` or `approximate: nearest`.",
        "Leave it out, or name one of these rules.",
    ),
    "force": Text(
        "`force` must be true or false; found {found:phrase}.",
        "True gives this row to models that have the token, too.",
    ),
    "token-kind": Text("A token's source has no kind '{name}'.", "Known: {known:all}."),
    "token-source": Text(
        "A source of kind model_token names a model, and one of `token` and `token_id`.",
        "Write `{{kind: model_token, model: ..., token: ...}}`.",
    ),
    "token-id": Text("`token_id` is {found:phrase}.", _WHOLE_NUMBER),
    # recipes: parameters
    "unknown-parameter": Text("{title} ({method}) has no parameter '{name}'.", _MEANT),
    "ignored-parameter": Text(
        "{title} ({method}) has no parameter '{name}'; it is ignored.",
        ("Did you mean '{near}'?", "Remove it, or choose a method that has it."),
    ),
    "clamped-value": Text(
        "`{parameter}` of {title} is {found:phrase}; {used} is used, beyond which nothing is gained."
    ),
    "stray-filter": Text(
        "`filter` here would be ignored: it belongs to a value.",
        "Write `PARAMETER: [{{filter: ..., value: ...}}]`.",
    ),
    "filter": Text(
        "`filter` must be a part of tensors' names; found {found:phrase}.",
        "Write an entry of its own for each part.",
    ),
    "missing-parameter": Text(
        ("{title} needs `{parameter}` for {model}: {help}.", "{title} needs `{parameter}`: {help}."),
        "Add `{parameter}:` ({expected}) under `parameters:`.",
    ),
    "shared-parameter": Text(
        "`{parameter}` of {title} is one value for all models, not one per model.",
        "Move it to `parameters:` of the recipe (or of the slice).",
    ),
    "parameter-value": Text(
        "`{parameter}` must be {expected}; found {found:phrase}.", "What it sets: {help}."
    ),
    "no-value": Text("This filter has no `value`.", "Add `value:`."),
    "no-filter-matches": Text(
        "No filter of `{parameter}` matches {tensor}.",
        "Add a last entry without a filter: `- value: ...`.",
    ),
    "parameters": Text("{title}, {tensor}: {wrong:phrase}.", "Change {parameters:code}."),
    # recipes: whether the models fit
    "intermediate-merge-reference": Text(
        "{model} names a merge of this text, with a revision, an adapter or another architecture.",
        "Say so of a model in that merge, or merge it first.",
    ),
    "empty-result": Text("The recipe makes a model without tensors.", "Give the slices some layers."),
    "empty-slice": Text(
        "This slice has no layers.", "Let the range end after its start, or leave the slice out."
    ),
    "too-many-layers": Text(
        "The result would have {count:,} layers; up to {most:,} can be stacked.", "Take fewer slices."
    ),
    "large-result": Text(
        "The result would have more than {most:,} tensors, and could not be read again.",
        "Take fewer layers or experts.",
    ),
    "layer-pattern": Text(
        "`{key}: {value}` in the config cannot describe the new order of layers.",
        "Keep the order of the layers, or merge models whose config lists the kind of every layer.",
    ),
    "layer-period": Text(
        "`{key}: {value}` in the config cannot describe the new order of layers.",
        "Take whole periods of {value} layers in each slice, beginning at a multiple of {value}.",
    ),
    "first-layers": Text(
        "`{key}: {value}` in the config cannot describe the new order of layers.",
        "Take the layers that come first only at the beginning of the first slice.",
    ),
    "last-layers": Text(
        "`{key}: {value}` in the config cannot describe the new order of layers.",
        "Take the layers that come last only at the end of the last slice.",
    ),
    "layer-kinds": Text(
        "The result's config would build layer {layer} as another kind of layer than its source.",
        "Keep the order of the layers, or take whole periods of them in each slice.",
    ),
    "layer-count": Text(
        "A model of the result's config would have {built} layers, not {count}.",
        _ALL_LAYERS,
    ),
    "layer-count-unstated": Text(
        "The config does not say how many layers there are ({before}), so it cannot describe {count}.",
        _ALL_LAYERS,
    ),
    "layers-not-built": Text(
        "transformers cannot build a model of the result's config ({reason}).",
        _ALL_LAYERS,
    ),
    "table-of-layers": Text(
        "{tensor} has a part for each layer, which cannot follow a new order of layers.",
        "Merge the model whole, without `slices:`.",
    ),
    "quantized": Text(
        "{model} is quantized ({how}) in a form that cannot be read as plain numbers.",
        _NAME_UNQUANTIZED,
    ),
    "unknown-quantization": Text(
        "{model} is quantized ({form}), but its tensors do not fit that form: {error}.",
        _NAME_UNQUANTIZED,
    ),
    "dequantized": Text(
        "{model} is quantized ({form}). Its weights are read as plain numbers; the precision that it lost stays lost.",
        (_NAME_ORIGINAL, "If the model exists in bfloat16 or float16, name that one instead."),
    ),
    "plain-weights": Text(
        "The config of {model} says that it is quantized ({how}), but its weights are plain. The result's config does "
        "not say so."
    ),
    "several-stacks": Text(
        "{model} has several stacks of layers ({stacks:and}), and `slices` speaks of one.",
        "Write `modules:`, and below it the name of each with its own `slices:` or `models:`.",
    ),
    "unknown-module": Text("{model} has no module '{name}'.", "It consists of {known:all}."),
    "repeated-module": Text("{model} has no module '{name}' of its own.", "It consists of {known:all}."),
    "module-taken-over": Text("The recipe does not mention {module}; it stays as it is in {model}."),
    "missing-module": Text(
        "{model} has no {module}, which {donor} has.",
        "Say with `modules:` which models each part is made of.",
    ),
    "no-layers": Text("{model} has no stack of layers.", "Name a language model."),
    "layer-numbers": Text(
        (
            "{model} has no layers {given:all}: its {count} layers are 0 to {last}.",
            "No layer of {model} is named.",
        ),
        "Write numbers or ranges, such as `12-15,20`.",
    ),
    "no-layer-left": Text("All {count} layers of {model} are left out.", "Keep one or more of them."),
    "no-silent-copies": Text(
        "{model} ({kind}): a silent copy needs layers that add what two known matrices write, as those of Llama, Qwen, "
        "Phi, GPT-2 and Gemma do. '{name}' is not known.",
        "Make plain copies (`--plain`), and train the result.",
    ),
    "silent-by-number": Text(
        "{model}: its config sets '{key}', so a layer computes something else when a copy is put before it.",
        "Make plain copies (`--plain`), and train the result.",
    ),
    "layer-range": Text(
        "{model} has {layers} layers, 0 to {last}; the recipe takes {from} to {to}.",
        "End the range at {layers} at most.",
    ),
    "unequal-layers": Text(
        "The models have different numbers of layers ({given:all}) and cannot be merged whole.",
        "Use `slices:` to say which layers belong together.",
    ),
    "gives-back": Text(
        "The result is {model} again: with these values, {title} takes nothing from any other model.",
        "Change the values, or name another model.",
    ),
    "roles": Text(
        "{second} has another vocabulary than {base}, so {base} was not its base.",
        "Name the receiving model first, then the giving one: {second}, then {first}?",
    ),
    "duplicate-tensor": Text(
        "The result would have two tensors of the same name: {tensors:few}.",
        "Merge the models whole, without `slices:`.",
    ),
    "moved-tensor": Text(
        "{tensors:few} {count:is|are} numbered after the last layer, and {count:stays|stay} after the new last one."
    ),
    "settings-differ": Text(
        "{model} and {donor} differ in settings that tensors do not show ({settings:all}); the result has {donor}'s.",
        "Merge fine-tunes of one base, or check that the result still answers.",
    ),
    "layer-settings": Text(
        "Layers of {model} would run under the config of {donor}, which builds them otherwise ({settings:all}).",
        "Take all layers from models of the same settings.",
    ),
    "other-heads": Text(
        "Layers of {model} would run under the config of {donor}, which cuts them into other heads ({settings:all}).",
        "Name {model} as `base_model`, or take all layers from models of the same base.",
    ),
    "derived-tensor": Text(
        "Not all models have {tensors:few}; the result has none of them, and loaders use their own."
    ),
    "taken-over-tensor": Text(
        "{lacking:and} {lacking:lacks|lack} {tensors:few}. The result takes over what {model} has."
    ),
    "unexpected-keys": Text(
        "{model} has tensors for which the result, with the config of {donor}, has no place: {tensors:few}.",
        "Name a base model of the same architecture and size.",
    ),
    "missing-keys": Text(
        "{model} lacks tensors that the other models have: {tensors:few}.",
        "Merge models of one architecture.",
    ),
    "shape": Text(
        "Tensors of {model} have another shape: {tensors:few}.",
        "Merge models of one size; fine-tunes of one base always fit.",
    ),
    "vocabulary": Text(
        (
            "The vocabulary of {model} has another size: {tensors:few}. {tokenizers:each}.",
            "The vocabulary of {model} has another size: {tensors:few}.",
        ),
        "Add `tokenizer_source: union` for the tokens of all models, `tokenizer_source: base` for those of the base "
        "model, or name the model there whose tokens to keep.",
    ),
    # mixtures of experts
    "mixture-base": Text(
        "{model} ({architecture}) cannot be the base of a mixture of experts.",
        "Name a dense causal language model of the types {known:and}.",
    ),
    "deepseek-mixture": Text(
        "{name} is not offered: it needs code of its own, which Alloy never runs.",
        "Leave out `architecture:` for one that transformers knows.",
    ),
    "mixture-architecture": Text("There is no mixture of experts called '{name}'.", "Known: {known:all}."),
    "mixture-of-others": Text(
        "{name} is made from models of the types {known:and}, but {model} is {type}.",
        "Leave out `architecture:`, or choose another base.",
    ),
    "no-shared-expert": Text(
        "{name}, which {model} would become, has no shared expert.", "Leave out `shared_experts:`."
    ),
    "needs-shared-expert": Text(
        "{name}, which {model} would become, has exactly one shared expert, and none is listed.",
        "Add `shared_experts:` with one model, for example the base with `residual_scale: 0.1`.",
    ),
    "mixture-window": Text(
        "The attention of {model} is limited to a window, which {name} cannot have in the same layers.",
        "Choose a base without a sliding window.",
    ),
    "mixture-lacks": Text("{model} lacks tensors that {name} needs: {tensors:few}.", "Choose another base."),
    "mixture-has-no-place": Text(
        "{name} has no place for tensors of {model}: {tensors:few}.", "Choose another base."
    ),
    "expert-layers": Text(
        "The expert {model} has {layers} layers; the base {base} has {wanted}.",
        "Choose fine-tunes of one base as experts.",
    ),
    "not-dense": Text(
        "The expert {model} is no dense model with three matrices in each MLP: {tensors:few}.",
        "Choose a model of the type llama, mistral, qwen2 or qwen3.",
    ),
    "expert-activation": Text(
        "The expert {model} was trained with the activation {found}; the base {base} has {expected}.",
        "Choose fine-tunes of one base as experts.",
    ),
    "expert-shape": Text(
        "Matrices of the expert {model} do not fit the base {base}: {tensors:few}.",
        "Choose fine-tunes of one base as experts.",
    ),
    "expert-width": Text(
        "The MLP of the expert {model} is {width} wide; that of {other} is {expected}.",
        "Choose experts of one size.",
    ),
    "random-routers": Text(
        "`gate_mode: {mode}` sends tokens to experts by chance: the result needs training to be of use."
    ),
    "adapter-outside-experts": Text(
        "{adapters:and} {adapters:changes|change} no MLP, so that nothing of {adapters:it|them} is in the expert.",
        "Use an adapter of gate_proj, up_proj and down_proj, or `shared_weights: average`.",
    ),
    "every-expert": Text(
        "Every token passes through all {count} experts: nothing is saved. Routers only weight them."
    ),
    "no-gates": Text(
        "Computing routers from prompts needs transformers.",
        "Run `pip install 'alloy-merge[evaluation]'`, or choose `gate_mode: random`.",
    ),
    "prompts-without-tokenizer": Text(
        "{model} has no tokenizer.json, which is needed to read the prompts.", _SAVE_AS_FAST
    ),
    "unreadable-tokenizer": Text(
        "{file} of {model} is no tokenizer that can be read ({error}).", _SAVE_AS_FAST
    ),
    "prompt-length": Text(
        "The prompt '{prompt}' has {tokens} tokens; between 1 and {most} are possible.", "Shorten it."
    ),
    "prompt-token": Text(
        "The tokenizer of {model} gives a prompt the token {token}, but there are {rows} embeddings.",
        "Choose a base whose tokenizer fits its weights.",
    ),
    "nothing-to-route": Text(
        "Only a mixture of experts whose routers are computed from prompts sends prompts to experts.",
        "Choose a `gate_mode` such as `router` and give each expert `positive_prompts`.",
    ),
    "gates-alike": Text(
        "{first} and {second} are hard to tell apart: in {layers} of {total} layers the states of their prompts point "
        "the same way (cosine {cosine:.4f} on average).",
        "Use prompts that differ more.",
    ),
    "prompts-elsewhere": Text(
        "{count} of {total} prompts reach another expert than their own first: {prompts:few}.",
        "Use more prompts of each kind, or `gate_mode: router`.",
    ),
    "gates-weak": Text(
        "The right expert gets {weight:.2f} of the weight on average; chance gives {chance:.2f}.",
        "Use `gate_mode: router`, or train the routers of the result.",
    ),
    # tokenizers
    "no-tokenizer": Text("{model} has no tokenizer.", _SAVE_AS_FAST),
    "tokenizer-form": Text(
        "{model} has only {files:all}, from which its tokens cannot be numbered.", _SAVE_AS_FAST
    ),
    "tokenizer-class": Text(
        (
            "The tokenizer of {model} ({kind}) numbers tokens in its own way, which {file} does not show.",
            "The tokenizer of {model} (of no known class) numbers tokens in its own way, which {file} does not show.",
        ),
        _SAVE_AS_FAST,
    ),
    "damaged-tokenizer": Text(
        "{file} of {model}, or a file beside it, has no vocabulary that can be read.",
        "Repair it, or name another model with `tokenizer_source:`.",
    ),
    "added-tokens": Text(
        "The added tokens of {model} have numbers that do not follow on: {tokens:few}.", _SAVE_AS_FAST
    ),
    "tokenizer-assumed": Text("{model} has no tokenizer; it is assumed to have that of {base}."),
    "result-without-tokenizer": Text(
        "{model} has no tokenizer; the result will have none.", "Name one with `tokenizer_source:`."
    ),
    "left-behind": Text(
        "These files of {model} are not copied, as they are not plain data or are too large: {files:few}.",
        "What loads the result may need them.",
    ),
    "not-merged": Text("These files of {model} are copied and not merged: {files:few}."),
    "code-copied": Text(
        "{model} is loaded by code of its own ({files:all}), and the result has a copy.",
        "It runs only where someone allows it (`trust_remote_code=True`). Read it first.",
    ),
    "code-elsewhere": Text(
        "{file} of {model} names code in another repository ({reference}), which can change; the result does not "
        "name it.",
        "If the result does not load without it, `--keep-code` copies it as it is now.",
    ),
    "code-missing": Text(
        "{file} of {model} names code that cannot be copied ({reference}); the result does not name it.",
        "If the result does not load without it, put the code beside the result.",
    ),
    "code-pinned": Text(
        "The result has a copy of {files:all} of {repository}, as of commit {commit}.",
        "It runs only where someone allows it (`trust_remote_code=True`). Read it first.",
    ),
    "no-generation-config": Text("{model} has no generation_config.json; the result will have none."),
    "lost-token": Text(
        "{keys:all} in {file} of {model}: the result does not have the token.",
        "Name the token under `tokens:`, or take a tokenizer that has it.",
    ),
    "literal-tokens": Text(
        "{count} {count:token|tokens} of {model} {count:is|are} unknown to {start}: {tokens:few}.",
        "They are kept as literal tokens; all other text is split as {start} splits it.",
    ),
    "unknown-token": Text(
        "No model has a token '{token}'.",
        "Say what its row is: `source: {{kind: model_token, model: ..., token: ...}}` or `{{kind: zero}}`.",
    ),
    "unknown-source-token": Text(
        "{model} has no row for the token '{source}', which is to stand for '{token}'.",
        "Name a token that it has, or a row of zeros: `source: {{kind: zero}}`.",
    ),
    "unknown-token-id": Text(
        "{model} has no row for the token number {number}, which is to stand for '{token}'.",
        "Name a token that it has, or a row of zeros: `source: {{kind: zero}}`.",
    ),
    "result-vocabulary": Text(
        (
            "The result has {rows} rows for {tokens} tokens: those of {model}, and {count} appended: {appended:few}.",
            "The result has {rows} rows for {tokens} tokens: those of {model}.",
        )
    ),
    "rows-of-other-width": Text(
        "{model} has rows of {width} numbers, those of {giver} have {found}: they cannot be copied.",
        "Let missing rows be made of the model's own: `approximate: omp` or `approximate: subword` in `tokenizer:`.",
    ),
    "approximated-rows": Text(
        "{model} lacks {count} of the {tokens} tokens. Their rows are approximated: {ways:all}."
    ),
    "no-common-tokens": Text(
        "{model} and {guide} have no token in common, which `approximate: {rule}` needs.",
        "Use `approximate: subword`, which needs no other model's rows.",
    ),
    "tokenizer-not-run": Text(
        "The tokenizer of {model} cannot cut the text of other tokens into pieces: {error}.", _SAVE_AS_FAST
    ),
    "slow-approximation": Text(
        "Approximating the missing rows takes about {hours} hours ({minutes} minutes) on this machine's processor.",
        "A smaller `k` is quicker, so is a GPU (`--device cuda`); `approximate: subword` takes seconds.",
    ),
    "digits-differ": Text(
        "{model} splits the number 1234567 as {own}, the result as {result}. Expect it to reckon worse.",
        "Training repairs it.",
    ),
    "zero-rows": Text("No model has rows for {tokens:few}; they are zeros."),
    "template": Text(
        "The chat template cannot be used: {error:phrase}.",
        "`chat_template:` takes another; `tokens:` adds what is missing.",
    ),
    "template-tokens": Text(
        "The chat template writes {tokens:few}, for which the result has no token.",
        "`chat_template:` takes another; `tokens:` adds what is missing.",
    ),
    "templates-differ": Text(
        "The models have {count} chat templates; the result has that of {model}.",
        "`chat_template: auto` takes what most have; a name or a template is taken as it is.",
    ),
    "no-chat-template": Text(
        "No model has a chat template for `chat_template: auto` to choose.", "Name one, or write one."
    ),
    # merging
    "cancelled": Text("The merge was cancelled; nothing was left behind."),
    "no-gpu": Text(
        "There is no CUDA device that torch can use.", "Merge on the CPU; most merges are no slower there."
    ),
    "model-changed": Text("{model} has changed since the plan was made.", "Make the plan again."),
    "not-float": Text(
        "{tensor} ({dtype}) differs between the models, and only floating-point numbers are merged.",
        "Merge models whose tables and masks are the same.",
    ),
    "not-finite": Text(
        "{count:,} numbers of the result are infinite or NaN, in {total:,} {total:tensor|tensors}: {tensors:few}.",
        "Merge in bfloat16 or float32 if the dtype is float16; else look for NaN in the parents, and at the "
        "parameters.",
    ),
    "other-processor": Text(
        "Files of this merge were computed on {there}, and this is {here}: the last bits of numbers may differ.",
        (
            "Continue on a machine of the first kind (perhaps this one, with ATEN_CPU_CAPABILITY={capability} in its "
            "environment), or delete the merge's branch at the destination to start again.",
            "Continue on a machine of the first kind, or delete the merge's branch at the destination to start again.",
        ),
    ),
    "other-software": Text(
        "The merge was begun with {there}, and this machine computes with {here}: the last bits of numbers may "
        "differ.",
        "Install the same versions on all machines.",
    ),
    "one-part": Text(
        "A merge to {place} that makes a single file cannot be made in parts.",
        "Use `alloy run`, or a smaller shard size.",
    ),
    "receipt-without-file": Text(
        "{place} does not have {file} with {size:,} bytes, as its receipt says.",
        "Make that part again, or leave its receipt out: the last run then makes the file.",
    ),
    "no-receipt": Text(
        "Line {line} of the receipts is not a receipt.",
        "Give it only what `alloy part` prints on standard output.",
    ),
    "other-merge": Text(
        "Line {line} of the receipts belongs to another merge.",
        "Use the recipe, the shard size, the models and the versions of torch and numpy that the merge was begun with.",
    ),
    "killed": Text(
        "A process that merged was killed ({signal}).",
        "The machine may be short of memory: try fewer `--workers`.",
    ),
    "nothing-to-hand-out": Text(
        "A result that is a single file on the Hub cannot be made by other machines.",
        "Leave out `--on`, or choose a smaller shard size.",
    ),
    # clusters
    "ray-not-installed": Text(
        "Ray is not installed.", "Run `pip install 'alloy-merge[ray]'`, here and on all machines."
    ),
    "cluster-unreachable": Text(
        "The Ray cluster at {address} does not answer ({reason}).",
        "Check RAY_ADDRESS. Without it, the cluster of this machine is used, or a new one that is this machine alone.",
    ),
    "machine-without-alloy": Text(
        "A machine of the cluster has no module {module}.",
        "Install the same version of Alloy on all machines.",
    ),
    "machine-lost": Text(
        "{work}: the process or machine that had this work died {times} times.",
        "What arrived is kept: repeat the command. If it happens again, look into the cluster's logs.",
    ),
    "machine-out-of-memory": Text(
        "{work}: {memory:.1f} GB of memory were not enough, and no machine of the cluster has more to give.",
        "Use machines with more memory, a smaller shard size, or Xet (`pip install hf_xet`), which holds no whole "
        "file.",
    ),
    "larger-than-machines": Text(
        "{work} takes {cpus} processors and {memory:.1f} GB of memory, and the largest machine of the cluster has "
        "{most} and {largest:.1f} GB.",
        "Use larger machines, a smaller shard size, or Xet (`pip install hf_xet`), which holds no whole file.",
    ),
    # destinations
    "destination-name": Text("'{given}' is not a destination.", "Write `hf://owner/name`."),
    "repository-id": Text("'{given}' is not the id of a repository.", "Write `hf://owner/name`."),
    "destination-is-file": Text("{path} is a file; the result is a folder.", "Choose another name."),
    "folder-not-empty": Text(
        "{path} is not empty, and would be replaced.", "Choose another name, or allow it to be overwritten."
    ),
    "destination-closed": Text("{path} cannot be written to.", "Choose another folder."),
    "disk-too-small": Text(
        "The result needs {needed:,} bytes on disk; {free:,} are free at {path}.", _NO_DISK
    ),
    "disk-full": Text("The disk is full: {file} could not be written.", _NO_DISK),
    "destination-busy": Text("Another merge is writing to {path}.", "Wait for it."),
    "memory-too-small": Text(
        "The merged model and the merge need {needed:,} bytes of memory; {free:,} are free.",
        "Merge to a folder or to the Hub, which needs a fraction of that.",
    ),
    "live-merge-too-large": Text(
        "The live model needs {needed:,} bytes of memory; {free:,} are free.",
        "Search on a machine with more memory, or with smaller models of the same family.",
    ),
    "other-tensors": Text(
        "The recipe makes other tensors than the live model has: {tensors:few}.",
        "Search over recipes with the same models, layers and vocabulary.",
    ),
    "layers-differ": Text(
        "The models have different numbers of layers: {layers:all}.", "Take models of the same shape."
    ),
    "no-derivative": Text(
        "The score has no derivative by '{parameter}' of {method}.",
        "Search for it with trials instead, or search for weights only.",
    ),
    "no-derivative-of-tensors": Text(
        "transformers stacks these tensors into others, so their coefficients cannot be learned: {tensors:few}.",
        "Search with trials instead.",
    ),
    "unknown-model-class": Text(
        "transformers {version} knows no such model ({error}).",
        "Merge it to a folder, and load it as its authors say.",
    ),
    "incomplete-model": Text(
        "The merge has no fitting tensor for {tensors:few}, which the model has.",
        "Merge whole models of this kind.",
    ),
    "no-login": Text(
        "Pushing to {repository} needs a login, and there is none.",
        "Sign in, or run `hf auth login` on your machine.",
    ),
    "hub-silent": Text("The Hub did not answer ({error}).", "Check the connection and try again."),
    "hub-status": Text("The Hub answered {status}.", "Try again later."),
    "not-yours": Text("{account} may not create models for {owner}.", "Push to one of: {owners:all}."),
    "destination-exists": Text(
        "{repository} already exists and holds a model.",
        "Choose another name, allow it to be overwritten, or open a pull request.",
    ),
    "destination-created": Text(
        "{repository} was created by someone else while this merge was running.", "Choose another name."
    ),
    "destination-filled": Text(
        "{repository} received a model while this merge was running.", "Choose another name."
    ),
    "destination-changed": Text(
        "{repository} was changed by someone else while this merge was running.",
        "Look at the changes, and run the same merge again.",
    ),
    "push-failed": Text(
        "The Hub did not take the result ({reason}).",
        "Check that the login may write there, and run the same merge again.",
    ),
    "push-interrupted": Text(
        "The Hub did not take the result ({reason}).",
        "Check that the login may write there, and run the same merge again: it continues from the last finished "
        "shard.",
    ),
    "store-failed": Text(
        "The Hub's store did not take the result ({reason}). To send it another way, a file of {largest:,} bytes "
        "must fit into memory, of which {free:,} bytes are free.",
        "Run the same merge again later, or with smaller files (`--shard-size`).",
    ),
    "store-push-failed": Text(
        "{address} cannot be written to ({reason}).",
        "Check the bucket's name, and the credentials, region and endpoint in the environment. Run the same merge "
        "again: it continues from the last finished shard.",
    ),
    "bucket-push-failed": Text(
        "{address} cannot be written to ({reason}).",
        "Check that the login may write there, and run the same merge again: it continues from the last finished "
        "shard.",
    ),
    "bucket-public": Text(
        "The bucket {bucket} is public: anyone can read what is written there.",
        "Choose a private bucket, or make the result public (`--public`).",
    ),
    "hub-file-too-large": Text(
        "{file} will have {size:,} bytes, and the Hub takes files of up to {most:,}.",
        "Use a smaller shard size.",
    ),
    "hub-file-large": Text(
        "{file} will have {size:,} bytes. The Hub advises up to {most:,} a file.", "Use a smaller shard size."
    ),
    "hub-many-files": Text(
        "The result has {files} files. The Hub advises up to {most} large files a commit, and may refuse more.",
        "Use a larger shard size.",
    ),
    "hub-requests": Text(
        "The upload makes about {requests:,} requests, and the Hub answers {most:,} in five minutes to this account. "
        "The merge will wait about {minutes} {minutes:minute|minutes}.",
        "Use a larger shard size.",
    ),
    "hub-private-room": Text(
        "The result has {size:,} bytes. In private repositories this account has room for {most:,}.",
        "Make the repository public, or get more storage.",
    ),
    "store-cannot-replace": Text(
        "{file} will have {size:,} bytes. To replace a model, S3 has to copy each file, and it copies up to {most:,} "
        "bytes.",
        "Merge to an address where nothing is, or use a smaller shard size.",
    ),
    "not-what-was-sent": Text(
        "{repository} does not hold what was sent: {files:few}.",
        "Do not use it. Delete it, and run the same merge again.",
    ),
    "cancelled-late": Text(
        "The merge was cancelled during the last commit to {repository}, and the Hub does not answer.",
        "Look at its page: it holds either what it held before, or the whole merge.",
    ),
    # extracting adapters
    "no-difference": Text(
        "{model} and {base} hold the same numbers: there is nothing to extract.", "Name another model."
    ),
    "packed-expert": Text(
        "{tensor} changed: loaders pack the experts, and PEFT has no place beside a single one.",
        "Merge the whole models instead, or extract from a fine-tune that leaves the experts alone.",
    ),
    "no-place": Text(
        "{tensor} changed, and PEFT has no place for it beside the matrices of {module}.",
        "Merge the whole models instead.",
    ),
    "left-out-tensor": Text("The adapter leaves out {tensors:few} of {model}, which {base} does not have."),
    "not-its-base": Text("{model} is no fine-tune of {base}: {tensors:few} do not fit.", "Name its base."),
    # the page: recipes
    "source": Text(
        "'{source}' is neither a model's name nor a link to a recipe.",
        "Write owner/name, or paste a link made by 'Copy link'.",
    ),
    "not-found": Text(
        "'{name}' was not found on the Hub, or you have no access to it (status {status}).",
        "Check the name. Sign in if the model is private or gated.",
    ),
    "no-recipe": Text(
        "{name} has no recipe: no mergekit_config.yml, and no merge in YAML on its card.",
        "Choose a model that was made by a merge.",
    ),
    "file-without-recipe": Text(
        "That file holds no recipe.",
        "Drop a YAML file with `merge_method:`, or a model card that shows one.",
    ),
    "silent": Text("The Hub did not answer.", "Try again in a moment."),
    # the page: destinations
    "no-owner": Text(
        "You are not signed in, so there is no account to save to.", "Sign in with Hugging Face first."
    ),
    "no-owner-here": Text(
        "You are not signed in, so there is no account to save to.",
        "Run `hf auth login` and reload the page, or save to a folder.",
    ),
    "bad-name": Text(
        "'{name}' cannot be a model's name.",
        "Use up to 96 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit.",
    ),
    "bad-owner": Text("'{owner}' is not an account that you can write to.", "Choose one of: {owners:all}."),
    "bad-place": Text("'{place}' is not a place to save to.", "Write hf://owner/name."),
    "bad-place-here": Text(
        "'{place}' is not a place to save to.", "Write hf://owner/name, or just the name of a new folder."
    ),
    # the page: merges
    "plan-defect": Text(
        "The plan failed inside Alloy: {error}", "This is a bug in Alloy. Please report it with the recipe."
    ),
    "models-ended": Text(
        "The process that runs models has ended: one of them took too much time or memory.",
        "Ask again, and the models are reloaded. Repeat a merge that you tried in memory.",
    ),
    "no-llama-cpp": Text(
        "{model} is a GGUF file, which llama.cpp runs, and that is not installed.",
        "pip install 'alloy-merge[llama]' (Linux and macOS).",
    ),
    "no-gguf": Text("{file} is no GGUF file, or it is damaged.", _DOWNLOAD_AGAIN),
    "llama-refuses": Text(
        "llama.cpp cannot run {model}: {words}", "Choose transformers to run it, or another model."
    ),
    "other-vocabulary": Text(
        "{file} has {count} tokens and {model} has {other}.", "Name the model that the file was made of."
    ),
    "llama-ended": Text(
        "llama.cpp ended while it ran {model}: it took too much time or memory, or crashed.",
        "Ask again, and it is reloaded. If that does not help, choose transformers to run it.",
    ),
    "trial-gone": Text(
        "This trial has ended: it was not used for a while, or others needed the memory.",
        "Press 'Try it first' again.",
    ),
    "plan-limit": Text(
        "The plan took more than {seconds:.0f} CPU seconds, {wait:.0f} seconds in all, or {memory:.0f} GB of memory.",
        "The server or the Hub may be busy: try again. Or a file is damaged: try the models one by one.",
    ),
    "too-many-plans": Text(
        "You already have {count} {count:plan|plans} being made or waiting.", "Wait for one to finish."
    ),
    "job-defect": Text(
        "The merge failed inside Alloy: {error}",
        "This is a bug in Alloy. Please report it with the recipe. Nothing was left behind.",
    ),
    "argument": Text("`{name}` is {given}.", "{words}."),
    "defect": Text("Something failed inside Alloy: {error}", "This is a bug in Alloy. Please report it."),
    "one-model": Text("There is only one model, and nothing to compare it with.", "Add a model."),
    "no-job": Text(
        "There is no merge with this id.", "Ids last as long as the server runs; start the merge again."
    ),
    "restarted": Text(
        "The server was restarted before this merge ended.",
        "Nothing on the Hub is lost: 'Try again' adds the missing files. If the merge had ended, it says that the "
        "model exists.",
    ),
    "rented-elsewhere": Text(
        "A merge on a rented machine goes to the Hub.", "Choose the Hub as the destination."
    ),
    "rented-heal-elsewhere": Text(
        "A training on a rented machine goes to a repository on the Hub, where a second attempt finds its state.",
        "Choose your account as the destination.",
    ),
    "rented-refused": Text(
        "Your sign-in may not rent machines (the Hub answered {status}).",
        "Sign in again if this Space asks for the permission `jobs`, use a token with write access, or copy the "
        "command for a rented machine.",
    ),
    "rented-unpaid": Text(
        "The Hub rents machines to accounts with a positive balance only (it answered {status}).",
        "Add credit in the billing settings of your account.",
    ),
    "rented-hub": Text("The Hub did not take the job (it answered {status}).", "Try again later."),
    "rented-already": Text(
        "A rented machine is already working on {to}.",
        "Stop it first, or choose another name. Its page is {url}.",
    ),
    "rented-unseen": Text(
        "The Hub has not answered for ten minutes. The rented machine may still run, and cost.",
        "Look at {url}, and stop it there if you no longer want it. Its files on the Hub are kept: 'Try again' "
        "continues from them.",
    ),
    "rented-failed": Text(
        (
            "The rented machine failed: {reason}.",
            "The rented machine failed.",
        ),
        "Its log is at {url}. 'Try again' on another machine continues from the files that are on the Hub.",
    ),
    "no-memory": Text(
        "The merge needs {size} of memory, which is not free right now.",
        "Try again when others are done, or run the same recipe on a larger machine.",
    ),
    "machine-too-small": Text(
        "The merge needs {size} of memory, and this machine has {most} in all.",
        "Run the same recipe on a larger machine: `python -m merging run` is the same merge.",
    ),
    "too-many-jobs": Text(
        "You already have {count} {count:merge|merges} running or waiting.",
        "Wait for one to finish, or stop one.",
    ),
    "busy": Text(
        "The queue is full: {count} {count:merge is|merges are} running or waiting.",
        "Try again in a few minutes, or duplicate this Space to have it to yourself.",
    ),
    "no-room": Text(
        "The result has {size}, and {free} are free here for downloads.",
        "Try again later, or sign in and save it to your account, which needs no room here.",
    ),
    "too-large": Text(
        "The merged model has {size}; at most {most} can be tried here.",
        "Merge it to your account, or run Alloy on a larger machine.",
    ),
    # words from elsewhere
    "no-answer": Text("{words}"),
    "no-score": Text("{words}"),
    "text-too-long": Text(
        "The text has {length} characters; this server reads up to {most}.", "Use a part of it."
    ),
    "word-too-long": Text(
        "The text has {length} characters without a space; this server reads up to {most}.",
        "Break it into words or lines.",
    ),
    "space-too-long": Text(
        "The space has {length} characters; at most {most} can be searched here.",
        "Shorten it, or search on your machine.",
    ),
    "card-without-login": Text(
        "The card is edited in your name, and you are not signed in.", "Sign in with Hugging Face first."
    ),
    # evaluation: where models are
    "no-folder": Text(
        "{path}: there is no such folder that can be read here.", "Name a folder, or `owner/name`."
    ),
    "no-base-or-adapter": Text("'{given}' lacks a model before a '+', or an adapter after it."),
    "folder-revision": Text(
        "{model} is a folder, and only models on the Hub have revisions such as '{revision}'.",
        "Leave it out.",
    ),
    "two-revisions": Text("{model}: two revisions were given, '{one}' and '{two}'.", "Give one."),
    "no-commit": Text("{model}: {host} does not say which commit it is at.", "Is this a Hub?"),
    "no-disk-for-model": Text("{model}: the disk of this machine is full.", "Choose a smaller model."),
    "model-and-adapter": Text(
        "{model} has both config.json and {file}, so it is not clear which of the two to run.",
        "Merge the adapter into the model, or delete the adapter's files.",
    ),
    "no-safetensors": Text(
        ("{model} has only {files:all} and no {file}.", "{model} has no weights: {file} is missing."),
        f"Other formats can run code of strangers or are not read here. {_CONVERT}",
    ),
    "no-adapter-weights": Text(
        "The adapter {adapter} has no {file}.",
        "Load it with PEFT and save it again: other formats can run code of strangers.",
    ),
    "damaged-index": Text("{model}: {file} is damaged.", "Upload or merge the model again."),
    # evaluation: weights, adapters, answers
    "no-own-weights": Text("{model} has no weights of its own.", "Merge it, and name the result."),
    "few-positions": Text(
        "{model} and {other} share {count} {count:position|positions} in this text, and {least} are needed.",
        "Give a longer text.",
    ),
    "nan-states": Text(
        "{model} or {other} answers with NaN on this text: its weights hold NaN or Inf, or are too large for its dtype."
    ),
    "no-token-offsets": Text(
        "{model}: its tokenizer does not say where tokens are in a text.", _SAVE_AS_FAST
    ),
    "empty-text": Text("There is no text.", "Give one of at least a few sentences."),
    "few-tokens": Text(
        "The text has {count} {count:token|tokens}, and {least} are needed to measure layers.",
        "Give a longer text.",
    ),
    "drop-range": Text(
        "drop={drop}: {model} can lose 1 to {most} layers. Its first and its last layer always remain.",
    ),
    "try-range": Text("count={count}: expected at least one cut to try."),
    "no-layer-stack": Text(
        "{model}: its layers were not found. {kind} has no single list of as many layers as its config says.",
        "Choose a language model whose layers follow each other, such as a Llama, Qwen, Phi, GPT-2 or Gemma.",
    ),
    "layers-on-disk": Text(
        "{model} is partly on disk, and its layers can only be measured in memory.",
        "Leave out `--offload`, or use a machine with more memory.",
    ),
    "cut-kinds": Text(
        "{model}: no cut of {drop} {drop:layer|layers} is possible. Its layers are of several kinds, and '{key}' of "
        "the config could not say which kind each remaining layer is.",
        "Leave out another number of layers, such as whole periods of the pattern.",
    ),
    "too-few-answers": Text(
        "repeats={repeats}, new_tokens={new_tokens}: at least 1 and 2 are expected.",
    ),
    "generation-settings": Text(
        "max_new_tokens={max_new_tokens}, temperature={temperature}, top_p={top_p}: expected at least 1, at least 0, "
        "and above 0 up to 1."
    ),
    "conversation-too-long": Text(
        "The conversation has {tokens} tokens, and {model} reads up to {context}.",
        "Start a new one, or shorten it.",
    ),
    "nan-answer": Text(
        "The model answers with NaN: its weights hold NaN or Inf, or are too large for their dtype.",
        "Merge it again with other parameters or in another dtype.",
    ),
    "empty-conversation": Text("The conversation is empty.", "Give at least one message."),
    "bad-message": Text(
        "Message {number} has the role {role} and a content of type {kind}.",
        "Give one of {roles:all}, and text.",
    ),
    "template-refuses": Text(
        "The chat template of {model} does not take this conversation (it says: {error}).",
        "Many templates allow no system message, and expect user and assistant to take turns.",
    ),
    "damaged-adapter": Text("{model}: {file} is damaged.", "Save the adapter again with PEFT."),
    "adapter-kind-not-run": Text(
        "{model} is an adapter of the kind {kind}, which is not run here.", "Use one of {kinds:all}."
    ),
    "adapter-fits-not": Text(
        (
            "{model} does not fit the model before it. It says that it was trained on {trained_on}. PEFT says: {words}",
            "{model} does not fit the model before it. PEFT says: {words}",
        )
    ),
    "token-rows-missing": Text(
        "{model} trains token {token}, its base has {rows}, and those between, such as {unknown}, exist in neither.",
        _GROWN_BASE,
    ),
    # evaluation: cards
    "no-result-chosen": Text("No result was chosen for the card.", "Choose at least one."),
    "folder-pull-request": Text("{model} is a folder.", "Pull requests are for models on the Hub."),
    "no-own-card": Text("{model} is a base with adapters, which has no card of its own.", "Merge it first."),
    "card-metadata": Text(
        "The metadata at the top of {model}'s README.md {what:phrase}.",
        "Correct it first: nothing was written.",
    ),
    "card-not-utf8": Text(
        "{model}'s README.md is not UTF-8 ({words}).", "Save it as UTF-8 first: nothing was written."
    ),
    "card-refused": Text(
        "The Hub does not take the card of {model} ({words}).", "Correct it first: nothing was written."
    ),
    "card-not-yours": Text(
        "This login may not write to {model} (status {status}).",
        "Sign in as its owner, or propose it as a pull request.",
    ),
    "card-not-proposed": Text(
        "This login may not propose a change of {model} (status {status}).", "Sign in."
    ),
    "card-changing": Text("{model} is being changed by someone else (status {status}).", "Try again."),
    "card-not-taken": Text("The Hub did not take the card of {model} (status {status}).", "Try again."),
    "score-not-finite": Text("{model}: {metric} is {value}, which no card can hold.", "Leave it out."),
    # judging: texts
    "no-bundled-text": Text("There is no bundled text '{name}'.", "Expected one of {known:all}."),
    "text-unreadable": Text(
        "{path} cannot be read ({error}).", "Give a text file, or name a bundled text: {known:all}."
    ),
    "not-utf8": Text(
        "{name} is not UTF-8: byte {byte} is not valid.",
        "Save it as UTF-8 (`iconv -f cp949 -t utf-8` for old Korean files), and check that it is a text file.",
    ),
    "empty-file": Text("{name} is empty.", "Give a text of at least a few hundred words."),
    "broken-character": Text(
        "The text has a broken character at position {position}.", "Expected valid Unicode (UTF-8)."
    ),
    "rows-range": Text("rows={rows}: expected at least 1."),
    "dataset-not-on-hub": Text(
        "{name}: only data sets on the Hub can be read here.", "Give one as owner/name."
    ),
    "no-column": Text("{name} has no column '{column}'.", "Expected one of: {known:all}."),
    "column-not-text": Text("{name}: the column '{column}' holds {kind}, not text.", "Choose another."),
    "empty-column": Text("{name} has no text in the column '{column}' of '{split}'.", "Choose another."),
    "no-datasets-package": Text(
        "Reading data sets needs the package datasets, which is not installed.",
        "Run `pip install datasets`.",
    ),
    "dataset-gated": Text(
        "The data set {name} cannot be read.",
        "It is gated: accept its terms on its page and come back signed in. datasets says: {words}",
    ),
    "dataset-unreadable": Text(
        "The data set {name} cannot be read.",
        "Check its name, its split and its configuration; private and gated data sets need a sign-in. datasets says:"
        " {words}",
    ),
    "dataset-limit": Text(
        "{name}: reading the data set takes more than {seconds:.0f} seconds or {memory:.0f} GB of memory.",
        "Take fewer rows, or another data set.",
    ),
    # judging: perplexity and differences
    "context-range": Text("context={context}: expected 1 to {most}, which is what {model} can read."),
    "stride-range": Text("stride={stride}: expected 1 to the context, {context}."),
    "no-bos": Text("bos=True: {model} has neither a BOS nor an EOS token.", "Leave it out."),
    "nothing-to-score": Text(
        "There is nothing to score: {texts} {texts:text|texts} with {characters} {characters:character|characters}.",
        "Expected a text of at least two tokens; a few hundred words tell more.",
    ),
    "nan-answers": Text(
        "{model} answers with NaN: its weights hold NaN or Inf, or are too large for {dtype}.",
        "Merge it again with other parameters or in another dtype.",
    ),
    "other-slice": Text(
        "{model}: the unfinished score is of another model, text or setting.", "Start again."
    ),
    "other-texts": Text(
        "{model} was scored on {count} {count:document|documents}, {other} on {other_count}, and {given} are given.",
        "Score both on the same texts.",
    ),
    "other-text": Text(
        "{model} was scored on {count} {count:document|documents}, and {given} are given.",
        "Give those texts.",
    ),
    "no-common-text": Text("{model} and {other} scored no text in common.", "Give a longer text."),
    # judging: benchmarks
    "no-lm-eval-package": Text(
        "Benchmarks need lm-eval, which is not installed.", "Run `pip install lm_eval`."
    ),
    "benchmark-request": Text(
        "tasks={tasks}, limit={limit}, few_shot={few_shot}: expected at least one task, at least 1, and at least 0."
    ),
    "no-template-to-ask-with": Text(
        "{model} has no chat template.", "Ask without it, or copy one from a parent."
    ),
    "task-not-offered": Text("The task '{task}' is not asked on this server.", "Choose among {known:all}."),
    "no-task": Text("lm-eval has no task '{task}'.", "Offered first: {known:all}."),
    "common-task": Text(
        "{one} and {two} both contain {task}, and lm-eval asks each question once.",
        "Ask for them one by one.",
    ),
    "benchmark-ended": Text(
        "{model}: the benchmark ended early.",
        "A task's data may be gated or unavailable; lm-eval says: {words}",
    ),
    "questions-out-of-reach": Text(
        "The questions of {tasks:and} could not be fetched: the Hub is out of reach.",
        "Check the connection and try again. Questions that were fetched once are read from the cache.",
    ),
    "no-questions": Text(
        "The questions are unavailable.", "A task's data may be gated or unavailable; lm-eval says: {words}"
    ),
    "asked-otherwise": Text(
        "{model} was asked with few_shot and chat_template {asked}, {other} with {other_asked}.",
        "Ask both the same way.",
    ),
    "no-common-question": Text("{model} and {other} were asked no question in common."),
    # judging: models that run
    "token-without-row": Text(
        "{model}: its tokenizer gives token {number} ({token}), and its embedding has {rows} rows.",
        "Merge it again with the tokenizer that its weights belong to.",
    ),
    "unknown-device": Text("Unknown device '{device}'.", "Expected auto, cpu or cuda."),
    "no-gpu-for-device": Text("The device is 'cuda', and there is no GPU here.", "Use 'auto' or 'cpu'."),
    "model-too-large": Text(
        "{model} needs {needed:.1f} GB for its weights, and {free:.1f} GB are free here.",
        "Choose a smaller model, wait until others are done, run it on a larger machine, or keep on the disk what does"
        " not fit (on the command line, --offload FOLDER).",
    ),
    "model-with-adapter-too-large": Text(
        "{model} needs {needed:.1f} GB for its weights, and {free:.1f} GB are free here.",
        "Choose a smaller model, wait until others are done, run it on a larger machine, or merge the adapter into its"
        " base first.",
    ),
    "memory-in-use": Text(
        "{needed:.1f} GB of memory are needed, and {free:.1f} GB are free here.",
        "Wait until others are done, or use a larger machine.",
    ),
    "config-unusable": Text(
        "{model} has a config.json that cannot be used.",
        "Expected one that transformers knows without code of the repository. transformers says: {words}",
    ),
    "not-loadable": Text("{model} cannot be loaded as a causal language model. transformers says: {words}"),
    "lacking-tensors": Text(
        "{model} lacks {count} {count:tensor|tensors} that {kind} needs, such as '{first}'.",
        "Expected a whole causal language model: choose another, or merge it again.",
    ),
    "tokenizer-unusable": Text(
        "{model} has no tokenizer that can be read.",
        "Expected tokenizer.json and tokenizer_config.json (or the files of an older kind) beside the weights: copy"
        " them from a parent. transformers says: {words}",
    ),
    "tokenizer-limit": Text(
        "The tokenizer of {model} takes more than {seconds:.0f} seconds or {memory:.0f} GB of memory.",
        "Its files may be damaged, or made to keep a server busy. Choose another model.",
    ),
    "tokenizer-fails": Text(
        "The tokenizer of {model} fails on this text. It says: {words}",
        "Its files may be damaged: copy those of a parent.",
    ),
    "empty-tokenizer": Text(
        "{model} has no tokenizer, or an empty one.",
        "Expected tokenizer.json beside the weights: copy it from a parent.",
    ),
    "does-not-run": Text("{model} was loaded and does not run. torch says: {words}"),
    "both-directions": Text(
        "{model} ({kind}) reads a text in both directions, as encoders such as BERT do.",
        "Expected a causal language model, which can continue a text and has a perplexity.",
    ),
    "no-room-here": Text(
        "{repo}: {size:.1f} GB are to be downloaded, and there is room for {room:.1f} GB on the disk.",
        "Choose a smaller model, or come back in some minutes, when others' models may leave.",
    ),
    "no-room-for-download": Text(
        "{repo}: {size:.1f} GB are to be downloaded, and there is room for {room:.1f} GB on the disk.",
        "Free some space, or set HF_HUB_CACHE to a larger disk than that of {cache}.",
    ),
    # searching
    "no-search-block": Text(
        "A space has one `search:` block beside its recipe.",
        "Add `search:` with an `objective:`, for example a text to predict well.",
    ),
    "nothing-to-search": Text(
        "No value of the recipe may change.",
        "Write a range in the place of a number, such as `weight: {{search: [0, 1.2], start: 0.5}}`.",
    ),
    "search-values": Text(
        "`search` of '{parameter}' is two numbers, the lower one first, or a list of choices; found {found:phrase}."
    ),
    "search-switch": Text("'{parameter}' is on or off, so `search` is `[0, 1]`; found {found:phrase}."),
    "search-anchors": Text("`anchors` is a whole number from 2 to {most}; found {found:phrase}."),
    "search-start": Text(
        "`start` must be in the range ({expected}); found {found:phrase}.",
        "Give one value, or one for each anchor.",
    ),
    "no-objective": Text(
        "A search needs an objective.", "Add `objective:` with a list of texts, tasks or functions."
    ),
    "only-guards": Text(
        "All objectives have a limit, so there is nothing to improve.",
        "Add one without `at_most` or `at_least`.",
    ),
    "repeated-goal": Text("Two objectives are called '{name}'.", "Give one of them another `name:`."),
    "search-way": Text("There is no way to search called '{name}'.", _MEANT),
    "unknown-start": Text("There is no start called '{name}'.", _MEANT),
    "starts-of-grid": Text("A grid has no starts.", "Remove `starts:`, or choose another `by:`."),
    "starts-without-weights": Text(
        "`starts` weigh models; {count} {count:model has|models have} a `weight` that may change.",
        "Give the weights of two models or more a range, or remove `starts:`.",
    ),
    "cocktail-without-texts": Text(
        "`lm_cocktail` weighs models by how well they predict texts, but an objective is no text.",
        "Use `greedy_soup`, or remove `starts:`.",
    ),
    "unknown-limit": Text(
        "'{name}' is neither a number nor a model of the recipe, so it limits nothing of '{goal}'.", _MEANT
    ),
    "unknown-teacher": Text("'{name}' is no model of the recipe, so it cannot teach '{goal}'.", _MEANT),
    "teacher-without-text": Text(
        "A `teacher` predicts a text or a data set, and this objective is of the kind `{kind}`.",
        "Write `text: FILE` or `dataset: NAME` beside `teacher:`.",
    ),
    "search-shares": Text(
        "`search`, `choice` and `report` are shares above 0 that add up to 1; found {given:and}."
    ),
    "search-number": Text("`{name}` is a number of {low:g} or more; found {found:phrase}."),
    "goal-without-weight": Text(
        "An objective of weight 0 changes nothing.", "Remove it, or give it a limit instead of a weight."
    ),
    "weight-of-limit": Text(
        "An objective with a limit does not count in the score, so its weight changes nothing.",
        "Remove `weight:`, or the limit.",
    ),
    "goal-kind": Text("An objective has one of {known:code}."),
    "chat-without-limit": Text(
        "Answers in a chat can be limited, not improved.", "Add `at_most: base`, or another limit."
    ),
    "python-source": Text("'{given}' names no Python function.", "Write `file.py:function`."),
    "parts-missing": Text(
        "A text by parts names a file for each of {known:code}; this one has {given:code}."
    ),
    "limit-direction": Text("The limit of `{kind}` is `{key}`, not `{given}`."),
    "goal-limit": Text(
        "`{key}` is a number, or relative to a model; found {found:phrase}.",
        "Write `base + 0.01`, or a parent's name in the place of `base`.",
    ),
    "genome-method": Text("mergekit-evolve has no merge method '{name}'.", _MEANT),
    "genome-models": Text("A genome has a list of two or more `models:`."),
    "genome-slerp": Text("mergekit-evolve takes neither `filters` nor `smooth` with SLERP.", "Remove them."),
    "genome-slerp-models": Text(
        "SLERP of {count} models cannot be written as one recipe.",
        "Name two models, or choose another method.",
    ),
    "genome-layers": Text(
        "{layers} layers cannot be cut into groups of {group}.",
        "Choose a `layer_granularity` that divides them.",
    ),
    "text-too-small": Text(
        "{names:and} {names:has|have} {count} {count:document|documents}, {there} of them in the {part} part, which "
        "needs {needed}.",
        "Give more text, cut it into more documents (paragraphs, or lines of a .jsonl file), or change `split:`.",
    ),
    "document-in-two-parts": Text(
        "This document of {names:and} is in the {one} part and, equal or nearly equal, in the {other} part: {text}",
        "Remove one of the two. What is reported must not have been searched on.",
    ),
    "not-a-document": Text(
        "Line {line} of {name} is no document.",
        'Expected JSON with `"text"`, or with `"messages"` of `role` and `content`.',
    ),
    "python-not-allowed": Text(
        "{given}: Python functions run only from the command line and from Python.", "Name a text or a task."
    ),
    "no-python-function": Text("{function} cannot be loaded. Python says: {error}"),
    "python-score": Text("{function} failed. Python says: {error}"),
    "python-score-numbers": Text(
        "{function} returned {found}.", "Expected a finite number, or a list with one for each document."
    ),
    "python-score-count": Text(
        "{function} returned {count} {count:number|numbers} for {documents} documents.",
        "Expected one number for each document.",
    ),
    "task-without-answers": Text(
        "{task} gives no score for single questions ({count} of them).",
        "Choose a task or metric that is a mean over questions.",
    ),
    "trial-not-finite": Text("The model's score is not a finite number.", "Narrow the ranges."),
    "cmaes-few-numbers": Text(
        "CMA-ES needs two numbers or more; the space has {count}.", "Choose `by: tpe`."
    ),
    "no-optuna": Text("Searching needs the package optuna.", "Run `pip install 'alloy-merge[search]'`."),
    "worker-lost": Text(
        "The worker process ended without an answer {count} times while it scored {who}.",
        "There may be too little memory for this many workers. Use fewer.",
    ),
    "search-too-large": Text(
        "{workers} live {workers:model needs|models need} {needed:.1f} GB of memory; {free:.1f} GB are free.",
        "Use fewer workers, smaller models or a larger machine.",
    ),
    "no-gradient": Text(
        "The score has no gradient: every value that may change must be a number, and every objective a text.",
        "Choose `by: tpe`.",
    ),
    "gradient-one-worker": Text(
        "A search by gradient runs in one process, not in {workers}.", "Leave out `--workers`."
    ),
    "gradient-on-cluster": Text(
        "A search by gradient runs in one process of this machine, not on a cluster.",
        "Leave out `--on`, or choose `by: tpe`.",
    ),
    "function-on-cluster": Text(
        "A function of this process cannot be sent to a cluster.",
        "Name it in the space, as `{{python: file.py:function}}`, in a folder that all machines share.",
    ),
    "machine-other-parents": Text(
        "A machine of the cluster reads other versions of {names:all} than this one.",
        "Share the folders, or name a revision. If the models changed since, plan the search again.",
    ),
    "storage-way": Text(
        "Machines cannot share a search by {by}: each of its points follows from those before.",
        "Choose `by: tpe`, or leave out `--storage`.",
    ),
    "storage-url": Text(
        "What was given as storage is no URL of a database.",
        "Write it as SQLAlchemy does, for example `postgresql://user:password@host/name`.",
    ),
    "storage-failed": Text(
        "The database {url} could not be used: {error}",
        "What was scored is in the folder. Run it again to continue when the database answers.",
    ),
    "no-shared-search": Text(
        "The database has no search of this space, with these parents and texts.",
        "Start it on the first machine with `alloy search run --storage`.",
    ),
    "search-in-use": Text(
        "Another process is searching in {folder}.", "Wait for it, or name another folder."
    ),
    "other-search": Text(
        (
            "{folder} holds another search: {what:phrase} changed ({names:all}).",
            "{folder} holds another search: {what:phrase} changed.",
        ),
        "Name another folder, or undo the change to continue.",
    ),
    "backup-not-on-hub": Text(
        "The records of a search are copied to a repository on the Hub, and {given} is none.",
        "Write `--backup hf://owner/name`.",
    ),
    "damaged-records": Text(
        "Line {line} of {file} is damaged.",
        "Delete it and all lines after it: the search continues from there.",
    ),
    "no-search": Text("{folder} holds no search.", "Start one with `alloy search run SPACE --to {folder}`."),
    "no-best": Text("{folder} holds no best recipe yet.", "Run the search to its end."),
    # evaluation
    "no-parents": Text(
        "`--activations` compares with parents, and none are named.", "Name them with `--against`."
    ),
    "out-of-memory": Text(
        "{model}: out of memory while {doing:phrase}.", "Try a shorter text or a smaller model."
    ),
    # healing
    "no-training": Text(
        "The last document of a chain that trains has a `train:` key, and a recipe is before it.",
        "Write the recipe, `---`, and then `train: distillation` with `datasets:`.",
    ),
    "training-kind": Text("`train: {given}` is not known here.", "Known: {known:all}."),
    "training-number": Text(
        (
            "`{name}` is {found}, and a {whole} from {least} to {most:,} is expected.",
            "`{name}` is {found}, and a number from {least} to {most:,} is expected.",
            "`{name}` is {found}, and a number above 0 and up to {most:,} is expected.",
        )
    ),
    "warmup-too-long": Text(
        "`warmup_steps` is {warmup:,}, and the run has {steps:,} {steps:step|steps}.",
        "Lower it, or leave it out: a twentieth of the steps is usual.",
    ),
    "training-loss": Text("`loss_type: {given}` is not known.", _MEANT),
    "no-training-data": Text(
        "No text to train on is named.",
        "Write `datasets: [{{path: FILE}}]` with a .txt or .jsonl file, `python-topics`, or a data set's id.",
    ),
    "training-text-short": Text(
        (
            "The texts to train on have {tokens:,} tokens, and one sequence has {length:,}.",
            "The texts to train on have {bytes:,} bytes, which is too little for a sequence of {length:,} tokens.",
        ),
        "Give longer texts, or lower `max_length`.",
    ),
    "trained-on-judged": Text(
        "The model would be judged on what it was trained on: {texts:all}.",
        "Leave it out of `datasets:`, or name other texts under `evaluate:`.",
    ),
    "trained-on-benchmark": Text(
        "{name} is a benchmark: a model that was trained on it can no longer be judged by it.",
        "Name another data set.",
    ),
    "no-teacher": Text(
        "The model is made of {parents:all}, and no teacher is named.",
        "Write `teacher:` with the model that it is to predict like.",
    ),
    "teacher-vocabulary": Text(
        "{teacher} has {rows:,} rows of tokens and the model has {own:,}, or its tokenizer changes: their predictions "
        "cannot be compared.",
        "Name a teacher with the same tokenizer, or write `train: gold`, which compares across tokenizers.",
    ),
    "teacher-not-widened": Text(
        "{teacher} does not fit into memory in float32, in which models are trained on a processor.",
        "Use a machine with more memory, or a GPU.",
    ),
    "no-layer-pairs": Text(
        "No layer of the model is one of {teacher}'s, so hidden states cannot be compared.",
        "Leave out `hidden_states:`, or name a parent as teacher.",
    ),
    "rank-too-large": Text(
        "`lora_r` is {rank}, and {tensor} has no more than {most} rows or columns.",
        "Lower it to {most} or less.",
    ),
    "training-too-large": Text(
        "Training takes about {needed:.1f} GB of memory; {free:.1f} GB are free.",
        "Lower `max_length` or `per_device_train_batch_size`, or use a larger machine.",
    ),
    "loss-not-finite": Text(
        "The loss is not finite at step {step} (learning rate {rate:.2g}).",
        "Lower `learning_rate`, and start again in another work folder.",
    ),
    "other-training": Text(
        "{file} is the state of another run: its model, texts or arguments differ.",
        "Name another work folder, or delete this one.",
    ),
    "no-room-for-state": Text(
        "There is no room on the disk of {folder}.", "Make room, and run it again to continue."
    ),
    "work-folder-taken": Text(
        "{folder} holds files that are not from a training run, and it would be removed at the end.",
        "Name a new or empty work folder.",
    ),
    "adapter-folder-exists": Text("{folder} exists.", "Name a new folder for the adapter."),
    "only-distillation": Text(
        "`{name}` goes with `train: distillation`, and this is `train: {kind}`.", "Leave it out."
    ),
    "stored-without-states": Text(
        "`top_k` stores predictions alone, and `hidden_states` compares hidden states.",
        "Leave out one of them. Hidden states need a teacher that runs beside the student.",
    ),
    "training-weights": Text("`weights: {given}` is not known.", "Known: {known:all}."),
    "training-switch": Text("`{name}` is {found}, and true or false is expected."),
    "not-a-row": Text(
        "Row {line} of {name} is not {wanted:phrase}.",
        "See docs/heal.md for the columns of each kind of training.",
    ),
    "no-instructions": Text("{file} has no instructions.", "Write one a line."),
    "training-file-kind": Text(
        "{name} is no file of a kind that is read: {known:all}.",
        "Convert it to .jsonl: one JSON object a line, with the columns of docs/heal.md.",
    ),
    "row-repeated-key": Text("Line {line} of {name} has `{key}` twice.", "Keep one of them."),
    "row-too-large": Text(
        "Row {line} of {name} has {size:,.0f} million characters, and at most {most:,.0f} million are read.",
        "Cut it into documents, with a row for each.",
    ),
    "row-null-character": Text(
        "Row {line} of {name} has a null character, which is no text.",
        "The file may be damaged, or in another encoding. Remove the character, or convert the file to UTF-8.",
    ),
    "row-answers-alike": Text(
        "In row {line} of {name} the chosen and the rejected answer are the same, so there is nothing to prefer.",
        "Remove the row.",
    ),
    "row-role": Text(
        "In row {line} of {name} a message has the role '{role}'.", "Known roles: {known:plain}."
    ),
    "row-turns-repeat": Text(
        "In row {line} of {name} two messages of the role '{role}' follow each other.",
        "Join them into one message, or put back what was said between them.",
    ),
    "row-without-answer": Text(
        "The conversation in row {line} of {name} does not end with a message of the role 'assistant', so there is no "
        "answer to learn.",
        "Add the answer, or remove the row.",
    ),
    "rows-without-columns": Text(
        "`{name}` needs rows with {columns:and}, and these have {given:and}.",
        "Leave it out, or give other rows.",
    ),
    "rows-cut": Text(
        "{count:,} of {rows:,} rows are probably longer than `max_length` ({length:,} tokens); what is beyond is not "
        "trained on.",
        "Raise `max_length`, or cut the rows into shorter ones.",
    ),
    "top-k-too-large": Text(
        "`top_k` is {k:,}, and the vocabulary has {most:,} tokens.",
        "Lower it (64 is usual), or leave it out for a teacher that runs beside the student.",
    ),
    "rows-of-two-forms": Text(
        "Some rows have the columns {one:and}, others {other:and}.", "Give rows of one form."
    ),
    "training-beyond-context": Text(
        "`max_length` is {length:,}, and the model reads no more than {most:,} tokens at once.",
        "Lower it to {most:,} or less.",
    ),
    "training-texts-tiny": Text(
        "The longest text to train on has {bytes} {bytes:byte|bytes}. There is nothing to learn from one token alone.",
        "Give texts of at least a sentence.",
    ),
    "rows-too-short": Text(
        "None of the {rows:,} rows has tokens to learn from.", "Give longer rows, or raise `max_length`."
    ),
    "rows-without-template": Text(
        "The rows are conversations, and the model has no chat template to write them with.",
        "Give rows with `text`, or with plain `prompt` and answers, or set `chat_template:` in the recipe.",
    ),
    "nothing-held-out": Text(
        "None of the {rows:,} rows can be held out to judge on: there are fewer than ten, or all are alike.",
        "Give more rows, or name texts under `evaluate:`.",
    ),
    "no-trl": Text("`train: {kind}` needs TRL.", "Run `pip install 'alloy-merge[healing]'`."),
    "trl-refused": Text("TRL refuses the rows or the arguments: {words}"),
    "no-copies": Text(
        "`weights: copies` trains the silent copies of a stack, and this model has none.",
        "Use `alloy stack`, or leave out `weights:`.",
    ),
    "nothing-to-imitate": Text(
        "With silent copies the model predicts exactly what {teacher} does, so there is nothing to learn from it.",
        "Write `train: sft` with texts, or name another teacher.",
    ),
    "state-not-private": Text(
        "{repository} is public, and unfinished work would be readable there.",
        "Make it private, or name another repository. A training keeps its state in a folder with `--work`.",
    ),
    "state-not-stored": Text(
        "Unfinished work could not be kept in {repository}: {error}.",
        "Run it again to continue. A training keeps its state in a folder with `--work`.",
    ),
    "adapter-only-lora": Text(
        "`--adapter-only` writes a LoRA, and `weights: {weights}` trains whole tensors.",
        "Leave out one of them.",
    ),
    # pipelines
    "not-only-recipes": Text(
        "This document (`{key}:`) is a stage of a pipeline, and only recipes are read here.",
        "Run the whole file with `alloy run`.",
    ),
    "no-stage-before": Text("`{key}:` has no recipe before it.", "Write the recipe above it."),
    "stage-name": Text(
        "Later documents need the result of this one, and it has no `name:`.", "Give it a name."
    ),
    "stage-name-repeated": Text("Two documents are called {name}.", "Rename one of them."),
    "last-stage-gguf": Text("`gguf:` is followed by another document.", "Put it last."),
    "stage-unused": Text("No later document uses {name}, and it is not the last.", "Use it, or remove it."),
    "other-pipeline": Text(
        "{folder} holds the work of another pipeline.",
        "Name another folder with `--work`, or delete this one.",
    ),
    "training-too-long": Text(
        "{steps:,} steps would take about {minutes:.0f} minutes; this server allows {most:,} steps and "
        "{most_minutes:.0f} minutes.",
        "Lower `max_steps`, or run it on your own machine with `alloy heal run`.",
    ),
    "not-healed": Text(
        (
            "The model did not heal. It was written to {written}, because `--keep` was given.",
            "The model did not heal, and was not written.",
        ),
        "Train on more text or for more steps. `--keep` writes such a result.",
    ),
}

PHRASES: dict[str, Template] = {
    # what is wrong with a card's metadata
    "card-no-yaml": "is not valid YAML ({words})",
    "card-no-mapping": "is not valid YAML (a mapping is expected)",
    "card-no-models": "has a model-index that is no list of models",
    "card-no-results": "has a model-index that holds no list of results",
    "card-no-metrics": "has a model-index that holds no list of metrics",
    "card-entangled": "has a model-index that cannot be edited without changing what surrounds it",
    # what a recipe is made of
    "recipe": "a recipe",
    "model-entry": "a model's entry",
    "source": "a source",
    "slice": "a slice",
    "module": "a module",
    "tokenizer": "the tokenizer",
    "token": "a token",
    "zero-row": "a row of zeros",
    "model-token": "a model's token",
    "model": "a model",
    "model-path": "a model's path",
    "adapter": "an adapter",
    "filtered-value": "a value with a filter",
    "name": "a name",
    "expert": "an expert",
    "prompt": "a prompt",
    "gate_mode": "a gate mode",
    "shared_weights": "`base` or `average`",
    "merge-method": "a merge method's name",
    "dtype": "a dtype",
    "chat-template": "a chat template",
    "model-class": "the name of a model's class",
    "path": "a path",
    "revision": "a revision",
    # what an adapter's config holds
    "number": "a number",
    "numbers-by-name": "a mapping of numbers by names of modules",
    "names": "a list of names",
    "token-numbers": "a list of tokens' numbers",
    # what a search is made of
    "search-block": "the `search:` block",
    "search-range": "a range",
    "search-budget": "a budget",
    "search-split": "a split",
    "search-goal": "an objective",
    "search-parts": "a text by parts",
    "genome-file": "a file for mergekit-evolve",
    "genome": "a genome",
    "genome-task": "a task",
    "changed-space": "the space",
    "changed-parents": "the parents",
    "changed-data": "the data",
    # what was found instead
    "mapping": "a mapping",
    "list": "a list",
    "empty-list": "an empty list",
    # how tensors and adapters do not fit
    "shape-instead": "{name} {found} instead of {expected}",
    "shape-of": "{name} {shape}",
    "several-dtypes": "{name} with dtypes {dtypes}",
    "misfit-shape": "{name} is {found}, the base's is {expected}",
    "misfit-dtype": "{name} holds no floating-point numbers",
    "misfit-rows": "{name} has rows of shape {found} for {count} tokens of {expected}",
    "misfit-factors": "{name} takes {inputs} to {outputs} numbers, the base's is {expected}",
    "misfit-magnitudes": "{name} has another number of magnitudes than outputs ({outputs})",
    "misfit-bias": "{name} adds {count} biases",
    "misfit-product": "{name} has no product of the base's shape, {expected}",
    "misfit-ia3": "{name} has {count} factors, the base's is {expected}",
    "vocabulary-size": (
        "{model} has {rows} rows for {tokens} tokens, {lacking} of which others lack ({alone:few})",
        "{model} has {rows} rows for {tokens} tokens",
    ),
    # how rows are approximated
    "approximated-by": "{count} by {rule}",
    # what is wrong with parameters
    "weights-cancel": "the weights {weights} add up to zero and cannot be normalized",
    "keep-probabilities": "the probability to keep an entry must be between 0 and 1, but {wrong:all}",
    "keep-probability": "with density {density} and epsilon {epsilon} it goes from {low} to {high}",
    # what is wrong with a chat template
    "template-endless": "it does not finish",
    # what was going on
    "doing-loading": "loading it",
    "doing-trying": "trying it",
    "doing-benchmark": "answering a benchmark",
    "doing-answering": "answering",
    "doing-reading": "reading a text",
    "doing-applying": "merging it into its base",
    "doing-scoring": "scoring",
    "doing-training": "training",
    "whole-number": "whole number",
    "rows-texts": "a text: a string, or a row with `text`, `messages`, or `prompt` and `completion`",
    "rows-conversations": "a conversation: a row with `messages`, or `prompt` and `completion`",
    "rows-preferences": "a preference: a row with `prompt`, `chosen` and `rejected`, or a vote of the Chat tab",
}

WORDING = Wording(PHRASES)
