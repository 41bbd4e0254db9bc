"""Every file that a tokenizer of transformers reads belongs to the tokenizer."""

from __future__ import annotations

import re
from pathlib import Path

import transformers

from checkpoints.tokenizer_files import has_vocabulary, tokenizer_files

NAMES = re.compile(r"VOCAB_FILES_NAMES\s*=\s*\{(.*?)\}", re.DOTALL)


def test_the_files_of_every_tokenizer_are_known() -> None:
    modules = (Path(transformers.__file__).parent / "models").glob("*/tokenization_*.py")
    named = {path.parent.name: NAMES.search(path.read_text("utf-8")) for path in modules}
    files = {family: re.findall(r':\s*"([^"]+)"', found[1]) for family, found in named.items() if found}

    assert len(files) > 30
    for family, own in files.items():
        assert tokenizer_files(own) == sorted(own), family
        assert has_vocabulary(own), family
