"""A Space that strangers use: whatever one of them asks for, another visitor is answered within seconds.

Each attack is an anonymous request, often of less than a kilobyte, about a model that anyone may upload. It is to be
refused in words, or to end alone.
"""

from __future__ import annotations

import io
import json
import subprocess
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
import torch
from safetensors.torch import save

from tests.hub import Hub
from tests.ui.conftest import started
from tests.ui.speaker import tiny_speaker

# Seconds in which another visitor is answered: an idle machine takes a tenth of one.
SECONDS = 10
# Public addresses, as a Space's proxy states them.
ATTACKER, ANOTHER = "8.8.4.4", "1.1.1.1"
PLAN = "merge_method: passthrough\nmodels: [{{model: {}}}]"
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1,
          "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 8}  # fmt: skip
Files = dict[str, bytes]


@dataclass(frozen=True)
class Space:
    """The app as a Space, its Hub, and the address that calls come from."""

    url: str
    hub: Hub
    process: subprocess.Popen[bytes]
    folder: Path
    visitor: str = ATTACKER

    def call(self, endpoint: str, **arguments: Any) -> Any:
        """What an anonymous caller gets."""
        body = json.dumps(arguments).encode()
        address = f"{self.url}gradio_api/call/{endpoint}"
        headers = {"content-type": "application/json", "x-forwarded-for": self.visitor}
        asked = urllib.request.Request(address.replace("/call/", "/call/v2/"), body, headers)
        with urllib.request.urlopen(asked, timeout=60) as answer:
            event = json.loads(answer.read())["event_id"]
        with urllib.request.urlopen(f"{address}/{event}", timeout=300) as lines:
            kind = ""
            for line in map(bytes.decode, lines):
                kind = line[6:].strip() if line.startswith("event:") else kind
                if line.startswith("data:") and kind in ("complete", "error"):
                    return json.loads(line[5:])[0] if kind == "complete" else {"error": line[5:]}
        raise AssertionError("the connection ended without an answer")

    def put(self, name: str, files: Path | Files) -> str:
        self.hub.put(name, files)
        return name


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    folder = tmp_path_factory.mktemp("space")
    with Hub() as hub:
        for user in ("mallory", "honest"):
            hub.add_user(user)
        hub.put("honest/model", tiny_speaker(folder / "honest", 1))
        downloads = str(folder / "downloads")
        variables = {"SPACE_ID": "you/alloy", "ALLOY_DOWNLOADS": downloads, "HF_TOKEN": "hf_the_spaces_own"}
        with started(hub, folder, **variables) as (url, process):
            yield Space(url, hub, process, folder)


def torch_zip(pickled: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/byteorder", b"little")
        file.writestr("archive/version", b"3\n")
    return content.getvalue()


def safetensors(header: str) -> bytes:
    return len(header.encode()).to_bytes(8, "little") + header.encode()


def model(config: dict[str, Any] | None = None, **files: bytes) -> Files:
    """A model of one tensor, or of these files."""
    weights = files or {"model.safetensors": save({"model.norm.weight": torch.zeros(8)})}
    named = {name.replace("__", "."): content for name, content in weights.items()}
    return {"config.json": json.dumps({**CONFIG, **(config or {})}).encode(), **named}


def deep_key() -> Files:
    """A key of a dictionary that is a tuple in a tuple in a tuple ..."""
    return model(pytorch_model__bin=torch_zip(b"\x80\x02})" + b"\x85" * 3_000_000 + b"Ns."))


def shared_key() -> Files:
    """A key whose hash takes 2^60 steps: each tuple holds the one before twice."""
    pairs = b"".join(b"h%ch%c\x86q%c" % (i + 1, i + 1, i + 2) for i in range(60))
    return model(pytorch_model__bin=torch_zip(b"\x80\x02)q\x01" + pairs + b"}h\x3dNs."))


def wide_shape() -> Files:
    sizes = ",".join(["9" * 4299] * 500)
    header = f'{{"w":{{"dtype":"F32","shape":[{sizes}],"data_offsets":[0,0]}}}}'
    return model(weights__safetensors=safetensors(header))


def long_config() -> Files:
    files = model()
    return files | {"config.json": b'{"model_type":"llama","a":[' + b"[]," * 20_000_000 + b"[]]}"}


def many_layers() -> Files:
    return model({"num_hidden_layers": 10**9})


SLOW = pytest.mark.nightly
PLANS = [
    pytest.param(deep_key, id="a deep key", marks=SLOW),
    pytest.param(shared_key, id="a key of 2^60 steps"),
    pytest.param(wide_shape, id="integers of 4,299 digits"),
    pytest.param(long_config, id="a config of 60 MB", marks=SLOW),
    pytest.param(many_layers, id="a billion layers"),
]


def lists_methods(space: Space) -> None:
    assert len(replace(space, visitor=ANOTHER).call("methods")) > 10


def chats(space: Space) -> None:
    assert replace(space, visitor=ANOTHER).call("chat", model="honest/model", message="hi", max_new_tokens=2)[
        "ok"
    ]


def attacked(
    space: Space, endpoint: str, meanwhile: Callable[[Space], None] = lists_methods, **arguments: Any
) -> Any:
    """The answer to an attack; while it runs, another visitor asks for something again and again."""
    with ThreadPoolExecutor(1) as pool:
        attack = pool.submit(space.call, endpoint, **arguments)
        while True:
            began = time.monotonic()
            meanwhile(space)
            assert time.monotonic() - began < SECONDS
            if attack.done():
                break
            wait([attack], timeout=0.5)
    assert space.process.poll() is None
    return attack.result()


@pytest.mark.parametrize("files", PLANS)
def test_a_plan_of_a_strangers_model_ends_alone(space: Space, files: Callable[[], Files]) -> None:
    about = space.put(f"mallory/{files.__name__}", files())

    answer = attacked(space, "plan", recipe=PLAN.format(about))

    assert answer["ok"] is False
    assert answer["problems"][0]["code"] not in ("plan-defect", "")
    assert space.call("plan", recipe=PLAN.format("honest/model"))["ok"]


TEMPLATES = {
    "time": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "memory": "{% set ns = namespace(s='a'*1000000000) %}{{ ns.s ~ ns.s ~ ns.s ~ ns.s }}",
    "one number": "{{ 7 ** 99999999 }}",
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[SLOW] * (kind != "one number")) for kind in TEMPLATES]
)
def test_a_strangers_template_ends_alone(space: Space, tmp_path: Path, kind: str) -> None:
    folder = tiny_speaker(tmp_path / "model", 2)
    (folder / "chat_template.jinja").write_text(TEMPLATES[kind])
    about = space.put(f"mallory/template-{kind.replace(' ', '-')}", folder)

    answer = attacked(space, "chat", model=about, message="hi", max_new_tokens=2)

    assert answer["ok"] is False
    assert space.call("chat", model="honest/model", message="hi", max_new_tokens=2)["ok"]


def test_a_strangers_tokenizer_ends_alone(space: Space, tmp_path: Path) -> None:
    folder = tiny_speaker(tmp_path / "model", 4)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    # A thousand letters of one, ten times over.
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}
    tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [step] * 10}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    about = space.put("mallory/tokenizer", folder)
    chats(space)  # it is loaded then

    answer = attacked(space, "chat", chats, model=about, message="a b", max_new_tokens=2)

    [problem] = answer["problems"]
    assert "tokenizer" in problem["message"] and "GB of memory" in problem["message"]


@pytest.mark.parametrize("endpoint", ["chat", pytest.param("plan", marks=SLOW)])
def test_a_strangers_patterns_end_alone(space: Space, endpoint: str) -> None:
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    config = {
        "peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": "([a-z._0-9]+)+!",
        "alpha_pattern": {".*.*.*.*!": 1} if endpoint == "plan" else {},
    }  # fmt: skip
    factors = {f"{key}A.weight": torch.zeros(2, 64), f"{key}B.weight": torch.zeros(64, 2)}
    lora = space.put(
        f"mallory/lora-{endpoint}",
        {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": save(factors)},
    )
    about = f"honest/model+{lora}"
    arguments = {
        "chat": {"model": about, "message": "hi", "max_new_tokens": 2},
        "plan": {"recipe": PLAN.format(about)},
    }

    answer = attacked(space, endpoint, **arguments[endpoint])

    assert answer["ok"] is (endpoint == "chat")  # its modules are those of its tensors


def test_a_model_that_cannot_be_built_is_not_built(space: Space, tmp_path: Path) -> None:
    folder = tiny_speaker(tmp_path / "model", 3)
    config = json.loads((folder / "config.json").read_text())
    config.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**9}))
    about = space.put("mallory/layers", folder)

    answer = attacked(space, "chat", model=about, message="hi", max_new_tokens=2)

    assert "num_hidden_layers: 1000000000" in answer["problems"][0]["message"]


def typed(space: Space, recipe: str, session: str) -> None:
    """Type a recipe into the page's editor, as the browser of an anonymous visitor would say it."""
    with urllib.request.urlopen(f"{space.url}config", timeout=60) as answer:
        config = json.loads(answer.read())
    editor = next(part["id"] for part in config["components"] if part["type"] == "code")
    event = next(one for one in config["dependencies"] if [editor, "input"] in map(list, one["targets"]))
    given = [recipe if part == editor else None for part in event["inputs"]]
    body = {"fn_index": event["id"], "data": given, "session_hash": session, "trigger_id": editor}
    headers = {"content-type": "application/json", "x-forwarded-for": space.visitor}
    asked = urllib.request.Request(f"{space.url}gradio_api/run/predict", json.dumps(body).encode(), headers)
    with suppress(HTTPError), urllib.request.urlopen(asked, timeout=300) as answer:
        answer.read()


FILTERS = "".join(f"  - {{filter: x{number}, value: 0.5}}\n" for number in range(3000))
RECIPES = {
    "3,000 filters": f"merge_method: slerp\nmodels: [{{model: a/b}}, {{model: c/d}}]\nparameters:\n  t:\n{FILTERS}",
    "misspelt keys": "merge_method: slerp\n" + "".join(f"densty{number}: 1\n" for number in range(400)),
    "merges of merges": "a0: &a0 {x: 1}\n"
    + "".join(f"a{level}: &a{level} {{<<: [{f'*a{level - 1}, ' * 9}]}}\n" for level in range(1, 11)),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[SLOW] * (kind != "3,000 filters")) for kind in RECIPES]
)
def test_a_strangers_recipe_in_the_editor_ends_alone(space: Space, kind: str) -> None:
    with ThreadPoolExecutor(40) as pool:
        attacks = [pool.submit(typed, space, RECIPES[kind], f"mallory{number}") for number in range(40)]
        while not all(attack.done() for attack in attacks):
            began = time.monotonic()
            lists_methods(space)
            assert time.monotonic() - began < SECONDS
    assert space.process.poll() is None
    assert not space.call("plan", recipe=RECIPES[kind])["ok"]


LONG = {
    "a word in a message": ("chat", {"message": "a" * 300_000}, "text-too-long"),
    "a word in a system prompt": ("chat", {"message": "hi", "system": "a" * 150_000}, "word-too-long"),
    "accents on one letter": ("chat", {"message": "e" + "\u0301" * 150_000}, "word-too-long"),
    "a word to score": ("perplexity", {"text": "a" * 150_000}, "word-too-long"),
}


@pytest.mark.parametrize("kind", LONG)
def test_a_long_text_is_refused_at_once(space: Space, kind: str) -> None:
    endpoint, arguments, code = LONG[kind]

    answer = attacked(space, endpoint, model="honest/model", **arguments)

    assert [problem["code"] for problem in answer["problems"]] == [code]


def test_a_template_that_writes_a_long_text_reaches_no_tokenizer(space: Space, tmp_path: Path) -> None:
    folder = tiny_speaker(tmp_path / "model", 5)
    (folder / "chat_template.jinja").write_text("{{ 'a' * 10000000 }}")
    about = space.put("mallory/long-template", folder)

    answer = attacked(space, "chat", model=about, message="hi", max_new_tokens=2)

    assert "this server reads up to 200000" in answer["problems"][0]["message"]


@pytest.mark.parametrize("path", ["queue/join", "call/v2/plan", "upload"])
def test_a_large_request_is_refused_before_it_is_read(space: Space, path: str) -> None:
    asked = urllib.request.Request(f"{space.url}gradio_api/{path}", b"[", {"content-length": str(10**9)})

    with pytest.raises(HTTPError) as refused:
        urllib.request.urlopen(asked, timeout=60)

    assert refused.value.code == 413
    lists_methods(space)


def test_the_spaces_own_token_reaches_no_visitor(space: Space) -> None:
    assert "hf_the_spaces_own" not in (space.folder / "app.log").read_text()
    assert space.call("plan", recipe=PLAN.format("honest/model"))["ok"]
    assert not [exchange for exchange in space.hub.log if exchange.auth]
