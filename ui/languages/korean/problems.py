"""The words of problems in Korean, by code; the values are those of the English words."""

from __future__ import annotations

from checkpoints.problem_texts import Text

_MEANT = ("혹시 '{near}'인가요?", "쓸 수 있는 것: {known:plain}.")
_DOWNLOAD_AGAIN = "다시 내려받거나 올리세요."
_CONVERT = "먼저 https://huggingface.co/spaces/safetensors/convert 에서 변환하세요."
_UNREAD = "{file}: 실행하지 않고는 읽을 수 없습니다. "
_MERGE_WITH_PEFT = "PEFT(`PeftModel.merge_and_unload`)로 베이스에 합친 다음 그 결과를 쓰세요."
_GROWN_BASE = "어댑터를 학습할 때 쓴, 어휘가 늘어난 베이스를 쓰세요."
_TRAINED_ON = ("이 어댑터가 밝힌 학습 베이스: {trained_on}.", "학습할 때 쓴 베이스를 쓰세요.")
_SAVE_AS_FAST = (
    "토크나이저를 한 번 fast 형식으로 저장해(`AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER)`) "
    "tokenizer.json을 가중치 옆에 두세요."
)
_NO_DISK = "자리를 비우거나, 디스크가 필요 없는 허브(`hf://owner/name`)로 병합하세요."
_WHOLE_NUMBER = "0 이상의 정수를 쓰세요."
_NAME_ORIGINAL = "대신 정밀도를 잃지 않은 모델을 쓰세요: {original}."
_NAME_UNQUANTIZED = (_NAME_ORIGINAL, "그것을 만든 bfloat16, float16 또는 float32 모델을 쓰세요.")
_OTHER_NAME = "다른 이름을 고르세요."
_REPORT = "Alloy의 버그입니다. 레시피와 함께 알려 주세요."
_ORDER_OF_LAYERS = "설정의 `{key}: {value}` 값으로는 새 레이어 순서를 나타낼 수 없습니다."
_ALL_LAYERS = "레이어를 모두 원래 순서대로 병합하세요."

PROBLEMS: dict[str, Text] = {
    # models: where they are
    "no-folder-or-model-id": Text(
        "'{given}': 이 컴퓨터의 폴더도, 모델 id도 아닙니다.", "`owner/name`으로 쓰세요."
    ),
    "no-model-id": Text("'{given}': 모델 id가 아닙니다.", "`owner/name`으로 쓰세요."),
    "model-not-found": Text(
        "{host}에서 {model} 모델을 찾을 수 없거나, 이 로그인으로는 볼 수 없습니다.",
        (
            "혹시 {similar} 모델인가요?",
            "철자를 확인하세요. 비공개 모델이면 볼 수 있는 계정으로 로그인하세요.",
        ),
    ),
    "no-revision": Text(
        "{model}에 '{revision}' 리비전이 없습니다.", "브랜치, 태그, 커밋 가운데 하나를 쓰세요."
    ),
    "no-part": Text(
        "{model}의 '{place}' 위치에는 아무것도 없습니다.", ("있는 폴더: {folders:all}.", "폴더가 없습니다.")
    ),
    "gated": Text(
        "{model}: 승인이 필요한 모델이고, 이 로그인은 승인받지 않았습니다.",
        "{page} 에서 조건에 동의하고 그 계정으로 로그인하세요.",
    ),
    "access-lost": Text(
        "{model}: 이 로그인으로 더는 읽을 수 없습니다(상태 {status}).",
        "토큰이 취소되었거나 만료되었거나, 모델이 없어졌습니다. 로그인하고 다시 시작하세요.",
    ),
    "hub-silent-for": Text(
        "{model}: 허브가 응답하지 않았습니다({error}).", "연결을 확인하고 다시 해 보세요."
    ),
    "unreadable": Text(
        "{file}의 {start}~{end}바이트를 읽을 수 없었습니다({reason}).",
        (
            "서버가 {seconds:.0f}초 기다리라고 합니다. 나중에 다시 해 보세요.",
            "다시 해 보세요. 계속 실패하면 모델 페이지를 확인하세요.",
        ),
    ),
    "not-cached": Text(
        (
            "{model}의 '{revision}' 리비전이 Hugging Face 캐시에 없고, HF_HUB_OFFLINE이 설정되어 있습니다.",
            "{model}: Hugging Face 캐시에 없고, HF_HUB_OFFLINE이 설정되어 있습니다.",
        ),
        "`hf download {model}`로 내려받거나 HF_HUB_OFFLINE을 해제하세요.",
    ),
    "file-not-cached": Text(
        "{model}의 {file} 파일을 Hugging Face 캐시에서 읽을 수 없고, HF_HUB_OFFLINE이 설정되어 있습니다.",
        "`hf download {model}`로 내려받거나 HF_HUB_OFFLINE을 해제하세요.",
    ),
    "cache-closed": Text(
        "{model}: 이 서버의 캐시에 있지만, 누가 읽어도 되는지 허브에 물을 수 없습니다.",
        "HF_HUB_OFFLINE을 해제하세요.",
    ),
    "file-cut-short": Text(
        "{file}: 파일이 너무 짧습니다. {start}~{end}바이트가 있어야 합니다.", "다시 복사하거나 내려받으세요."
    ),
    "unknown-format": Text("{file}: 읽을 수 있는 형식({known:all})이 아닙니다.", "가중치 파일을 쓰세요."),
    # models: what is in them
    "large-file": Text(
        "{file}: 크기가 {size}바이트입니다. 가중치 옆의 파일은 작아야 합니다.",
        "다른 이름의 가중치 파일은 아닌가요?",
    ),
    "not-json": Text("{model}의 {file}: JSON이 아닙니다({error}).", "모델 저장소를 고치세요."),
    "no-config": Text("{model}에 config.json이 없습니다.", "transformers 모델을 쓰세요."),
    "damaged-config": Text("{model}의 config.json이 객체가 아닙니다.", "모델 저장소를 고치세요."),
    "count-beyond-weights": Text(
        "{model}의 config.json에는 {key}: {count}인데 가중치의 텐서는 {tensors}개입니다.",
        "모델의 설정을 고치세요.",
    ),
    "frequencies-beyond-weights": Text(
        "{model}의 config.json은 회전 주파수 {count}개를 요구하는데 가중치의 키는 {rows}행입니다.",
        "모델의 설정을 고치세요.",
    ),
    "adapter": Text(
        "{adapter}: 모델 전체가 아니라 어댑터입니다.",
        ("`{base}+{adapter}`로 쓰세요.", "`베이스+{adapter}`로 쓰세요."),
    ),
    "pickle-only": Text("{model}: 가중치가 {file} 아닌 이름의 피클로만 있습니다.", _CONVERT),
    "gguf-not-installed": Text(
        "GGUF 파일에는 {package} 패키지가 필요한데 설치되어 있지 않습니다.",
        "`pip install 'alloy-merge[gguf]'`를 실행하세요.",
    ),
    "gguf-twice": Text(
        "{package} 패키지와 {converter} 패키지가 함께 설치되어 있습니다. 둘 다 `gguf` 모듈을 담고 있어 하나가 다른 "
        "하나를 덮어썼습니다.",
        "`pip uninstall {package}`를 실행한 다음 `pip install --force-reinstall --no-deps {converter}`를 실행하세요.",
    ),
    "gguf-no-quantizer": Text(
        "{types:all} 형식에는 libgguf 패키지가 필요한데 설치되어 있지 않습니다.",
        "`pip install 'alloy-merge[gguf]'`를 실행하거나 BF16, F16, Q8_0 가운데 고르세요.",
    ),
    "gguf-needs-importance": Text(
        "{type}에는 중요도 행렬이 필요한데 Alloy는 이를 계산하지 않습니다.", "{known:all} 가운데 고르세요."
    ),
    "gguf-unknown-type": Text(
        "Alloy는 '{type}' 형식의 GGUF 파일을 만들지 않습니다.",
        ("혹시 '{near}'인가요?", "아는 형식: {known:all}."),
    ),
    "gguf-no-type": Text("GGUF 파일의 형식이 없습니다.", "{known:all} 가운데 고르세요."),
    "gguf-unknown-architecture": Text(
        "{model}: llama.cpp의 변환기가 {architecture} 아키텍처를 모릅니다.", "GGUF 파일을 빼세요."
    ),
    "gguf-unknown-tensor": Text(
        "{model}: llama.cpp의 변환기가 모르는 텐서가 있습니다: {tensor}.", "GGUF 파일을 빼세요."
    ),
    "gguf-unknown-pre-tokenizer": Text(
        "{model}: 토크나이저가 글을 나누는 방식을 llama.cpp의 변환기가 알아보지 못하며, 병합한 모델 가운데 알아볼 수 "
        "있는 방식으로 나누는 것도 없습니다.",
        "모델 하나의 토크나이저를 그대로, 또는 토큰만 더해서 쓰세요.",
    ),
    "gguf-cannot-convert": Text(
        "{model}: llama.cpp의 변환기가 실패했습니다({error}).", "GGUF 파일을 빼세요."
    ),
    "gguf-limit": Text(
        "{model}: GGUF 파일의 구성을 정하는 데 프로세서 시간 {seconds}초나 메모리 {memory:.0f} GB를 넘겼습니다.",
        "GGUF 파일을 빼세요.",
    ),
    "gguf-lost": Text(
        "{name}: GGUF 파일 하나가 도착하지 않았습니다.",
        "다시 실행하세요. 도착한 파일은 다시 만들지 않습니다.",
    ),
    "damaged-gguf": Text(
        "{file}: 읽을 수 있는 GGUF 파일이 아니거나 손상되었습니다({error}).", _DOWNLOAD_AGAIN
    ),
    "several-gguf": Text(
        "{model}: GGUF 파일로 된 모델이 여럿입니다. {files:few}.",
        "그 가운데 하나를 쓰세요. 정밀도를 가장 적게 잃은 가장 큰 것은 `{model}/{file}`입니다.",
    ),
    "gguf-not-understood": Text(
        "{model}: {file} 파일을 transformers 모델로 읽을 수 없습니다({error}).",
        (_NAME_ORIGINAL, "그것을 만든 원래 모델을 쓰세요."),
    ),
    "gguf-tokenizer": Text(
        "{model}: GGUF 파일의 토크나이저({kind})를 되살릴 수 없습니다.",
        "다른 모델의 토크나이저를 쓰세요. `tokenizer: {{source: 모델}}`.",
    ),
    "no-weights": Text("{model}: 읽을 수 있는 가중치가 없습니다.", "model.safetensors가 있는 모델을 쓰세요."),
    "missing-shard": Text(
        "{model}의 {index}에 적힌 {file} 파일이 없습니다.",
        "모델이 온전하지 않습니다. 만든 이가 파일을 올리거나, 그 파일을 내려받아야 합니다.",
    ),
    "missing-part": Text(
        "{model}의 가중치 파일에는 번호가 있는데 {file} 파일이 없고, {index}도 없습니다.",
        "모델이 온전하지 않습니다. 만든 이가 파일을 올리거나, 그 파일들을 내려받아야 합니다.",
    ),
    "lfs-pointer": Text(
        "{file}에는 Git LFS가 아직 내려받지 않은 파일의 자리 표시만 있습니다.",
        "그 폴더에서 `git lfs pull`을 실행하거나 `hf download`로 모델을 내려받으세요.",
    ),
    "header-length": Text(
        "{file}: 손상된 파일입니다. {size}바이트 파일에서 헤더가 {length}바이트라고 되어 있습니다.",
        _DOWNLOAD_AGAIN,
    ),
    "header-unreadable": Text(
        "{file}: 손상된 파일입니다. 헤더를 읽을 수 없습니다({error}).", _DOWNLOAD_AGAIN
    ),
    "header-entry": Text(
        "{file}: 손상된 파일입니다. 헤더가 {tensor}의 dtype과 크기와 두 위치를 말하지 않습니다.",
        _DOWNLOAD_AGAIN,
    ),
    "tensor-limits": Text(
        "{file}: 읽을 수 없습니다. {tensor}: 너무 크거나, 축이 16개보다 많거나({axes}개), 이름이 256자보다 깁니다.",
        "safetensors 라이브러리로 다시 저장하세요.",
    ),
    "too-many-tensors": Text(
        "{model}: 읽을 수 없습니다. 파일에 텐서가 {most:,}개보다 많습니다.", "더 적은 텐서로 다시 저장하세요."
    ),
    "long-header": Text(
        "{file}: 읽을 수 없습니다. 헤더에 텐서 {most:,}개인 모델에 필요한 것보다 많은 항목이 있습니다.",
        "더 적은 텐서로 다시 저장하세요.",
    ),
    "large-headers": Text(
        "{model}: 읽을 수 없습니다. 파일의 헤더가 모두 합쳐 {most:,}바이트보다 큽니다.",
        "safetensors 라이브러리로 다시 저장하세요.",
    ),
    "header-gap": Text(
        "{file}: 손상된 파일입니다. {tensor}의 바이트가 앞의 것에 이어지지 않습니다.", _DOWNLOAD_AGAIN
    ),
    "header-tensor-size": Text(
        "{file}: 손상된 파일입니다. {tensor}의 모양은 {shape}인데 {bytes}바이트입니다.", _DOWNLOAD_AGAIN
    ),
    "header-file-size": Text(
        "{file}: 손상된 파일입니다. 헤더에는 {end}바이트인데 실제로는 {size}바이트입니다.", _DOWNLOAD_AGAIN
    ),
    # pickles, which are read and never run
    "pickle-big-endian": Text(_UNREAD + "숫자가 빅 엔디언입니다.", _CONVERT),
    "pickle-not-whole": Text(_UNREAD + "torch.save로 저장한 온전한 파일이 아닙니다.", _CONVERT),
    "pickle-no-names": Text(_UNREAD + "피클에 이름 붙은 텐서가 없습니다.", _CONVERT),
    "pickle-no-tensor": Text(_UNREAD + "그 안의 {name} 항목은 텐서가 아닙니다.", _CONVERT),
    "pickle-view": Text(
        _UNREAD + "그 안의 {tensor} 텐서는 연속되지 않고, 다른 텐서의 행이나 열을 가리킵니다.", _CONVERT
    ),
    "pickle-bytes-missing": Text(_UNREAD + "{tensor}의 바이트가 파일에 없습니다.", _CONVERT),
    "pickle-old": Text(
        _UNREAD + "torch 1.6보다 오래된 형식이거나 잘린 파일입니다.",
        f"더 새로운 torch로 다시 저장하세요. {_CONVERT}",
    ),
    "pickle-compressed": Text(_UNREAD + "그 안의 {name} 항목이 압축되었거나 암호화되었습니다.", _CONVERT),
    "pickle-damaged": Text(_UNREAD + "피클이 손상되었습니다({error}).", _CONVERT),
    "pickle-endless": Text(_UNREAD + "피클이 손상되어 끝이 없습니다.", _CONVERT),
    "pickle-place": Text(_UNREAD + "피클이 손상되었습니다(텐서의 위치가 맞지 않습니다).", _CONVERT),
    "pickle-type": Text(
        _UNREAD + "피클이 손상되었습니다({expected} 자리에 {found} 값이 있습니다).", _CONVERT
    ),
    "pickle-operation": Text(
        _UNREAD + "피클에 텐서 말고 다른 것이 있습니다. {name} 연산을 요구합니다.", _CONVERT
    ),
    "pickle-import": Text(
        _UNREAD + "피클에 텐서 말고 다른 것이 있습니다. {name} 객체를 요구합니다.", _CONVERT
    ),
    "pickle-reference": Text(
        _UNREAD + "피클에 텐서 말고 다른 것이 있습니다. {name} 객체를 참조합니다.", _CONVERT
    ),
    "pickle-call": Text(_UNREAD + "피클에 텐서 말고 다른 것이 있습니다. {name} 함수를 호출합니다.", _CONVERT),
    # adapters
    "no-adapter-config": Text("어댑터 {adapter}에 {file} 파일이 없습니다.", "PEFT로 저장한 어댑터를 쓰세요."),
    "adapter-is-model": Text(
        "어댑터 {adapter}에 {file} 파일이 없습니다.", "모델 전체입니다. `models:` 아래에 따로 쓰세요."
    ),
    "damaged-adapter-config": Text("어댑터 {adapter}의 {file} 내용이 객체가 아닙니다.", "저장소를 고치세요."),
    "adapter-without-weights": Text(
        "어댑터 {adapter}에 {file} 파일이 없습니다.", "업로드가 끝나지 않았습니다. 만든 이에게 알려 주세요."
    ),
    "adapter-factor": Text("어댑터 {adapter}의 {module} 모듈에는 인자 행렬이 하나뿐입니다.", _DOWNLOAD_AGAIN),
    "adapter-tokens": Text("어댑터 {adapter}에 적힌 토큰이 번호가 아닙니다.", "설정을 고치세요."),
    "adapter-kind": Text(
        "어댑터 {adapter}의 종류는 {kind}입니다. 쓸 수 있는 종류: {known:all}.", _MERGE_WITH_PEFT
    ),
    "adapter-never-merges": Text(
        (
            "어댑터 {adapter} ({kind}, {options:all}): 입력에 따라 베이스를 조종하므로 가중치로 옮길 수 없습니다.",
            "어댑터 {adapter} ({kind}): 입력에 따라 베이스를 조종하므로 가중치로 옮길 수 없습니다.",
        ),
        "PEFT로도 합칠 수 없습니다. 어댑터 없이 베이스를 병합하고, 결과 옆에 어댑터를 불러오세요.",
    ),
    "adapter-changes-base": Text(
        "어댑터 {adapter}의 시작은 `init_lora_weights: {init}`입니다. 이 방식은 베이스의 가중치를 바꿉니다.",
        _MERGE_WITH_PEFT,
    ),
    "adapter-options": Text(
        "어댑터 {adapter}의 옵션 {options:all}: 텐서마다 따로 적용할 수 없습니다.", _MERGE_WITH_PEFT
    ),
    "adapter-tensor": Text("어댑터 {adapter}에 알 수 없는 텐서({tensor})가 있습니다.", _MERGE_WITH_PEFT),
    "adapter-pattern": Text(
        "어댑터 {adapter}의 {option}에 있는 '{pattern}' 항목을 쓸 수 없습니다({error}).", _MERGE_WITH_PEFT
    ),
    "adapter-brings-head": Text(
        "{adapter}: {base}에 없는 텐서를 가지고 있습니다: {tensors:few}. 결과는 학습할 때처럼 {kind}입니다."
    ),
    "adapter-option": Text(
        "{adapter}: 어댑터 설정의 {option} 값이 {value}입니다. {expected:phrase}이어야 합니다.",
        "PEFT로 다시 저장하세요.",
    ),
    "adapter-modules": Text("{adapter}: 바꾸려는 모듈이 {base}에 없습니다: {modules:few}.", _TRAINED_ON),
    "adapter-misfit": Text("{adapter}: {base}에 맞지 않습니다: {misfits:few}.", _TRAINED_ON),
    "adapter-empty": Text(
        "{adapter}: 아무것도 바꾸지 않습니다. 아는 가중치가 없습니다.", "PEFT로 저장한 어댑터를 쓰세요."
    ),
    "adapter-rows": Text(
        "{adapter}: 토큰 {token}번을 학습했는데 베이스의 토큰은 {tokens}개입니다. 그 사이의 토큰 {count}개"
        "({first}번 등)는 어느 모델에도 행이 없습니다.",
        _GROWN_BASE,
    ),
    "adapter-vocabulary": Text("{adapter}: 어휘의 크기가 둘이 됩니다: {sizes:and}행.", _GROWN_BASE),
    "adapter-bias": Text(
        "{adapter}: {module} 모듈에 편향을 더하는데, 베이스의 이 모듈에는 편향이 없습니다.",
        "합칠 수 없습니다. `lora_bias` 없이 학습하거나 어댑터로 두세요.",
    ),
    "other-base": Text(
        "{adapter}: 여기의 {base} 대신 {trained_on}에서 학습했다고 되어 있습니다.",
        "텐서는 맞습니다. 두 모델이 함께 쓰는 것이 맞는지 확인하세요.",
    ),
    "adapter-without-tokenizer": Text(
        "{adapter}: 새 토큰의 행은 있지만, 그 토큰을 아는 토크나이저가 없습니다.",
        "`tokenizer_source:`에 그런 토크나이저가 있는 모델을 쓰세요.",
    ),
    # recipes: their text
    "too-long": Text("글이 {count:,}자입니다. {most:,}자까지 읽습니다.", "레시피는 한 쪽 분량의 글입니다."),
    "too-many-values": Text("별칭(alias)을 펼치면 값이 {most:,}개를 넘습니다.", "별칭을 줄이세요."),
    "too-many-recipes": Text("서버가 다른 긴 레시피를 읽느라 바쁩니다.", "몇 초 뒤에 다시 해 보세요."),
    "too-deep": Text("{most}단계보다 깊이 중첩되어 있습니다.", "그 앞에서 괄호를 닫으세요."),
    "endless-alias": Text("자기 자신 안에 있는 별칭입니다: '*{name}'.", "값을 그대로 쓰세요."),
    "yaml-tag": Text("YAML 태그는 읽지 않습니다: '{tag}'.", "태그 없이 값을 쓰세요."),
    "yaml": Text("YAML이 아닙니다: {error}.", "그 자리의 들여쓰기, 콜론, 괄호를 확인하세요."),
    "empty": Text("레시피가 비어 있습니다.", "`merge_method:`와 `models:`로 시작하세요."),
    "not-a-mapping": Text(
        "여기에 올 것은 {what:phrase}(`key: value` 줄들)인데, 있는 것은 {found:phrase}입니다.",
        ("쓸 수 있는 키: {known:all}.", "한 줄에 `이름: 값` 하나씩 쓰세요."),
    ),
    "not-a-list": Text(
        "`{name}`에는 항목이 하나 이상인 목록이 와야 하는데, 있는 것은 {found:phrase}입니다.",
        "항목마다 앞에 줄표(-)를 쓰세요.",
    ),
    "not-text": Text("여기에 올 것은 {what:phrase}인데, 있는 것은 {found:phrase}입니다.", "글자로 쓰세요."),
    "key": Text("키는 낱말이어야 합니다."),
    "repeated-key": Text("'{name}' 키가 두 번 있습니다: {what:phrase}.", "하나만 남기세요."),
    "unknown-key": Text("모르는 키 '{name}'입니다: {what:phrase}.", _MEANT),
    "anchor-key": Text("'{name}' 키는 레시피의 다른 곳에서 쓰는 앵커만 담고 있어 무시합니다."),
    "ignored-key": Text("{what:phrase}의 '{name}' 키는 결과를 바꾸지 않으므로 무시합니다."),
    "misplaced-key": Text(
        "{what:phrase}의 '{name}' 키는 무시됩니다. 레시피 맨 위에 한 번만 쓰는 키입니다.",
        "레시피 맨 위로 옮기세요.",
    ),
    "misplaced-parameter": Text(
        "{what:phrase}의 '{name}' 키는 무시됩니다. 병합 방법의 매개변수입니다.",
        "`parameters:` 아래로 옮기세요.",
    ),
    "revision-beside-model": Text(
        "`model` 옆의 `revision`은 무시됩니다.", "`model: owner/name@revision`으로 쓰세요."
    ),
    "adapter-beside-model": Text(
        "`model` 옆에 쓴 항목은 무시됩니다: `{name}`.", "`model: owner/name+owner/adapter`로 쓰세요."
    ),
    "other-program": Text(
        "`{key}` 키가 있으므로 {program} 레시피입니다. 하는 일이 다릅니다.",
        "Alloy의 레시피는 `merge_method:`로 시작합니다.",
    ),
    "repeated-name": Text("레시피 둘의 이름이 모두 '{name}'입니다.", "각각 다른 `name:`을 쓰세요."),
    "nameless-recipes": Text(
        "레시피가 여럿이면 맨 마지막 것만 이름이 없을 수 있습니다.", "나머지에 `name:`을 쓰세요."
    ),
    "circle": Text("레시피들이 서로를 돌려 씁니다: {chain}.", "그중 하나는 맨 앞에 와야 합니다."),
    "unused-merge": Text("'{name}' 병합을 쓰는 곳이 없습니다.", "모델로 쓰거나, 다른 파일로 옮기세요."),
    # recipes: mixtures of experts
    "mixture-without-base": Text(
        "전문가 혼합에는 어텐션, 임베딩, 정규화 레이어를 가져올 베이스 모델이 필요합니다.",
        "`base_model:`을 쓰세요.",
    ),
    "no-experts": Text("레시피에 전문가가 없습니다.", "`experts:`에 모델 목록을 쓰세요."),
    "no-source-model": Text("전문가에 모델이 없습니다.", "`source_model:`을 쓰세요."),
    "too-many-experts": Text("전문가가 {count}개입니다. {most}개까지 쓸 수 있습니다.", "몇 개를 빼세요."),
    "unknown-choice": Text("`{key}`에 쓸 수 없는 값입니다: '{name}'.", _MEANT),
    "experts-per-token": Text("`experts_per_token` 값이 {found:phrase}입니다.", "1 이상의 정수를 쓰세요."),
    "more-than-experts": Text(
        "`experts_per_token` 값은 {given}인데 전문가는 {count}개입니다.", "전문가 수 이하로 쓰세요."
    ),
    "shared-experts": Text(
        "공유 전문가가 {count}개입니다. 지원하는 구조에는 하나까지만 있습니다.", "하나만 남기세요."
    ),
    "expert-number": Text(
        "`{key}` 값이 {found:phrase}입니다.", "유한한 수를 쓰세요(`noise_scale`은 음수일 수 없습니다)."
    ),
    "expert-without-prompts": Text(
        "전문가 {model}에 `gate_mode: {mode}`에 필요한 `positive_prompts`가 없습니다.",
        "이 전문가에게 갈 글의 예를 쓰거나 `gate_mode: random`을 고르세요.",
    ),
    "too-many-prompts": Text("프롬프트가 {count}개입니다. {most}개까지 읽습니다.", "몇 개를 빼세요."),
    "same-prompts": Text(
        "{models:and}의 긍정 프롬프트가 같아서 서로 구별할 수 없습니다.", "전문가마다 다른 프롬프트를 쓰세요."
    ),
    # recipes: their fields
    "no-method": Text("레시피에 병합 방법이 없습니다.", "`merge_method:`를 쓰세요: {known:all}."),
    "unknown-method": Text("'{name}' 병합 방법은 없습니다.", _MEANT),
    "models-or-slices": Text(
        "{what:phrase}: {known:code} 가운데 하나만 쓸 수 있는데 여럿이 있습니다: {given:code}.",
        "하나만 남기세요.",
    ),
    "no-models": Text(
        "{what:phrase}: 모델이 없습니다.", "`models:` 목록을 쓰세요(레이어를 고르려면 `slices:`)."
    ),
    "no-modules": Text(
        "`modules`에 모듈이 없습니다.", "`이름:`을 쓰고 그 아래에 `models:`나 `slices:`를 쓰세요."
    ),
    "no-model": Text("이 항목에 모델이 없습니다.", "`model: owner/name`을 쓰세요."),
    "no-path": Text("이 모델에 `path`가 없습니다.", "`path: owner/name`을 쓰세요."),
    "model-name": Text(
        "'{given}': 모델 이름이 아닙니다.",
        "`owner/name`, `owner/name@revision` 또는 폴더를 쓰고, 어댑터마다 앞에 `+`를 붙이세요.",
    ),
    "lora-or-adapters": Text(
        "모델에는 `lora`나 `adapters` 가운데 하나만 쓸 수 있습니다.", "`adapters:` 목록 하나로 합치세요."
    ),
    "several-adapters": Text("'{given}': 어댑터가 둘 이상입니다.", "`adapters:` 아래에 하나씩 따로 쓰세요."),
    "scale": Text(
        "`scale`은 숫자여야 하는데, 있는 것은 {found:phrase}입니다.",
        "1은 학습된 그대로, 0.5는 절반만 적용합니다.",
    ),
    "no-base": Text(
        "{title} ({method}) 방법에는 베이스 모델이 필요한데 레시피에 없습니다.", "`base_model:`을 쓰세요."
    ),
    "slice-without-base": Text(
        "{title} 방법에는 베이스 모델이 필요한데 이 슬라이스에 없습니다.",
        "슬라이스에, 또는 모두를 위해 레시피에 `base_model:`을 쓰세요.",
    ),
    "base-not-in-slice": Text(
        "이 슬라이스의 sources에 베이스 모델이 없습니다: {base}.",
        "주는 레이어와 함께 sources에 넣으세요.",
    ),
    "adapter-on-base": Text(
        "{title} 방법은 모델이 베이스에서 바꾼 것을 병합하는데, 베이스 자신({base})만 있습니다.",
        "{adapters:and} 어댑터를 베이스에 합치려면 `merge_method: passthrough`를 쓰세요. 다른 모델을 바꾸려면 어댑터 "
        "없는 베이스를 `base_model`로 쓰세요.",
    ),
    "number-of-models": Text(
        (
            "{title}: 베이스 {base} 말고 모델 {wanted}개를 병합하는데 {given}개가 있습니다.",
            "{title}: 모델 {wanted}개를 병합하는데 {given}개가 있습니다.",
        ),
        "모델을 더하거나 빼세요.",
    ),
    "too-few-models": Text(
        (
            "{title}: 베이스 {base} 말고 모델이 {wanted}개 이상 필요한데 {given}개가 있습니다.",
            "{title}: 모델이 {wanted}개 이상 필요한데 {given}개가 있습니다.",
        ),
        "모델을 더하세요.",
    ),
    "too-many-models": Text(
        (
            "{title}: 베이스 {base} 말고 모델을 {wanted}개까지 병합하는데 {given}개가 있습니다.",
            "{title}: 모델을 {wanted}개까지 병합하는데 {given}개가 있습니다.",
        ),
        "모델을 빼세요.",
    ),
    "many-models": Text(
        "레시피에 모델과 어댑터가 {count}개 있습니다. {most}개까지 엽니다.",
        "일부를 먼저 병합하고, 그 결과들을 병합하세요.",
    ),
    "layers-of-models": Text(
        "`models:`는 모델의 모든 레이어를 씁니다. mergekit은 이 범위를 무시합니다.",
        "이 항목들을 `sources:`로 하는 `slices:`를 쓰거나, 범위를 지우세요.",
    ),
    "no-sources": Text("이 슬라이스에 `sources`가 없습니다.", "`sources:` 목록을 쓰세요."),
    "no-layer-range": Text(
        "슬라이스의 source에는 어느 레이어를 줄지 써야 합니다.",
        "`layer_range: [start, end]`를 쓰세요. 첫 레이어는 0이고 end는 들어가지 않습니다.",
    ),
    "not-a-layer-range": Text(
        "레이어의 범위는 0 <= start <= end인 [start, end]여야 하는데, 있는 것은 {found:phrase}입니다.",
        "end는 들어가지 않습니다. [0, 8]은 레이어 0부터 7까지입니다.",
    ),
    "unequal-ranges": Text(
        "슬라이스의 source들은 레이어의 수가 같아야 하는데 {given:all}입니다.", "범위의 길이를 같게 하세요."
    ),
    "seed": Text("`seed` 값이 {found:phrase}입니다.", _WHOLE_NUMBER),
    "dtype": Text("가중치에 '{name}' dtype은 없습니다.", _MEANT),
    "fp8-dtype": Text(
        "`dtype`은 스케일이 없는 가중치의 형식이기도 하므로 쓸 수 없는 값입니다: {name}.",
        "이렇게 쓰세요: `out_dtype: {name}`.",
    ),
    "fp8-no-linear": Text(
        "{dtype} 형식은 선형 레이어의 가중치에 쓰는데, {architecture}에서 선형 레이어의 가중치를 찾지 못했습니다.",
        "`out_dtype: bfloat16`이라고 쓰세요. 설치된 transformers가 만들 수 있는 클래스여야 합니다.",
    ),
    "fp8-not-in-files": Text(
        "스케일이 있는 8비트 가중치는 safetensors 파일에만 씁니다. 메모리, GGUF 파일, 다른 병합에는 쓸 수 없습니다.",
        "`out_dtype:`을 빼거나 16비트 형식을 쓰세요.",
    ),
    "fp8-packed-experts": Text(
        "{dtype} 형식은 전문가마다 행렬이 하나씩 있어야 하는데, {tensors:few}에는 한 레이어의 전문가가 모두 있습니다.",
        "`out_dtype: bfloat16`이라고 쓰세요.",
    ),
    "fp8-shape": Text(
        "{dtype} 형식에서는 행과 열의 수가 {multiple}의 배수여야 합니다: {tensors:few}.",
        (
            "행마다 스케일이 하나인 `out_dtype: {rows}`나 `bfloat16`을 쓰세요.",
            "`out_dtype: bfloat16`이라고 쓰세요.",
        ),
    ),
    "chat-template": Text("'{given}': 채팅 템플릿의 이름도, 템플릿도 아닙니다.", _MEANT),
    "tokenizer-or-source": Text(
        "`tokenizer`와 `tokenizer_source` 가운데 하나만 쓸 수 있습니다.", "`tokenizer:` 안에 source를 쓰세요."
    ),
    "pad-to-multiple-of": Text(
        "`pad_to_multiple_of` 값이 {found:phrase}입니다.", "1부터 {most}까지의 정수를 쓰세요."
    ),
    "approximate": Text("`approximate` 값이 {found:phrase}입니다. 그런 규칙은 없습니다.", _MEANT),
    "neighbours": Text(
        "`k`(행 하나를 만드는 데 쓰는 토큰의 수) 값이 {found:phrase}입니다.",
        "1부터 {most}까지의 정수를 쓰세요.",
    ),
    "k-without-neighbours": Text(
        "`k: {k}`는 `approximate: omp`나 `approximate: nearest`와 함께 씁니다.",
        "빼거나, 둘 가운데 하나를 쓰세요.",
    ),
    "force": Text(
        "`force`는 true나 false여야 하는데, 있는 것은 {found:phrase}입니다.",
        "true이면 그 토큰이 있는 모델도 이 행을 받습니다.",
    ),
    "token-kind": Text("토큰의 source에 '{name}' 종류는 없습니다.", "쓸 수 있는 것: {known:all}."),
    "token-source": Text(
        "model_token 종류의 source에는 모델과, `token`이나 `token_id` 하나를 씁니다.",
        "`{{kind: model_token, model: ..., token: ...}}`처럼 쓰세요.",
    ),
    "token-id": Text("`token_id` 값이 {found:phrase}입니다.", _WHOLE_NUMBER),
    # recipes: parameters
    "unknown-parameter": Text("{title} ({method}) 방법에는 '{name}' 매개변수가 없습니다.", _MEANT),
    "ignored-parameter": Text(
        "{title} ({method}) 방법에는 '{name}' 매개변수가 없어 무시합니다.",
        ("혹시 '{near}'인가요?", "지우거나, 이 매개변수가 있는 방법을 고르세요."),
    ),
    "clamped-value": Text(
        "{title} 방법의 `{parameter}` 값이 {found:phrase}입니다. 그 너머는 차이가 없어 다음 값을 씁니다: {used}."
    ),
    "stray-filter": Text(
        "여기 있는 `filter`는 무시됩니다. 값에 붙는 키입니다.",
        "`PARAMETER: [{{filter: ..., value: ...}}]`처럼 쓰세요.",
    ),
    "filter": Text(
        "`filter`는 텐서 이름의 일부여야 하는데, 있는 것은 {found:phrase}입니다.",
        "이름마다 항목을 따로 쓰세요.",
    ),
    "missing-parameter": Text(
        (
            "{title}: {model}의 `{parameter}` 값이 필요합니다: {help}.",
            "{title}: `{parameter}` 값이 필요합니다: {help}.",
        ),
        "`parameters:` 아래에 `{parameter}:`를 쓰세요({expected}).",
    ),
    "shared-parameter": Text(
        "{title}의 `{parameter}`: 모델마다가 아니라 모든 모델에 값 하나를 씁니다.",
        "레시피(또는 슬라이스)의 `parameters:`로 옮기세요.",
    ),
    "parameter-value": Text(
        "`{parameter}` 값으로 올 것은 {expected}인데, 있는 것은 {found:phrase}입니다.",
        "정하는 것: {help}.",
    ),
    "no-value": Text("이 filter에 `value`가 없습니다.", "`value:`를 쓰세요."),
    "no-filter-matches": Text(
        "{tensor} 텐서에 맞는 `{parameter}`의 filter가 없습니다.",
        "맨 끝에 filter 없는 항목을 쓰세요: `- value: ...`.",
    ),
    "parameters": Text("{title}, {tensor}: {wrong:phrase}.", "{parameters:code} 값을 바꾸세요."),
    # recipes: whether the models fit
    "intermediate-merge-reference": Text(
        "{model}: 이 글에 있는 병합에 리비전, 어댑터, 다른 구조를 붙였습니다.",
        "그 병합 안의 모델에 쓰거나, 먼저 병합하세요.",
    ),
    "empty-result": Text("이 레시피의 결과에는 텐서가 없습니다.", "슬라이스에 레이어를 넣으세요."),
    "empty-slice": Text(
        "이 슬라이스에 레이어가 없습니다.", "범위의 끝을 시작보다 크게 하거나, 슬라이스를 지우세요."
    ),
    "too-many-layers": Text(
        "결과의 레이어가 {count:,}개가 됩니다. {most:,}개까지 쌓을 수 있습니다.", "슬라이스를 줄이세요."
    ),
    "large-result": Text(
        "결과의 텐서가 {most:,}개보다 많아져서 다시 읽을 수 없습니다.", "레이어나 전문가를 줄이세요."
    ),
    "layer-pattern": Text(
        _ORDER_OF_LAYERS, "레이어의 순서를 지키거나, 레이어마다 종류가 설정에 적힌 모델을 병합하세요."
    ),
    "layer-period": Text(
        _ORDER_OF_LAYERS, "슬라이스마다 {value}의 배수에서 시작해 레이어 {value}개 단위로 통째로 쓰세요."
    ),
    "first-layers": Text(_ORDER_OF_LAYERS, "맨 앞의 레이어들은 첫 슬라이스의 맨 앞에서만 쓰세요."),
    "last-layers": Text(_ORDER_OF_LAYERS, "맨 뒤의 레이어들은 마지막 슬라이스의 맨 뒤에서만 쓰세요."),
    "layer-kinds": Text(
        "결과의 설정대로라면 레이어 {layer}번은 원래와 다른 종류의 레이어가 됩니다.",
        "레이어의 순서를 지키거나, 슬라이스마다 주기를 통째로 쓰세요.",
    ),
    "layer-count": Text(
        "결과의 설정대로라면 레이어가 {count}개가 아니라 {built}개인 모델이 됩니다.", _ALL_LAYERS
    ),
    "layer-count-unstated": Text(
        "설정에 레이어 수({before}개)가 적혀 있지 않아 {count}개로 바꿀 수 없습니다.", _ALL_LAYERS
    ),
    "layers-not-built": Text(
        "transformers가 결과의 설정으로는 모델을 만들지 못합니다({reason}).", _ALL_LAYERS
    ),
    "table-of-layers": Text(
        "{tensor} 텐서에는 레이어마다의 부분이 있어 새 레이어 순서를 따를 수 없습니다.",
        "`slices:` 없이 모델을 통째로 병합하세요.",
    ),
    "quantized": Text(
        "{model}: 일반 숫자로 읽을 수 없는 방식({how})으로 양자화된 모델입니다.",
        _NAME_UNQUANTIZED,
    ),
    "unknown-quantization": Text(
        "{model}: 양자화된 모델({form})이지만 텐서가 그 형식과 맞지 않습니다: {error}.",
        _NAME_UNQUANTIZED,
    ),
    "dequantized": Text(
        "{model}: 양자화된 모델({form})입니다. 가중치를 일반 숫자로 읽지만, 잃어버린 정밀도는 돌아오지 않습니다.",
        (_NAME_ORIGINAL, "bfloat16이나 float16으로 된 같은 모델이 있으면 그것을 쓰세요."),
    ),
    "plain-weights": Text(
        "{model}: 설정에는 양자화({how})되었다고 나오지만 가중치는 양자화되지 않았습니다. 결과의 설정에서는 뺐습니다."
    ),
    "several-stacks": Text(
        "{model}: 레이어의 묶음이 여럿({stacks:and})인데 `slices`는 하나만 말합니다.",
        "`modules:`를 쓰고, 묶음 이름마다 그 아래에 `slices:`나 `models:`를 쓰세요.",
    ),
    "unknown-module": Text("{model}에 '{name}' 모듈이 없습니다.", "있는 모듈: {known:all}."),
    "repeated-module": Text("{model}에 따로 된 '{name}' 모듈이 없습니다.", "있는 모듈: {known:all}."),
    "module-taken-over": Text("레시피에 {module} 모듈이 없어 {model}의 것을 그대로 둡니다."),
    "missing-module": Text(
        "{donor}에 있는 {module} 모듈이 {model}에 없습니다.",
        "`modules:`로 부분마다 어느 모델로 만들지 쓰세요.",
    ),
    "no-layers": Text("{model}에는 쌓인 레이어가 없습니다.", "언어 모델을 쓰세요."),
    "layer-numbers": Text(
        (
            "{model}에 없는 레이어입니다: {given:all}. 레이어 {count}개의 번호는 0부터 {last}까지입니다.",
            "{model}의 레이어를 고르지 않았습니다.",
        ),
        "`12-15,20`처럼 번호나 범위를 쓰세요.",
    ),
    "no-layer-left": Text("{model}의 레이어 {count}개를 모두 뺐습니다.", "하나 이상 남기세요."),
    "no-silent-copies": Text(
        "{model} ({kind}): 조용한 복사본을 만들려면 Llama, Qwen, Phi, GPT-2, Gemma처럼 레이어가 더하는 값을 정해진 두 "
        "행렬이 써야 합니다. '{name}' 텐서는 알려져 있지 않습니다.",
        "그대로 복사하고(`--plain`) 결과를 학습시키세요.",
    ),
    "silent-by-number": Text(
        "{model}: config의 '{key}' 때문에, 앞에 복사본이 들어가면 레이어의 계산이 달라집니다.",
        "그대로 복사하고(`--plain`) 결과를 학습시키세요.",
    ),
    "layer-range": Text(
        "{model}: 레이어가 {layers}개(0~{last})인데 레시피는 레이어 {from}~{to} 구간을 씁니다.",
        "범위를 {layers} 이하에서 끝내세요.",
    ),
    "unequal-layers": Text(
        "모델들의 레이어 수가 서로 달라({given:all}) 통째로 병합할 수 없습니다.",
        "`slices:`로 어느 레이어끼리 병합할지 쓰세요.",
    ),
    "gives-back": Text(
        "결과는 {model} 모델 그대로입니다. 이 값으로 {title} 병합을 하면 다른 모델에서 아무것도 가져오지 않습니다.",
        "값을 바꾸거나 다른 모델을 쓰세요.",
    ),
    "roles": Text(
        "{base}: {second}의 베이스가 아닙니다. 어휘가 서로 다릅니다.",
        "받는 모델을 먼저, 주는 모델을 다음에 쓰세요: {second}, {first} 순서인가요?",
    ),
    "duplicate-tensor": Text(
        "결과에 이름이 같은 텐서가 둘 생깁니다: {tensors:few}.", "`slices:` 없이 모델을 통째로 병합하세요."
    ),
    "moved-tensor": Text(
        "마지막 레이어 다음 번호의 텐서가 {count}개 있습니다({tensors:few}). 새 마지막 레이어의 다음에 둡니다."
    ),
    "settings-differ": Text(
        "{model}, {donor}: 텐서에 나타나지 않는 설정이 서로 다릅니다({settings:all}). 결과는 {donor}의 것을 씁니다.",
        "한 베이스를 파인튜닝한 모델끼리 병합하거나, 결과가 제대로 답하는지 확인하세요.",
    ),
    "layer-settings": Text(
        "{model}의 레이어가 {donor}의 설정으로 실행되어 다르게 만들어집니다({settings:all}).",
        "설정이 같은 모델에서만 레이어를 가져오세요.",
    ),
    "other-heads": Text(
        "{model}의 레이어가 {donor}의 설정으로 실행되어 헤드가 다르게 나뉩니다({settings:all}).",
        "`base_model`을 바꾸거나({model}), 모든 레이어를 같은 베이스의 모델에서 가져오세요.",
    ),
    "derived-tensor": Text(
        "모든 모델에 있지는 않은 텐서입니다: {tensors:few}. 불러올 때 따로 마련되므로 결과에는 넣지 않습니다."
    ),
    "taken-over-tensor": Text(
        "{lacking:and}에 없는 텐서입니다: {tensors:few}. 결과는 {model}의 것을 그대로 받습니다."
    ),
    "unexpected-keys": Text(
        "{model}: {donor}의 설정을 따르는 결과에 자리가 없는 텐서가 있습니다: {tensors:few}.",
        "구조와 크기가 같은 베이스 모델을 쓰세요.",
    ),
    "missing-keys": Text(
        "{model}: 다른 모델에 있는 텐서가 없습니다: {tensors:few}.", "구조가 같은 모델끼리 병합하세요."
    ),
    "shape": Text(
        "{model}: 텐서의 모양이 다릅니다: {tensors:few}.",
        "크기가 같은 모델끼리 병합하세요. 한 베이스에서 파인튜닝한 모델은 언제나 맞습니다.",
    ),
    "vocabulary": Text(
        (
            "{model}: 어휘의 크기가 다릅니다: {tensors:few}. {tokenizers:each}.",
            "{model}: 어휘의 크기가 다릅니다: {tensors:few}.",
        ),
        "모든 모델의 토큰을 쓰려면 `tokenizer_source: union`, 베이스 모델의 토큰을 쓰려면 `tokenizer_source: base`, "
        "한 모델의 토큰을 쓰려면 거기에 그 모델을 쓰세요.",
    ),
    # mixtures of experts
    "mixture-base": Text(
        "{model}({architecture}): 전문가 혼합의 베이스가 될 수 없습니다.",
        "{known:and} 가운데 한 종류의 밀집 언어 모델을 쓰세요.",
    ),
    "deepseek-mixture": Text(
        "{name}: 지원하지 않는 구조입니다. 자체 코드가 필요한데 Alloy는 그런 코드를 실행하지 않습니다.",
        "transformers가 아는 구조를 쓰도록 `architecture:`를 빼세요.",
    ),
    "mixture-architecture": Text(
        "'{name}'이라는 전문가 혼합 구조는 없습니다.", "쓸 수 있는 것: {known:all}."
    ),
    "mixture-of-others": Text(
        "{name} 구조의 재료는 {known:and} 모델인데, {model}의 종류는 {type}입니다.",
        "`architecture:`를 빼거나 다른 베이스를 고르세요.",
    ),
    "no-shared-expert": Text(
        "{model} 모델로 만드는 {name}에는 공유 전문가가 없습니다.", "`shared_experts:`를 빼세요."
    ),
    "needs-shared-expert": Text(
        "{model} 모델로 만드는 {name}에는 공유 전문가가 꼭 하나 있어야 하는데 없습니다.",
        "`shared_experts:`에 모델 하나를 쓰세요. 예: 베이스와 `residual_scale: 0.1`.",
    ),
    "mixture-window": Text(
        "{model}의 어텐션은 창 안으로 제한되는데, {name} 구조는 같은 레이어에 그런 창을 둘 수 없습니다.",
        "슬라이딩 윈도가 없는 베이스를 고르세요.",
    ),
    "mixture-lacks": Text(
        "{model}에 {name}에 필요한 텐서가 없습니다: {tensors:few}.", "다른 베이스를 고르세요."
    ),
    "mixture-has-no-place": Text(
        "{name}에는 {model}의 텐서가 들어갈 자리가 없습니다: {tensors:few}.", "다른 베이스를 고르세요."
    ),
    "expert-layers": Text(
        "전문가 {model}의 레이어는 {layers}개인데 베이스 {base}의 레이어는 {wanted}개입니다.",
        "한 베이스를 미세 조정한 모델들을 전문가로 쓰세요.",
    ),
    "not-dense": Text(
        "전문가 {model}: MLP마다 행렬이 셋인 밀집 모델이 아닙니다({tensors:few}).",
        "llama, mistral, qwen2, qwen3 가운데 한 종류의 모델을 고르세요.",
    ),
    "expert-activation": Text(
        "전문가 {model}의 활성화 함수는 {found}인데 베이스 {base}의 것은 {expected}입니다.",
        "한 베이스를 미세 조정한 모델들을 전문가로 쓰세요.",
    ),
    "expert-shape": Text(
        "전문가 {model}의 행렬이 베이스 {base}에 맞지 않습니다: {tensors:few}.",
        "한 베이스를 미세 조정한 모델들을 전문가로 쓰세요.",
    ),
    "expert-width": Text(
        "전문가 {model}의 MLP 폭은 {width}인데 {other}의 것은 {expected}입니다.",
        "크기가 같은 전문가를 고르세요.",
    ),
    "random-routers": Text(
        "`gate_mode: {mode}`에서는 토큰이 전문가에게 무작위로 갑니다. 결과를 쓰려면 학습이 필요합니다."
    ),
    "adapter-outside-experts": Text(
        "{adapters:and}: MLP를 바꾸지 않으므로 전문가에 아무것도 남지 않습니다.",
        "gate_proj, up_proj, down_proj를 바꾸는 어댑터나 `shared_weights: average`를 쓰세요.",
    ),
    "every-expert": Text(
        "모든 토큰이 전문가 {count}개를 다 지나므로 아끼는 계산이 없습니다. 라우터는 비중만 정합니다."
    ),
    "no-gates": Text(
        "프롬프트로 라우터를 계산하려면 transformers가 필요합니다.",
        "`pip install 'alloy-merge[evaluation]'`을 실행하거나 `gate_mode: random`을 고르세요.",
    ),
    "prompts-without-tokenizer": Text(
        "{model}에 프롬프트를 읽는 데 필요한 tokenizer.json이 없습니다.", _SAVE_AS_FAST
    ),
    "unreadable-tokenizer": Text(
        "{model}: 토크나이저 파일 {file} 읽기에 실패했습니다({error}).", _SAVE_AS_FAST
    ),
    "prompt-length": Text(
        "프롬프트 '{prompt}'의 토큰은 {tokens}개입니다. 1개에서 {most}개까지 쓸 수 있습니다.", "줄이세요."
    ),
    "prompt-token": Text(
        "{model}의 토크나이저가 프롬프트에 {token}번 토큰을 주는데 임베딩은 {rows}개입니다.",
        "토크나이저가 가중치에 맞는 베이스를 고르세요.",
    ),
    "nothing-to-route": Text(
        "라우터를 프롬프트로 계산하는 전문가 혼합에서만 프롬프트가 전문가에게 갑니다.",
        "`router` 같은 `gate_mode`를 고르고 전문가마다 `positive_prompts`를 쓰세요.",
    ),
    "gates-alike": Text(
        "{first}, {second}: 구별하기 어렵습니다. 레이어 {total}개 가운데 {layers}개에서 "
        "두 전문가의 프롬프트 상태가 같은 방향을 가리킵니다(코사인 평균 {cosine:.4f}).",
        "더 다른 프롬프트를 쓰세요.",
    ),
    "prompts-elsewhere": Text(
        "프롬프트 {total}개 가운데 {count}개는 다른 전문가에게 먼저 갑니다: {prompts:few}.",
        "종류마다 프롬프트를 더 쓰거나 `gate_mode: router`를 쓰세요.",
    ),
    "gates-weak": Text(
        "맞는 전문가가 받는 비중은 평균 {weight:.2f}입니다. 무작위면 {chance:.2f}입니다.",
        "`gate_mode: router`를 쓰거나 결과의 라우터를 학습시키세요.",
    ),
    # tokenizers
    "no-tokenizer": Text("{model}에 토크나이저가 없습니다.", _SAVE_AS_FAST),
    "tokenizer-form": Text("{model}: {files:all} 파일만 있어 토큰 번호를 알 수 없습니다.", _SAVE_AS_FAST),
    "tokenizer-class": Text(
        (
            "{model}의 토크나이저({kind})는 토큰 번호를 따로 매기는데, {file} 파일에는 나타나지 않습니다.",
            "{model}의 토크나이저(모르는 종류)는 토큰 번호를 따로 매기는데, {file} 파일에는 나타나지 않습니다.",
        ),
        _SAVE_AS_FAST,
    ),
    "damaged-tokenizer": Text(
        "{model}: {file} 또는 그 옆의 파일에서 어휘를 읽을 수 없습니다.",
        "고치거나, `tokenizer_source:`에 다른 모델을 쓰세요.",
    ),
    "added-tokens": Text("{model}: 추가된 토큰의 번호가 이어지지 않습니다: {tokens:few}.", _SAVE_AS_FAST),
    "tokenizer-assumed": Text("{model}: 토크나이저가 없어 {base}의 것으로 봅니다."),
    "result-without-tokenizer": Text(
        "{model}에 토크나이저가 없어 결과에도 없습니다.",
        "`tokenizer_source:`에 토크나이저가 있는 모델을 쓰세요.",
    ),
    "left-behind": Text(
        "{model}의 {files:few}: 데이터가 아니거나 너무 커서 복사하지 않습니다.",
        "결과를 불러올 때 필요할 수 있습니다.",
    ),
    "not-merged": Text("{files:few}: {model}의 것을 그대로 복사하며 병합하지 않습니다."),
    "code-copied": Text(
        "{model}: 모델 자신의 코드({files:all})로 불러오는 모델이라 결과에 복사합니다.",
        "허용한 곳에서만(`trust_remote_code=True`) 실행됩니다. 먼저 읽어 보세요.",
    ),
    "code-elsewhere": Text(
        "{model}의 {file} 파일이 다른 저장소의 코드({reference})를 가리킵니다. 바뀔 수 있는 코드라 결과에서 뺐습니다.",
        "없으면 결과를 불러올 수 없을 때는 `--keep-code`로 지금 있는 그대로 복사하세요.",
    ),
    "code-missing": Text(
        "{model}의 {file} 파일이 복사할 수 없는 코드({reference})를 가리켜 결과에서 뺐습니다.",
        "없으면 결과를 불러올 수 없을 때는 코드를 결과 옆에 두세요.",
    ),
    "code-pinned": Text(
        "{repository} 저장소의 커밋 {commit}에 있는 {files:all} 파일을 결과에 복사했습니다.",
        "허용한 곳에서만(`trust_remote_code=True`) 실행됩니다. 먼저 읽어 보세요.",
    ),
    "no-generation-config": Text("{model}에 generation_config.json이 없어 결과에도 없습니다."),
    "lost-token": Text(
        "{model}의 {file}에 있는 {keys:all}: 결과에 그 토큰이 없습니다.",
        "`tokens:`에 그 토큰을 쓰거나, 그 토큰이 있는 토크나이저를 쓰세요.",
    ),
    "literal-tokens": Text(
        "{model}의 토큰 {count}개는 {start}에 없습니다: {tokens:few}.",
        "통째로 된 토큰으로 남습니다. 다른 글은 {start}처럼 나눕니다.",
    ),
    "unknown-token": Text(
        "'{token}' 토큰이 있는 모델이 없습니다.",
        "어떤 행을 쓸지 정하세요: `source: {{kind: model_token, model: ..., token: ...}}` 또는 `{{kind: zero}}`.",
    ),
    "unknown-source-token": Text(
        "{model}: '{token}' 자리에 쓸 '{source}' 토큰의 행이 없습니다.",
        "있는 토큰을 쓰거나, 0으로 된 행을 쓰세요: `source: {{kind: zero}}`.",
    ),
    "unknown-token-id": Text(
        "{model}: '{token}' 자리에 쓸 {number}번 토큰의 행이 없습니다.",
        "있는 토큰을 쓰거나, 0으로 된 행을 쓰세요: `source: {{kind: zero}}`.",
    ),
    "result-vocabulary": Text(
        (
            "결과의 행은 {rows}개, 토큰은 {tokens}개입니다: {model}의 토큰에 {count}개를 덧붙입니다({appended:few}).",
            "결과의 행은 {rows}개, 토큰은 {tokens}개입니다: {model}의 토큰입니다.",
        )
    ),
    "rows-of-other-width": Text(
        "{model}의 행은 수가 {width}개, {giver}의 행은 {found}개라 복사할 수 없습니다.",
        "없는 행을 모델 자신의 행으로 만드세요. `tokenizer:`에 `approximate: omp`나 `approximate: subword`를 씁니다.",
    ),
    "approximated-rows": Text(
        "{model}: 토큰 {tokens}개 가운데 {count}개가 없어 행을 근사합니다: {ways:all}."
    ),
    "no-common-tokens": Text(
        "{model}, {guide}: 같은 토큰이 없어 `approximate: {rule}` 방식을 쓸 수 없습니다.",
        "다른 모델의 행이 필요 없는 `approximate: subword`를 쓰세요.",
    ),
    "tokenizer-not-run": Text(
        "{model}의 토크나이저로 다른 토큰의 글을 나눌 수 없습니다: {error}.", _SAVE_AS_FAST
    ),
    "slow-approximation": Text(
        "없는 행을 근사하는 데 이 컴퓨터의 프로세서로 약 {hours}시간({minutes}분)이 걸립니다.",
        "`k`가 작거나 GPU(`--device cuda`)가 있으면 빨라집니다. `approximate: subword`는 몇 초면 됩니다.",
    ),
    "digits-differ": Text(
        "1234567을 나누는 방식이 다릅니다. {model}: {own}, 결과: {result}. 계산이 나빠질 수 있습니다.",
        "학습하면 고쳐집니다.",
    ),
    "zero-rows": Text("어느 모델에도 행이 없어 0으로 채웁니다: {tokens:few}."),
    "template": Text(
        "채팅 템플릿을 쓸 수 없습니다: {error:phrase}.",
        "`chat_template:`으로 다른 것을 쓰거나, `tokens:`로 없는 토큰을 더하세요.",
    ),
    "template-tokens": Text(
        "채팅 템플릿이 쓰는 {tokens:few}에 맞는 토큰이 결과에 없습니다.",
        "`chat_template:`으로 다른 것을 쓰거나, `tokens:`로 없는 토큰을 더하세요.",
    ),
    "templates-differ": Text(
        "모델들의 채팅 템플릿이 {count}가지입니다. 결과는 {model}의 것을 씁니다.",
        "`chat_template: auto`는 가장 많은 것을 고릅니다. 이름이나 템플릿을 쓰면 그대로 씁니다.",
    ),
    "no-chat-template": Text(
        "채팅 템플릿이 있는 모델이 없어 `chat_template: auto`가 고를 것이 없습니다.",
        "이름을 쓰거나 템플릿을 쓰세요.",
    ),
    # merging
    "cancelled": Text("병합을 멈췄습니다. 남은 것은 없습니다."),
    "no-gpu": Text(
        "torch가 쓸 수 있는 CUDA 장치가 없습니다.",
        "CPU에서 병합하세요. 대부분의 병합은 거기서도 느리지 않습니다.",
    ),
    "model-changed": Text("{model}: 계획을 세운 뒤에 바뀌었습니다.", "계획을 다시 세우세요."),
    "not-float": Text(
        "{tensor} ({dtype}): 모델마다 다른데 부동소수점 수가 아니라 병합할 수 없습니다.",
        "표와 마스크가 같은 모델끼리 병합하세요.",
    ),
    "not-finite": Text(
        "결과의 수 {count:,}개가 무한대이거나 NaN입니다(텐서 {total:,}개). {tensors:few}.",
        "dtype이 float16이면 bfloat16이나 float32로 병합하세요. 아니면 부모 모델에 NaN이 있는지, 매개변수가 맞는지 "
        "확인하세요.",
    ),
    "other-processor": Text(
        "이 병합의 파일들은 {there}에서 계산했고 여기는 {here}입니다. 숫자의 마지막 비트가 다를 수 있습니다.",
        (
            "처음과 같은 종류의 컴퓨터(ATEN_CPU_CAPABILITY={capability} 환경 변수를 둔 이 컴퓨터일 수도 있습니다)에서 "
            "이어 하거나, 다시 시작하려면 대상에 있는 이 병합의 브랜치를 지우세요.",
            "처음과 같은 종류의 컴퓨터에서 이어 하거나, 다시 시작하려면 대상에 있는 이 병합의 브랜치를 지우세요.",
        ),
    ),
    "other-software": Text(
        "이 병합은 {there}에서 시작했고 여기는 {here}입니다. 숫자의 마지막 비트가 다를 수 있습니다.",
        "모든 컴퓨터에 같은 버전을 설치하세요.",
    ),
    "one-part": Text(
        "{place}: 파일이 하나인 병합은 나누어 만들 수 없습니다.",
        "`alloy run`을 쓰거나, 샤드 크기를 줄이세요.",
    ),
    "receipt-without-file": Text(
        "{place}: 영수증에 적힌 {size:,}바이트의 {file} 파일이 없습니다.",
        "그 부분을 다시 만들거나, 영수증을 빼세요. 빼면 마지막 실행이 파일을 만듭니다.",
    ),
    "no-receipt": Text("영수증 파일의 {line}번째 줄이 영수증이 아닙니다.", "`alloy part`의 출력만 넣으세요."),
    "other-merge": Text(
        "영수증 파일의 {line}번째 줄은 다른 병합의 것입니다.",
        "병합을 시작할 때와 같은 레시피, 샤드 크기, 모델, torch와 numpy 버전을 쓰세요.",
    ),
    "killed": Text(
        "병합하던 프로세스가 강제로 종료되었습니다({signal}).",
        "메모리가 부족할 수 있습니다. `--workers`를 줄여 보세요.",
    ),
    "store-refused": Text(
        "이 서버에서는 {scheme}로 시작하는 주소를 쓸 수 없습니다.",
        "허브의 모델을 쓰거나, Alloy를 자신의 컴퓨터에서 실행하세요.",
    ),
    "store-address": Text(
        "{scheme}로 시작하지만 객체 저장소의 주소가 아닙니다.",
        "{scheme}bucket/path 형식으로 쓰세요. 자격 증명은 주소가 아니라 환경 변수에 두세요.",
    ),
    "no-address": Text(
        (
            "허브 버킷의 주소가 아닙니다: '{given}'",
            "버킷이 비어 있습니다.",
        ),
        "`hf://buckets/owner/name`처럼 쓰고, 원하면 뒤에 폴더를 붙이세요.",
    ),
    "no-address-here": Text(
        (
            "버킷이나 오브젝트 저장소의 주소가 아닙니다: '{given}'",
            "버킷이 비어 있습니다.",
        ),
        "`hf://buckets/owner/name`이나 `s3://bucket/path`(`gs://`, `az://`도)처럼 쓰세요.",
    ),
    "bucket-address": Text(
        "'{given}': 허브 버킷의 주소가 아닙니다.",
        "`hf://buckets/owner/name` 형식으로 쓰고, 폴더는 그 뒤에 쓰세요. 버킷에는 리비전이 없습니다.",
    ),
    "bucket-push-failed": Text(
        "{address}: 쓸 수 없습니다({reason}).",
        "로그인한 계정에 쓰기 권한이 있는지 확인하고 같은 병합을 다시 실행하세요. 마지막으로 끝난 샤드부터 이어집니다.",
    ),
    "bucket-public": Text(
        "{bucket}: 공개 버킷이라 여기에 쓴 내용은 누구나 읽을 수 있습니다.",
        "비공개 버킷을 고르거나 결과를 공개로 설정하세요(`--public`).",
    ),
    "stores-not-installed": Text(
        "{scheme}로 시작하는 주소에는 obstore 패키지가 필요한데 설치되어 있지 않습니다.",
        "`pip install 'alloy-merge[stores]'`를 실행하세요.",
    ),
    "store-unreadable": Text(
        "{address}: 읽을 수 없습니다({reason}).",
        "버킷 이름과 환경 변수의 자격 증명, 리전, 엔드포인트를 확인하세요.",
    ),
    "not-in-store": Text("{address}: 아무것도 없습니다.", "철자를 확인하세요."),
    "store-push-failed": Text(
        "{address}: 쓸 수 없습니다({reason}).",
        "버킷 이름과 환경 변수의 자격 증명, 리전, 엔드포인트를 확인하세요. 같은 병합을 다시 실행하면 마지막으로 끝난 "
        "샤드부터 이어집니다.",
    ),
    "hub-file-too-large": Text(
        "{file}: {size:,}바이트가 됩니다. 허브는 파일 하나에 {most:,}바이트까지만 받습니다.",
        "샤드 크기를 줄이세요.",
    ),
    "hub-file-large": Text(
        "{file}: {size:,}바이트가 됩니다. 허브는 파일 하나에 {most:,}바이트까지를 권합니다.",
        "샤드 크기를 줄이세요.",
    ),
    "hub-many-files": Text(
        "결과 파일이 {files}개입니다. 허브는 커밋 하나에 큰 파일 {most}개까지를 권하며, 더 많으면 거절할 수 있습니다.",
        "샤드 크기를 늘리세요.",
    ),
    "hub-requests": Text(
        "업로드에 요청이 약 {requests:,}번 필요한데, 허브는 이 계정에 5분마다 {most:,}번까지만 답합니다. 병합 중에 약 "
        "{minutes}분을 기다리게 됩니다.",
        "샤드 크기를 늘리세요.",
    ),
    "hub-private-room": Text(
        "결과는 {size:,}바이트입니다. 이 계정의 비공개 저장 공간은 {most:,}바이트입니다.",
        "공개 저장소로 만들거나 저장 공간을 늘리세요.",
    ),
    "store-cannot-replace": Text(
        "{file}: {size:,}바이트입니다. 모델을 바꾸려면 S3가 파일을 복사해야 하는데 {most:,}바이트까지만 복사합니다.",
        "비어 있는 주소로 병합하거나, 샤드 크기를 줄이세요.",
    ),
    "nothing-to-hand-out": Text(
        "허브에 파일 하나로 만드는 결과는 다른 컴퓨터에서 만들 수 없습니다.",
        "`--on`을 빼거나, 샤드 크기를 줄이세요.",
    ),
    # clusters
    "ray-not-installed": Text(
        "Ray가 설치되어 있지 않습니다.",
        "이 컴퓨터와 모든 컴퓨터에서 `pip install 'alloy-merge[ray]'`를 실행하세요.",
    ),
    "cluster-unreachable": Text(
        "{address}의 Ray 클러스터가 응답하지 않습니다({reason}).",
        "RAY_ADDRESS를 확인하세요. 없으면 이 컴퓨터의 클러스터를 쓰거나, 이 컴퓨터만으로 새로 만듭니다.",
    ),
    "machine-without-alloy": Text(
        "클러스터의 한 컴퓨터에 {module} 모듈이 없습니다.", "모든 컴퓨터에 같은 버전의 Alloy를 설치하세요."
    ),
    "machine-lost": Text(
        "{work}: 이 작업을 맡은 프로세스나 컴퓨터가 {times}번 멈췄습니다.",
        "도착한 파일은 남아 있으니 명령을 다시 실행하세요. 또 멈추면 클러스터의 로그를 살펴보세요.",
    ),
    "machine-out-of-memory": Text(
        "{work}: 메모리 {memory:.1f} GB로는 부족했고, 클러스터에 더 큰 컴퓨터가 없습니다.",
        "메모리가 더 큰 컴퓨터를 쓰거나, 샤드 크기를 줄이거나, 파일을 통째로 들고 있지 않는 "
        "Xet(`pip install hf_xet`)을 쓰세요.",
    ),
    "larger-than-machines": Text(
        "{work}: 프로세서 {cpus}개와 메모리 {memory:.1f} GB가 필요한데, 클러스터에서 가장 큰 컴퓨터는 {most}개와 "
        "{largest:.1f} GB입니다.",
        "더 큰 컴퓨터를 쓰거나, 샤드 크기를 줄이거나, 파일을 통째로 들고 있지 않는 Xet(`pip install hf_xet`)을 쓰세요.",
    ),
    # destinations
    "destination-name": Text("'{given}': 저장할 곳이 아닙니다.", "`hf://owner/name`으로 쓰세요."),
    "repository-id": Text("'{given}': 저장소 id가 아닙니다.", "`hf://owner/name`으로 쓰세요."),
    "destination-is-file": Text("{path}: 파일입니다. 결과는 폴더입니다.", _OTHER_NAME),
    "folder-not-empty": Text(
        "{path}: 비어 있지 않아 덮어쓰게 됩니다.", "다른 이름을 고르거나, 덮어쓰기를 허락하세요."
    ),
    "destination-closed": Text("{path}: 쓸 수 없는 곳입니다.", "다른 폴더를 고르세요."),
    "disk-too-small": Text(
        "결과에 디스크 {needed:,}바이트가 필요한데 {path}에는 {free:,}바이트가 남았습니다.", _NO_DISK
    ),
    "disk-full": Text("디스크가 가득 차 {file} 파일을 쓰지 못했습니다.", _NO_DISK),
    "destination-busy": Text("{path}: 다른 병합이 쓰고 있습니다.", "끝나기를 기다리세요."),
    "memory-too-small": Text(
        "병합과 병합된 모델에 메모리 {needed:,}바이트가 필요한데 {free:,}바이트가 남았습니다.",
        "메모리가 훨씬 덜 드는 폴더나 허브로 병합하세요.",
    ),
    "live-merge-too-large": Text(
        "메모리에 올릴 모델에 {needed:,}바이트가 필요한데 {free:,}바이트가 남았습니다.",
        "메모리가 더 큰 컴퓨터에서 찾거나, 같은 계열의 더 작은 모델을 쓰세요.",
    ),
    "other-tensors": Text(
        "레시피의 텐서가 메모리에 올린 모델의 텐서와 다릅니다: {tensors:few}.",
        "모델, 레이어, 어휘가 같은 레시피들 안에서 찾으세요.",
    ),
    "layers-differ": Text("모델마다 레이어 수가 다릅니다: {layers:all}.", "모양이 같은 모델을 고르세요."),
    "no-derivative": Text(
        "{method} 방법의 '{parameter}' 값으로는 점수를 미분할 수 없습니다.",
        "시행으로 찾거나, 가중치만 찾으세요.",
    ),
    "no-derivative-of-tensors": Text(
        "transformers가 다른 텐서로 쌓는 텐서라서 계수를 학습할 수 없습니다: {tensors:few}.",
        "시행으로 찾으세요.",
    ),
    "unknown-model-class": Text(
        "transformers {version} 버전이 모르는 모델입니다({error}).",
        "폴더에 병합해, 만든 이가 말하는 대로 불러오세요.",
    ),
    "incomplete-model": Text(
        "모델에 있어야 할 텐서가 병합 결과에 없습니다: {tensors:few}.", "이런 모델은 통째로 병합하세요."
    ),
    "no-login": Text(
        "{repository}에 올리려면 로그인해야 합니다.",
        "로그인하거나, 컴퓨터에서 `hf auth login`을 실행하세요.",
    ),
    "hub-silent": Text("허브가 응답하지 않았습니다({error}).", "연결을 확인하고 다시 해 보세요."),
    "hub-status": Text("허브의 응답: {status}.", "나중에 다시 해 보세요."),
    "not-yours": Text(
        "{account} 계정은 {owner}에 모델을 만들 수 없습니다.", "올릴 수 있는 곳: {owners:all}."
    ),
    "destination-exists": Text(
        "{repository}: 이미 모델이 있습니다.",
        "다른 이름을 고르거나, 덮어쓰기를 허락하거나, 풀 리퀘스트를 여세요.",
    ),
    "destination-created": Text("{repository}: 병합하는 동안 다른 사람이 만들었습니다.", _OTHER_NAME),
    "destination-filled": Text("{repository}: 병합하는 동안 모델이 올라왔습니다.", _OTHER_NAME),
    "destination-changed": Text(
        "{repository}: 병합하는 동안 다른 사람이 바꾸었습니다.", "바뀐 것을 보고 같은 병합을 다시 하세요."
    ),
    "push-failed": Text(
        "허브가 결과를 받지 않았습니다({reason}).",
        "이 로그인으로 쓸 수 있는 곳인지 확인하고, 같은 병합을 다시 하세요.",
    ),
    "push-interrupted": Text(
        "허브가 결과를 받지 않았습니다({reason}).",
        "이 로그인으로 쓸 수 있는 곳인지 확인하고, 같은 병합을 다시 하세요. 마지막으로 끝난 파일부터 이어집니다.",
    ),
    "store-failed": Text(
        "허브의 저장소가 결과를 받지 않았습니다({reason}). 다른 방법으로 보내려면 {largest:,}바이트 파일이 메모리에 "
        "들어가야 하는데 {free:,}바이트가 남았습니다.",
        "나중에 같은 병합을 다시 하거나, 파일을 작게 나누세요(`--shard-size`).",
    ),
    "not-what-was-sent": Text(
        "{repository}: 보낸 것과 내용이 다릅니다: {files:few}.",
        "쓰지 마세요. 지우고 같은 병합을 다시 하세요.",
    ),
    "cancelled-late": Text(
        "{repository}에 마지막 커밋을 하는 동안 병합을 멈췄고, 허브가 응답하지 않습니다.",
        "페이지를 확인하세요. 전에 있던 것 그대로이거나, 병합 전체가 있습니다.",
    ),
    # extracting adapters
    "no-difference": Text(
        "{model}: 베이스({base})와 숫자가 같아 뽑아낼 것이 없습니다.", "다른 모델을 쓰세요."
    ),
    "packed-expert": Text(
        "{tensor}: 바뀌었지만, 불러올 때 전문가들이 한데 묶이므로 PEFT에 따로 둘 자리가 없습니다.",
        "모델 전체를 병합하거나, 전문가를 건드리지 않은 파인튜닝에서 뽑으세요.",
    ),
    "no-place": Text(
        "{tensor}: 바뀌었지만, PEFT에는 {module}의 행렬 옆에 이것을 둘 자리가 없습니다.",
        "모델 전체를 병합하세요.",
    ),
    "left-out-tensor": Text("{base}에 없는 {model}의 텐서는 어댑터에 넣지 않았습니다: {tensors:few}."),
    "not-its-base": Text(
        "{model}: 베이스({base})를 파인튜닝한 모델이 아닙니다. 맞지 않는 것: {tensors:few}.",
        "그 베이스를 쓰세요.",
    ),
    # the page: recipes
    "source": Text(
        "'{source}': 모델 이름도, 레시피 링크도 아닙니다.",
        "owner/name으로 쓰거나, '링크 복사'로 만든 링크를 붙여 넣으세요.",
    ),
    "not-found": Text(
        "허브에서 '{name}' 모델을 찾을 수 없거나 볼 수 없습니다(상태 {status}).",
        "이름을 확인하세요. 비공개이거나 접근이 제한된 모델이면 로그인하세요.",
    ),
    "no-recipe": Text(
        "{name}에는 레시피가 없습니다. mergekit_config.yml도, 카드에 YAML로 적힌 병합도 없습니다.",
        "병합으로 만들어진 모델을 고르세요.",
    ),
    "file-without-recipe": Text(
        "이 파일에는 레시피가 없습니다.",
        "`merge_method:`가 있는 YAML 파일이나, 레시피가 실린 모델 카드를 놓으세요.",
    ),
    "silent": Text("허브가 응답하지 않았습니다.", "잠시 뒤에 다시 해 보세요."),
    # the page: destinations
    "no-owner": Text("로그인하지 않아 저장할 계정이 없습니다.", "먼저 Hugging Face로 로그인하세요."),
    "no-owner-here": Text(
        "로그인하지 않아 저장할 계정이 없습니다.",
        "`hf auth login`을 실행하고 페이지를 새로 고치거나, 폴더에 저장하세요.",
    ),
    "bad-name": Text(
        "'{name}': 모델 이름으로 쓸 수 없습니다.",
        "글자, 숫자, '-', '_', '.'을 96자까지 쓰고, 글자나 숫자로 시작하고 끝내세요.",
    ),
    "bad-owner": Text("'{owner}': 쓸 수 있는 계정이 아닙니다.", "이 가운데서 고르세요: {owners:all}."),
    "bad-place": Text("'{place}': 저장할 곳이 아닙니다.", "hf://owner/name 형식으로 쓰세요."),
    "bad-place-here": Text(
        "'{place}': 저장할 곳이 아닙니다.", "hf://owner/name 또는 새 폴더의 이름만 쓰세요."
    ),
    # the page: merges
    "plan-defect": Text("계획을 세우다가 Alloy 안에서 문제가 생겼습니다: {error}", _REPORT),
    "models-ended": Text(
        "모델을 실행하던 프로세스가 끝났습니다. 어떤 모델이 시간이나 메모리를 너무 많이 썼습니다.",
        "다시 요청하세요. 모델은 새로 불러옵니다. 메모리에서 시험하던 병합은 다시 만들어야 합니다.",
    ),
    "no-llama-cpp": Text(
        "{model}: llama.cpp로 실행하는 GGUF 파일인데, llama.cpp가 설치되어 있지 않습니다.",
        "pip install 'alloy-merge[llama]' 명령으로 설치하세요 (Linux와 macOS).",
    ),
    "no-gguf": Text("{file} 파일은 GGUF 파일이 아니거나 손상되었습니다.", _DOWNLOAD_AGAIN),
    "llama-refuses": Text(
        "llama.cpp로 {model} 모델을 실행할 수 없습니다: {words}",
        "transformers로 실행하거나 다른 모델을 고르세요.",
    ),
    "other-vocabulary": Text(
        "토큰 수가 {file}에는 {count}개, {model}에는 {other}개입니다.", "그 파일을 만든 모델을 적으세요."
    ),
    "llama-ended": Text(
        "{model} 모델을 실행하던 llama.cpp가 끝났습니다. 시간이나 메모리를 너무 많이 썼거나 오류가 났습니다.",
        "다시 요청하면 모델을 새로 불러옵니다. 그래도 안 되면 transformers로 실행하세요.",
    ),
    "trial-gone": Text(
        "이 시험은 끝났습니다. 한동안 쓰지 않았거나, 다른 사람에게 메모리가 필요했습니다.",
        "'먼저 써 보기'를 다시 누르세요.",
    ),
    "plan-limit": Text(
        "계획을 세우는 데 CPU 시간 {seconds:.0f}초, 전체 {wait:.0f}초, 메모리 {memory:.0f} GB 중 하나를 넘었습니다.",
        "서버나 허브가 바쁠 수 있으니 다시 시도하세요. 파일이 손상되었을 수도 있으니 모델을 하나씩 시험해 보세요.",
    ),
    "too-many-plans": Text(
        "세우고 있거나 기다리는 계획이 이미 {count}개입니다.", "하나가 끝나기를 기다리세요."
    ),
    "job-defect": Text(
        "병합하다가 Alloy 안에서 문제가 생겼습니다: {error}", f"{_REPORT} 남은 것은 없습니다."
    ),
    "argument": Text("`{name}`: {given}.", "{words}."),
    "defect": Text("Alloy 안에서 문제가 생겼습니다: {error}", "Alloy의 버그입니다. 알려 주세요."),
    "one-model": Text("모델이 하나뿐이라 비교할 것이 없습니다.", "모델을 더하세요."),
    "no-job": Text(
        "이런 번호의 병합이 없습니다.", "번호는 서버가 도는 동안만 남습니다. 병합을 다시 시작하세요."
    ),
    "restarted": Text(
        "이 병합이 끝나기 전에 서버가 다시 시작되었습니다.",
        "허브에 있는 것은 그대로입니다. '다시 시도'를 누르면 없는 파일만 더합니다. 이미 끝났다면 모델이 있다고 "
        "나옵니다.",
    ),
    "rented-elsewhere": Text("빌린 컴퓨터에서 하는 병합의 대상은 허브입니다.", "대상을 허브로 고르세요."),
    "rented-heal-elsewhere": Text(
        "빌린 컴퓨터에서 하는 학습의 대상은 허브의 저장소입니다. 두 번째 시도가 거기서 학습한 것을 찾습니다.",
        "대상을 내 계정으로 고르세요.",
    ),
    "rented-refused": Text(
        "이 로그인으로는 컴퓨터를 빌릴 수 없습니다(허브의 응답: {status}).",
        "이 Space가 `jobs` 권한을 요청한다면 다시 로그인하거나, 쓰기 권한이 있는 토큰을 쓰거나, 빌린 컴퓨터용 명령을 "
        "복사하세요.",
    ),
    "rented-unpaid": Text(
        "허브는 잔액이 있는 계정에만 컴퓨터를 빌려줍니다(허브의 응답: {status}).",
        "계정의 결제 설정에서 크레딧을 충전하세요.",
    ),
    "rented-hub": Text("허브가 작업을 받지 않았습니다(응답: {status}).", "나중에 다시 시도하세요."),
    "rented-already": Text(
        "빌린 컴퓨터가 이미 {to}에 올릴 결과를 만들고 있습니다.",
        "먼저 그 작업을 중지하거나 다른 이름을 고르세요. 작업 페이지는 {url}입니다.",
    ),
    "rented-unseen": Text(
        "허브가 10분 동안 응답하지 않았습니다. 빌린 컴퓨터는 아직 실행 중일 수 있고, 그동안 비용이 듭니다.",
        "{url}에서 확인하고, 더 필요 없으면 거기서 중지하세요. 허브에 있는 파일은 남습니다. '다시 시도'하면 거기서부터 "
        "이어 합니다.",
    ),
    "rented-failed": Text(
        (
            "빌린 컴퓨터에서 실패했습니다: {reason}.",
            "빌린 컴퓨터에서 실패했습니다.",
        ),
        "로그는 {url}에 있습니다. 다른 컴퓨터에서 '다시 시도'하면 허브에 있는 파일부터 이어 합니다.",
    ),
    "no-memory": Text(
        "병합에 메모리 {size}가 필요한데 지금은 그만큼 남아 있지 않습니다.",
        "다른 작업이 끝난 뒤 다시 해 보거나, 같은 레시피를 더 큰 컴퓨터에서 실행하세요.",
    ),
    "machine-too-small": Text(
        "병합에 메모리 {size}가 필요한데 이 컴퓨터의 메모리는 모두 {most}입니다.",
        "같은 레시피를 더 큰 컴퓨터에서 실행하세요. `python -m merging run`도 같은 병합을 합니다.",
    ),
    "too-many-jobs": Text(
        "실행 중이거나 기다리는 병합이 이미 {count}개입니다.", "하나가 끝나기를 기다리거나 하나를 멈추세요."
    ),
    "busy": Text(
        "대기열이 찼습니다. 병합 {count}개가 실행 중이거나 기다리고 있습니다.",
        "몇 분 뒤에 다시 하거나, 이 Space를 복제해서 혼자 쓰세요.",
    ),
    "no-room": Text(
        "결과의 크기는 {size}인데 다운로드용으로 남은 자리는 {free}입니다.",
        "나중에 다시 하거나, 로그인해서 내 계정에 저장하세요. 그러면 여기에 자리가 필요 없습니다.",
    ),
    "too-large": Text(
        "병합된 모델의 크기는 {size}인데 여기서는 {most}까지 써 볼 수 있습니다.",
        "내 계정에 병합하거나, 더 큰 컴퓨터에서 Alloy를 실행하세요.",
    ),
    # words from elsewhere
    "no-answer": Text("{words}"),
    "no-score": Text("{words}"),
    "text-too-long": Text("글이 {length}자입니다. 이 서버는 {most}자까지 읽습니다.", "글의 일부만 쓰세요."),
    "word-too-long": Text(
        "글에 띄어쓰기 없이 이어진 글자가 {length}자 있습니다. 이 서버는 {most}자까지 읽습니다.",
        "낱말이나 줄로 나누세요.",
    ),
    "space-too-long": Text(
        "탐색 공간이 {length}자입니다. 여기서는 {most}자까지 탐색할 수 있습니다.",
        "줄이거나 내 컴퓨터에서 탐색하세요.",
    ),
    "card-without-login": Text(
        "카드는 내 이름으로 고치는데, 로그인하지 않았습니다.", "먼저 Hugging Face에 로그인하세요."
    ),
    # evaluation: where models are
    "no-folder": Text("{path}: 여기서 읽을 수 있는 폴더가 없습니다.", "폴더나 `owner/name`을 쓰세요."),
    "no-base-or-adapter": Text("'{given}': '+' 앞에 모델이 없거나 뒤에 어댑터가 없습니다."),
    "folder-revision": Text(
        "{model}: 폴더입니다. '{revision}' 같은 리비전은 허브의 모델에만 있습니다.", "리비전을 빼세요."
    ),
    "two-revisions": Text("{model}: 리비전이 '{one}', '{two}' 두 개입니다.", "하나만 쓰세요."),
    "no-commit": Text("{model}: {host} 주소가 커밋을 알려 주지 않습니다.", "허브가 맞는지 확인하세요."),
    "no-disk-for-model": Text("{model}: 이 컴퓨터의 디스크가 가득 찼습니다.", "더 작은 모델을 고르세요."),
    "model-and-adapter": Text(
        "{model}: config.json과 {file}이 함께 있어 어느 쪽을 실행할지 알 수 없습니다.",
        "어댑터를 모델에 합치거나 어댑터의 파일을 지우세요.",
    ),
    "no-safetensors": Text(
        (
            "{model}: {files:all}만 있고 {file} 파일이 없습니다.",
            "{model}: 가중치가 없습니다({file} 파일 없음).",
        ),
        f"다른 형식은 남이 만든 코드를 실행할 수 있거나 여기서 읽지 않습니다. {_CONVERT}",
    ),
    "no-adapter-weights": Text(
        "어댑터 {adapter}에 {file} 파일이 없습니다.",
        "PEFT로 불러와 다시 저장하세요. 다른 형식은 남이 만든 코드를 실행할 수 있습니다.",
    ),
    "damaged-index": Text("{model}: {file} 파일이 손상되었습니다.", "다시 올리거나 병합하세요."),
    # evaluation: weights, adapters, answers
    "no-own-weights": Text("{model}: 자신의 가중치가 없습니다.", "병합하고 그 결과를 쓰세요."),
    "few-positions": Text(
        "{model}, {other}: 이 글에서 함께 비교할 위치가 {count}개뿐인데 {least}개가 필요합니다.",
        "더 긴 글을 주세요.",
    ),
    "nan-states": Text(
        "{model} 또는 {other}: 이 글에 NaN으로 답합니다. 가중치에 NaN이나 Inf가 있거나, 값이 dtype에 비해 너무 큽니다."
    ),
    "no-token-offsets": Text("{model}: 토크나이저가 글에서 토큰의 위치를 알려 주지 않습니다.", _SAVE_AS_FAST),
    "empty-text": Text("글이 없습니다.", "적어도 몇 문장을 주세요."),
    "few-tokens": Text(
        "글이 토큰 {count}개뿐인데, 레이어를 재려면 {least}개가 필요합니다.", "더 긴 글을 주세요."
    ),
    "drop-range": Text(
        "drop={drop}: {model}에서는 레이어를 1개에서 {most}개까지 뺄 수 있습니다. 처음과 마지막은 항상 남습니다."
    ),
    "try-range": Text("count={count}: 시험할 방법이 하나 이상이어야 합니다."),
    "no-layer-stack": Text(
        "{model}: 레이어를 찾지 못했습니다. {kind}에는 config에 적힌 수만큼의 레이어가 든 목록이 하나로 정해지지 "
        "않습니다.",
        "Llama, Qwen, Phi, GPT-2, Gemma처럼 레이어가 차례로 이어지는 언어 모델을 고르세요.",
    ),
    "layers-on-disk": Text(
        "{model}: 일부가 디스크에 있습니다. 레이어는 메모리에서만 잴 수 있습니다.",
        "`--offload`를 빼거나 메모리가 더 큰 컴퓨터를 쓰세요.",
    ),
    "cut-kinds": Text(
        "{model}: 레이어 {drop}개를 뺄 방법이 없습니다. 레이어의 종류가 여럿이고, 남은 레이어의 종류를 config의 "
        "'{key}' 값으로 "
        "나타낼 수 없습니다.",
        "패턴의 주기 전체처럼 다른 개수를 빼 보세요.",
    ),
    "too-few-answers": Text("repeats={repeats}, new_tokens={new_tokens}: 각각 1과 2 이상이어야 합니다."),
    "generation-settings": Text(
        "max_new_tokens={max_new_tokens}, temperature={temperature}, top_p={top_p}: 각각 1 이상, 0 이상, 0보다 크고 "
        "1 이하여야 합니다."
    ),
    "conversation-too-long": Text(
        "대화가 토큰 {tokens}개인데 {model} 모델은 {context}개까지 읽습니다.",
        "새 대화를 시작하거나 줄이세요.",
    ),
    "nan-answer": Text(
        "모델이 NaN으로 답합니다. 가중치에 NaN이나 Inf가 있거나, 값이 dtype에 비해 너무 큽니다.",
        "다른 매개변수나 다른 dtype으로 다시 병합하세요.",
    ),
    "empty-conversation": Text("대화가 비어 있습니다.", "메시지를 하나 이상 주세요."),
    "bad-message": Text(
        "메시지 {number}: 역할이 {role}이고 내용의 형식이 {kind}입니다.",
        "역할은 {roles:all} 가운데 하나이고 내용은 글이어야 합니다.",
    ),
    "template-refuses": Text(
        "{model}: 채팅 템플릿이 이 대화를 받지 않습니다({error}).",
        "시스템 메시지를 받지 않거나 user와 assistant가 번갈아 말해야 하는 템플릿이 많습니다.",
    ),
    "damaged-adapter": Text("{model}: {file} 파일이 손상되었습니다.", "PEFT로 어댑터를 다시 저장하세요."),
    "adapter-kind-not-run": Text(
        "{model}: {kind} 종류의 어댑터이고, 여기서 실행하지 않는 종류입니다.",
        "이 가운데 하나를 쓰세요: {kinds:all}.",
    ),
    "adapter-fits-not": Text(
        (
            "{model}: 앞의 모델에 맞지 않습니다. 이 어댑터가 밝힌 학습 베이스: {trained_on}. PEFT의 말: {words}",
            "{model}: 앞의 모델에 맞지 않습니다. PEFT의 말: {words}",
        )
    ),
    "token-rows-missing": Text(
        "{model}: 토큰 {token}의 행을 학습했는데 베이스의 행은 {rows}개이고, 그 사이의 행(이를테면 {unknown})은 어느 "
        "쪽에도 없습니다.",
        _GROWN_BASE,
    ),
    # evaluation: cards
    "no-result-chosen": Text("카드에 쓸 결과를 고르지 않았습니다.", "하나 이상 고르세요."),
    "folder-pull-request": Text("{model}: 폴더입니다.", "풀 리퀘스트는 허브의 모델에만 보낼 수 있습니다."),
    "no-own-card": Text("{model}: 어댑터를 붙인 베이스이고, 자신의 카드가 없습니다.", "먼저 병합하세요."),
    "card-metadata": Text(
        "{model}: README.md 맨 위의 메타데이터는 {what:phrase}.", "먼저 고치세요. 아무것도 쓰지 않았습니다."
    ),
    "card-not-utf8": Text(
        "{model}: README.md 파일이 UTF-8이 아닙니다({words}).",
        "먼저 UTF-8로 저장하세요. 아무것도 쓰지 않았습니다.",
    ),
    "card-refused": Text(
        "{model}: 허브가 카드를 받지 않습니다({words}).", "먼저 고치세요. 아무것도 쓰지 않았습니다."
    ),
    "card-not-yours": Text(
        "{model}: 이 로그인으로는 쓸 수 없습니다(상태 {status}).",
        "소유자로 로그인하거나 풀 리퀘스트로 제안하세요.",
    ),
    "card-not-proposed": Text("{model}: 이 로그인으로는 제안할 수 없습니다(상태 {status}).", "로그인하세요."),
    "card-changing": Text("{model}: 지금 다른 사람이 바꾸고 있습니다(상태 {status}).", "다시 해 보세요."),
    "card-not-taken": Text("{model}: 허브가 카드를 받지 않았습니다(상태 {status}).", "다시 해 보세요."),
    "score-not-finite": Text(
        "{model}: {metric} 값이 {value}이고, 카드에 쓸 수 없는 값입니다.", "이 값을 빼세요."
    ),
    # judging: texts
    "no-bundled-text": Text("'{name}': 함께 들어 있는 글이 아닙니다.", "쓸 수 있는 것: {known:all}."),
    "text-unreadable": Text(
        "{path}: 읽을 수 없습니다({error}).",
        "글이 담긴 파일을 주거나 함께 들어 있는 글의 이름을 쓰세요: {known:all}.",
    ),
    "not-utf8": Text(
        "{name}: UTF-8이 아닙니다. {byte}번째 바이트가 잘못되었습니다.",
        "UTF-8로 저장하고(오래된 한국어 파일은 `iconv -f cp949 -t utf-8`), 글이 담긴 파일인지 확인하세요.",
    ),
    "empty-file": Text("{name}: 비어 있습니다.", "적어도 수백 단어의 글을 주세요."),
    "broken-character": Text(
        "글의 {position}번째 자리에 깨진 글자가 있습니다.", "올바른 유니코드(UTF-8)여야 합니다."
    ),
    "rows-range": Text("rows={rows}: 1 이상이어야 합니다."),
    "dataset-not-on-hub": Text(
        "{name}: 여기서는 허브의 데이터 세트만 읽을 수 있습니다.", "owner/name으로 쓰세요."
    ),
    "no-column": Text("{name}: '{column}' 열이 없습니다.", "쓸 수 있는 것: {known:all}."),
    "column-not-text": Text(
        "{name}: '{column}' 열에 글이 아니라 {kind} 값이 있습니다.", "다른 열을 고르세요."
    ),
    "empty-column": Text("{name}: '{split}'의 '{column}' 열에 글이 없습니다.", "다른 열을 고르세요."),
    "no-datasets-package": Text(
        "데이터 세트를 읽는 데 필요한 datasets 패키지가 없습니다.", "`pip install datasets`를 실행하세요."
    ),
    "dataset-gated": Text(
        "데이터 세트 {name}: 읽을 수 없습니다.",
        "승인이 필요합니다. 그 페이지에서 조건에 동의하고 로그인해서 다시 오세요. datasets의 말: {words}",
    ),
    "dataset-unreadable": Text(
        "데이터 세트 {name}: 읽을 수 없습니다.",
        "이름, 분할(split), 구성(configuration)을 확인하세요. 비공개이거나 승인이 필요하면 로그인해야 합니다. "
        "datasets의 말: {words}",
    ),
    "dataset-limit": Text(
        "데이터 세트 {name}: 읽는 데 {seconds:.0f}초 또는 메모리 {memory:.0f} GB보다 많이 필요합니다.",
        "행 수를 줄이거나 다른 데이터 세트를 선택하세요.",
    ),
    # judging: perplexity and differences
    "context-range": Text(
        "context={context}: 1에서 {most} 사이여야 합니다. {model}: 그만큼 읽을 수 있습니다."
    ),
    "stride-range": Text("stride={stride}: 1에서 context({context}) 사이여야 합니다."),
    "no-bos": Text("bos=True: {model} 모델에는 BOS 토큰도 EOS 토큰도 없습니다.", "이 설정을 빼세요."),
    "nothing-to-score": Text(
        "점수를 매길 것이 없습니다. 글 {texts}개, 모두 {characters}자입니다.",
        "적어도 토큰 두 개는 되어야 하고, 수백 단어면 더 많은 것을 알 수 있습니다.",
    ),
    "nan-answers": Text(
        "{model}: NaN으로 답합니다. 가중치에 NaN이나 Inf가 있거나, 값이 {dtype}에 비해 너무 큽니다.",
        "다른 매개변수나 다른 dtype으로 다시 병합하세요.",
    ),
    "other-slice": Text(
        "{model}: 하다 만 점수가 다른 모델, 다른 글, 또는 다른 설정의 것입니다.", "처음부터 다시 하세요."
    ),
    "other-texts": Text(
        "{model}: 문서 {count}개, {other}: 문서 {other_count}개로 점수를 매겼는데, 주어진 것은 {given}개입니다.",
        "둘 다 같은 글로 점수를 매기세요.",
    ),
    "other-text": Text(
        "{model}: 문서 {count}개로 점수를 매겼는데, 주어진 것은 {given}개입니다.", "점수를 매긴 글을 주세요."
    ),
    "no-common-text": Text("{model}, {other}: 함께 점수를 매긴 글이 없습니다.", "더 긴 글을 주세요."),
    # judging: benchmarks
    "no-lm-eval-package": Text(
        "벤치마크에 필요한 lm-eval이 없습니다.", "`pip install lm_eval`을 실행하세요."
    ),
    "benchmark-request": Text(
        "tasks={tasks}, limit={limit}, few_shot={few_shot}: 과제가 하나 이상, limit은 1 이상, few_shot은 0 이상이어야 "
        "합니다."
    ),
    "no-template-to-ask-with": Text(
        "{model}: 채팅 템플릿이 없습니다.", "템플릿 없이 묻거나, 부모 모델에서 복사하세요."
    ),
    "task-not-offered": Text("이 서버에서는 '{task}' 과제를 묻지 않습니다.", "{known:all} 가운데 고르세요."),
    "no-task": Text("lm-eval에 '{task}' 과제가 없습니다.", "먼저 권하는 것: {known:all}."),
    "common-task": Text(
        "{one}, {two}: 둘 다 {task} 과제를 담고 있는데 lm-eval은 질문마다 한 번만 묻습니다.",
        "하나씩 따로 물으세요.",
    ),
    "benchmark-ended": Text(
        "{model}: 벤치마크가 중간에 끝났습니다.",
        "과제의 데이터에 승인이 필요하거나 데이터를 받을 수 없을지도 모릅니다. lm-eval의 말: {words}",
    ),
    "questions-out-of-reach": Text(
        "허브에 연결되지 않아 다음 벤치마크의 문제를 가져오지 못했습니다: {tasks:all}.",
        "연결을 확인하고 다시 해 보세요. 한 번 가져온 문제는 캐시에서 읽습니다.",
    ),
    "no-questions": Text(
        "질문을 받을 수 없습니다.",
        "과제의 데이터에 승인이 필요하거나 데이터를 받을 수 없을지도 모릅니다. lm-eval의 말: {words}",
    ),
    "asked-otherwise": Text(
        "few_shot과 chat_template이 다릅니다. {model}: {asked}, {other}: {other_asked}.",
        "둘 다 같은 방법으로 물으세요.",
    ),
    "no-common-question": Text("{model}, {other}: 함께 받은 질문이 없습니다."),
    # judging: models that run
    "token-without-row": Text(
        "{model}: 토크나이저는 {number}번 토큰({token})을 내는데 임베딩의 행은 {rows}개입니다.",
        "이 가중치에 맞는 토크나이저로 다시 병합하세요.",
    ),
    "unknown-device": Text("'{device}': 모르는 장치입니다.", "auto, cpu, cuda 가운데 하나를 쓰세요."),
    "no-gpu-for-device": Text("장치가 'cuda'인데 여기에는 GPU가 없습니다.", "'auto'나 'cpu'를 쓰세요."),
    "model-too-large": Text(
        "{model}: 가중치에 {needed:.1f} GB가 필요한데 여기에는 {free:.1f} GB가 비어 있습니다.",
        "더 작은 모델을 고르거나, 다른 일이 끝나기를 기다리거나, 더 큰 컴퓨터에서 하거나, 들어가지 않는 것을 디스크에 "
        "두세요(명령줄에서 --offload FOLDER).",
    ),
    "model-with-adapter-too-large": Text(
        "{model}: 가중치에 {needed:.1f} GB가 필요한데 여기에는 {free:.1f} GB가 비어 있습니다.",
        "더 작은 모델을 고르거나, 다른 일이 끝나기를 기다리거나, 더 큰 컴퓨터에서 하거나, 어댑터를 먼저 베이스에 "
        "병합하세요.",
    ),
    "memory-in-use": Text(
        "메모리 {needed:.1f} GB가 필요한데 여기에는 {free:.1f} GB가 비어 있습니다.",
        "다른 일이 끝나기를 기다리거나 더 큰 컴퓨터를 쓰세요.",
    ),
    "config-unusable": Text(
        "{model}: config.json을 쓸 수 없습니다.",
        "저장소의 코드 없이 transformers가 아는 것이어야 합니다. transformers의 말: {words}",
    ),
    "not-loadable": Text("{model}: 인과 언어 모델로 불러올 수 없습니다. transformers의 말: {words}"),
    "lacking-tensors": Text(
        "{model}: {kind}에 필요한 텐서 {count}개가 없습니다(이를테면 '{first}').",
        "온전한 인과 언어 모델이어야 합니다. 다른 모델을 고르거나 다시 병합하세요.",
    ),
    "tokenizer-unusable": Text(
        "{model}: 읽을 수 있는 토크나이저가 없습니다.",
        "가중치 옆에 tokenizer.json과 tokenizer_config.json(또는 예전 형식의 파일)이 있어야 합니다. 부모 모델에서 "
        "복사하세요. transformers의 말: {words}",
    ),
    "tokenizer-limit": Text(
        "{model}의 토크나이저가 {seconds:.0f}초 또는 메모리 {memory:.0f} GB보다 많이 필요합니다.",
        "파일이 손상되었거나 서버를 붙잡아 두려고 만든 것일 수 있습니다. 다른 모델을 선택하세요.",
    ),
    "tokenizer-fails": Text(
        "{model}의 토크나이저가 이 글을 처리하지 못합니다. 토크나이저의 말: {words}",
        "파일이 손상되었을 수 있습니다. 부모 모델의 파일을 복사하세요.",
    ),
    "empty-tokenizer": Text(
        "{model}: 토크나이저가 없거나 비어 있습니다.",
        "가중치 옆에 tokenizer.json이 있어야 합니다. 부모 모델에서 복사하세요.",
    ),
    "does-not-run": Text("{model}: 불러왔지만 실행되지 않습니다. torch의 말: {words}"),
    "both-directions": Text(
        "{model}({kind}): BERT 같은 인코더처럼 글을 양쪽으로 읽습니다.",
        "글을 이어 쓸 수 있고 퍼플렉시티가 있는 인과 언어 모델이어야 합니다.",
    ),
    "no-room-here": Text(
        "{repo}: {size:.1f} GB를 내려받아야 하는데 디스크에는 {room:.1f} GB의 자리가 있습니다.",
        "더 작은 모델을 고르거나, 다른 모델이 나갈 수 있게 몇 분 뒤에 다시 오세요.",
    ),
    "no-room-for-download": Text(
        "{repo}: {size:.1f} GB를 내려받아야 하는데 디스크에는 {room:.1f} GB의 자리가 있습니다.",
        "자리를 비우거나, HF_HUB_CACHE를 {cache} 말고 더 큰 디스크로 정하세요.",
    ),
    # searching
    "no-search-block": Text(
        "탐색 공간에는 레시피와 함께 `search:` 항목이 하나 있어야 합니다.",
        "`search:`에 `objective:`를 쓰세요. 예: 잘 예측해야 할 글.",
    ),
    "nothing-to-search": Text(
        "레시피에 바꿀 수 있는 값이 없습니다.",
        "숫자 자리에 `weight: {{search: [0, 1.2], start: 0.5}}`처럼 범위를 쓰세요.",
    ),
    "search-values": Text(
        "'{parameter}'의 `search`는 작은 수부터 쓴 두 수이거나 선택지 목록이어야 하는데 {found:phrase}입니다."
    ),
    "search-switch": Text(
        "'{parameter}': 켜고 끄는 값이라 `search`는 `[0, 1]`이어야 하는데 {found:phrase}입니다."
    ),
    "search-anchors": Text("`anchors`는 2부터 {most}까지의 정수여야 하는데 {found:phrase}입니다."),
    "search-start": Text(
        "`start`는 범위({expected}) 안에 있어야 하는데 {found:phrase}입니다.",
        "값을 하나, 또는 앵커마다 하나씩 쓰세요.",
    ),
    "no-objective": Text("탐색에는 목표가 필요합니다.", "`objective:`에 글, 과제 또는 함수의 목록을 쓰세요."),
    "only-guards": Text(
        "모든 목표에 한계가 있어 나아질 것이 없습니다.", "`at_most`나 `at_least`가 없는 목표를 더하세요."
    ),
    "repeated-goal": Text("목표 둘의 이름이 모두 '{name}'입니다.", "하나에 다른 `name:`을 쓰세요."),
    "search-way": Text("'{name}' 탐색 방법은 없습니다.", _MEANT),
    "unknown-start": Text("'{name}'이라는 시작점은 없습니다.", _MEANT),
    "starts-of-grid": Text("격자 탐색에는 시작점이 없습니다.", "`starts:`를 빼거나 다른 `by:`를 고르세요."),
    "starts-without-weights": Text(
        "`starts`는 모델에 비중을 줍니다. 바뀔 수 있는 `weight`가 있는 모델은 {count}개입니다.",
        "모델 둘 이상의 weight에 범위를 주거나 `starts:`를 빼세요.",
    ),
    "cocktail-without-texts": Text(
        "`lm_cocktail`은 글을 얼마나 잘 예측하는지로 비중을 정하는데, 글이 아닌 목표가 있습니다.",
        "`greedy_soup`을 쓰거나 `starts:`를 빼세요.",
    ),
    "unknown-limit": Text(
        "'{name}': 숫자도 레시피의 모델도 아니어서 '{goal}'의 제한으로 쓸 수 없습니다.", _MEANT
    ),
    "unknown-teacher": Text("'{name}' 모델은 레시피에 없어 '{goal}'의 teacher가 될 수 없습니다.", _MEANT),
    "teacher-without-text": Text(
        "`teacher`는 글이나 데이터셋을 예측하는데, 이 목표의 종류는 `{kind}`입니다.",
        "`teacher:` 옆에 `text: FILE`이나 `dataset: NAME`을 쓰세요.",
    ),
    "search-shares": Text(
        "`search`, `choice`, `report`는 0보다 크고 합이 1인 몫이어야 하는데 {given:and}입니다."
    ),
    "search-number": Text("`{name}` 값은 {low:g} 이상의 수여야 하는데 {found:phrase}입니다."),
    "goal-without-weight": Text(
        "가중치가 0인 목표는 아무것도 바꾸지 않습니다.", "목표를 빼거나, 가중치 대신 한계를 두세요."
    ),
    "weight-of-limit": Text(
        "한계가 있는 목표는 점수에 들지 않으므로 가중치가 아무것도 바꾸지 않습니다.",
        "`weight:`나 한계 가운데 하나를 빼세요.",
    ),
    "goal-kind": Text("목표에는 {known:code} 가운데 하나가 있어야 합니다."),
    "chat-without-limit": Text(
        "채팅 답변은 목표로 삼을 수 없고 한계만 둘 수 있습니다.", "`at_most: base` 같은 한계를 더하세요."
    ),
    "python-source": Text("'{given}': 파이썬 함수의 이름이 아닙니다.", "`file.py:function`으로 쓰세요."),
    "parts-missing": Text("부분별 글에는 {known:code}마다 파일이 필요한데 {given:code}만 있습니다."),
    "limit-direction": Text("`{kind}`의 한계로 쓸 것은 `{key}`입니다(지금은 `{given}`)."),
    "goal-limit": Text(
        "`{key}` 값은 수이거나 어떤 모델에 대한 값이어야 하는데 {found:phrase}입니다.",
        "`base + 0.01`처럼 쓰거나, `base` 자리에 부모의 이름을 쓰세요.",
    ),
    "genome-method": Text("mergekit-evolve에 '{name}' 병합 방법은 없습니다.", _MEANT),
    "genome-models": Text("genome에는 모델이 둘 이상인 `models:` 목록이 있어야 합니다."),
    "genome-slerp": Text("mergekit-evolve의 SLERP는 `filters`와 `smooth`를 쓰지 않습니다.", "빼세요."),
    "genome-slerp-models": Text(
        "모델 {count}개의 SLERP는 레시피 하나로 쓸 수 없습니다.", "모델을 둘만 쓰거나 다른 방법을 고르세요."
    ),
    "genome-layers": Text(
        "레이어 {layers}개는 {group}개씩 나누어떨어지지 않습니다.",
        "나누어떨어지는 `layer_granularity`를 고르세요.",
    ),
    "text-too-small": Text(
        "{names:and}: 문서 {count}개 가운데 {there}개가 {part} 부분에 있는데 {needed}개가 필요합니다.",
        "글을 더 주거나, 더 많은 문서(문단 또는 .jsonl 파일의 줄)로 나누거나, `split:`을 바꾸세요.",
    ),
    "document-in-two-parts": Text(
        "{names:and}의 이 문서가 {one} 부분과 {other} 부분에 똑같이 또는 거의 똑같이 있습니다: {text}",
        "둘 가운데 하나를 빼세요. 보고에 쓰는 글은 탐색에 쓴 적이 없어야 합니다.",
    ),
    "not-a-document": Text(
        "{name} 파일의 {line}번째 줄은 문서가 아닙니다.",
        '`"text"`가 있거나 `role`과 `content`로 된 `"messages"`가 있는 JSON이어야 합니다.',
    ),
    "python-not-allowed": Text(
        "{given}: 파이썬 함수는 명령줄과 파이썬에서만 실행할 수 있습니다.", "글이나 과제를 쓰세요."
    ),
    "no-python-function": Text("{function}: 불러올 수 없습니다. 파이썬의 메시지: {error}"),
    "python-score": Text("{function}: 실패했습니다. 파이썬의 메시지: {error}"),
    "python-score-numbers": Text(
        "{function}: {found}을(를) 돌려주었습니다.",
        "유한한 수 하나, 또는 문서마다 수가 하나씩 있는 목록이어야 합니다.",
    ),
    "python-score-count": Text(
        "{function}: 문서 {documents}개에 대해 수 {count}개를 돌려주었습니다.",
        "문서마다 수가 하나씩 있어야 합니다.",
    ),
    "task-without-answers": Text(
        "{task}: 문항별 점수가 없습니다(문항 {count}개).", "문항의 평균으로 된 과제나 지표를 고르세요."
    ),
    "trial-not-finite": Text("모델의 점수가 유한한 수가 아닙니다.", "범위를 좁히세요."),
    "cmaes-few-numbers": Text("CMA-ES에는 수가 둘 이상 필요한데 {count}개입니다.", "`by: tpe`를 고르세요."),
    "no-optuna": Text(
        "탐색에는 optuna 패키지가 필요합니다.", "`pip install 'alloy-merge[search]'`를 실행하세요."
    ),
    "worker-lost": Text(
        "{who}의 점수를 재는 동안 작업 프로세스가 {count}번 응답 없이 끝났습니다.",
        "작업 프로세스 수에 비해 메모리가 작을 수 있습니다. 수를 줄이세요.",
    ),
    "search-too-large": Text(
        "모델 {workers}개를 올리는 데 메모리 {needed:.1f} GB가 필요한데 {free:.1f} GB가 남았습니다.",
        "작업 프로세스를 줄이거나, 더 작은 모델이나 더 큰 컴퓨터를 쓰세요.",
    ),
    "no-gradient": Text(
        "점수를 미분할 수 없습니다. 바꿀 값은 모두 수, 목표는 모두 글이어야 합니다.", "`by: tpe`를 고르세요."
    ),
    "gradient-one-worker": Text(
        "기울기로 찾을 때는 프로세스를 {workers}개가 아니라 하나만 씁니다.", "`--workers`를 빼세요."
    ),
    "gradient-on-cluster": Text(
        "기울기로 찾는 일은 클러스터가 아니라 이 컴퓨터의 프로세스 하나에서 합니다.",
        "`--on`을 빼거나 `by: tpe`를 고르세요.",
    ),
    "function-on-cluster": Text(
        "이 프로세스의 함수는 클러스터로 보낼 수 없습니다.",
        "모든 컴퓨터가 함께 쓰는 폴더에 두고 `{{python: file.py:function}}`처럼 레시피에 적으세요.",
    ),
    "machine-other-parents": Text(
        "클러스터의 한 컴퓨터에서 읽히는 버전이 이 컴퓨터와 다른 모델: {names:all}.",
        "폴더를 함께 쓰거나 리비전을 적으세요. 그사이 모델이 바뀌었으면 탐색을 다시 계획하세요.",
    ),
    "storage-way": Text(
        "{by} 방식에서는 점마다 앞의 점에 이어지므로 여러 컴퓨터가 나누어 탐색할 수 없습니다.",
        "`by: tpe`를 고르거나 `--storage`를 빼세요.",
    ),
    "storage-url": Text(
        "저장소로 준 값이 데이터베이스 URL이 아닙니다.",
        "SQLAlchemy 형식으로 쓰세요. 예: `postgresql://user:password@host/name`",
    ),
    "storage-failed": Text(
        "데이터베이스 {url}에서 오류가 났습니다: {error}",
        "지금까지의 점수는 폴더에 있습니다. 데이터베이스가 응답하면 다시 실행해 계속하세요.",
    ),
    "no-shared-search": Text(
        "데이터베이스에 이 공간, 모델, 텍스트로 시작한 탐색이 없습니다.",
        "첫 컴퓨터에서 `alloy search run --storage`로 시작하세요.",
    ),
    "search-in-use": Text(
        "다른 프로세스가 {folder} 폴더에서 탐색하고 있습니다.", "기다리거나 다른 폴더를 쓰세요."
    ),
    "other-search": Text(
        (
            "{folder} 폴더에 다른 탐색이 있습니다. 바뀐 것: {what:phrase}({names:all}).",
            "{folder} 폴더에 다른 탐색이 있습니다. 바뀐 것: {what:phrase}.",
        ),
        "다른 폴더를 쓰거나, 바뀐 것을 되돌려 계속하세요.",
    ),
    "backup-not-on-hub": Text(
        "탐색 기록은 허브의 저장소에 복사하는데, 받은 것은 저장소가 아닙니다: {given}",
        "`--backup hf://owner/name`처럼 쓰세요.",
    ),
    "damaged-records": Text(
        "{file} 파일의 {line}번째 줄이 손상되었습니다.",
        "그 줄부터 끝까지 지우세요. 탐색은 거기서 이어집니다.",
    ),
    "no-search": Text(
        "{folder} 폴더에 탐색이 없습니다.", "`alloy search run SPACE --to {folder}`로 시작하세요."
    ),
    "no-best": Text("{folder} 폴더에 아직 가장 좋은 레시피가 없습니다.", "탐색을 끝까지 실행하세요."),
    # evaluation
    "no-parents": Text(
        "`--activations`는 부모와 비교하는데 부모가 없습니다.", "`--against`로 부모를 쓰세요."
    ),
    "out-of-memory": Text(
        "{model}: {doing:phrase} 동안 메모리가 부족했습니다.", "더 짧은 글이나 더 작은 모델로 해 보세요."
    ),
    # healing
    "no-training": Text(
        "학습하는 체인의 마지막 문서에는 `train:` 키가 있고 그 앞에 레시피가 있어야 합니다.",
        "레시피, `---`, 그리고 `datasets:`가 있는 `train: distillation`을 차례로 쓰세요.",
    ),
    "training-kind": Text("`train: {given}`: 여기서는 모르는 학습입니다.", "아는 것: {known:all}."),
    "training-number": Text(
        (
            "`{name}` 값이 {found}인데, {least} 이상 {most:,} 이하의 {whole}여야 합니다.",
            "`{name}` 값이 {found}인데, {least} 이상 {most:,} 이하의 수여야 합니다.",
            "`{name}` 값이 {found}인데, 0보다 크고 {most:,} 이하인 수여야 합니다.",
        )
    ),
    "warmup-too-long": Text(
        "`warmup_steps`가 {warmup:,}인데 학습은 모두 {steps:,}스텝입니다.",
        "줄이거나 빼세요. 보통은 전체 스텝의 20분의 1입니다.",
    ),
    "training-loss": Text("`loss_type: {given}`: 모르는 값입니다.", _MEANT),
    "no-training-data": Text(
        "학습할 글을 고르지 않았습니다.",
        "`datasets: [{{path: FILE}}]`에 .txt나 .jsonl 파일, `python-topics`, 데이터셋 id 가운데 하나를 쓰세요.",
    ),
    "training-text-short": Text(
        (
            "학습할 글이 토큰 {tokens:,}개인데 한 줄이 {length:,}개입니다.",
            "학습할 글이 {bytes:,}바이트뿐이라 토큰 {length:,}개인 한 줄에도 모자랍니다.",
        ),
        "더 긴 글을 주거나 `max_length`를 줄이세요.",
    ),
    "trained-on-judged": Text(
        "학습한 글로 모델을 평가하게 됩니다: {texts:all}.",
        "`datasets:`에서 빼거나 `evaluate:`에 다른 글을 쓰세요.",
    ),
    "trained-on-benchmark": Text(
        "{name}: 벤치마크입니다. 이것으로 학습한 모델은 더는 이것으로 평가할 수 없습니다.",
        "다른 데이터셋을 쓰세요.",
    ),
    "no-teacher": Text(
        "이 모델은 {parents:all}로 만드는데 교사 모델이 정해지지 않았습니다.",
        "따라 할 모델을 `teacher:`에 쓰세요.",
    ),
    "teacher-vocabulary": Text(
        "{teacher}의 토큰은 {rows:,}행인데 이 모델은 {own:,}행이거나 토크나이저가 바뀝니다. 예측을 비교할 수 없습니다.",
        "토크나이저가 같은 모델을 교사로 쓰거나, 토크나이저가 달라도 비교하는 `train: gold`를 쓰세요.",
    ),
    "teacher-not-widened": Text(
        "{teacher}: float32로는 메모리에 들어가지 않습니다. 프로세서에서는 float32로 학습합니다.",
        "메모리가 더 큰 컴퓨터나 GPU를 쓰세요.",
    ),
    "no-layer-pairs": Text(
        "이 모델의 레이어 가운데 {teacher}에서 온 것이 없어 은닉 상태를 비교할 수 없습니다.",
        "`hidden_states:`를 빼거나 부모를 교사로 쓰세요.",
    ),
    "rank-too-large": Text(
        "`lora_r` 값이 {rank}인데, {tensor} 텐서의 행이나 열은 {most}개뿐입니다.",
        "{most} 이하로 낮추세요.",
    ),
    "training-too-large": Text(
        "학습에는 메모리가 약 {needed:.1f} GB 필요한데 {free:.1f} GB가 비어 있습니다.",
        "`max_length`나 `per_device_train_batch_size`를 줄이거나 더 큰 컴퓨터를 쓰세요.",
    ),
    "loss-not-finite": Text(
        "{step}번째 스텝에서 손실이 유한하지 않습니다(학습률 {rate:.2g}).",
        "`learning_rate`를 낮추고 다른 작업 폴더에서 새로 시작하세요.",
    ),
    "other-training": Text(
        "{file}: 다른 학습의 상태입니다. 모델이나 글, 인자가 다릅니다.",
        "다른 작업 폴더를 쓰거나 이 폴더를 지우세요.",
    ),
    "no-room-for-state": Text(
        "{folder}의 디스크에 자리가 없습니다.", "자리를 만들고 다시 실행하면 이어집니다."
    ),
    "work-folder-taken": Text(
        "{folder} 폴더에 학습과 관계없는 파일이 있습니다. 작업 폴더는 끝나면 삭제됩니다.",
        "새 폴더나 빈 폴더를 작업 폴더로 쓰세요.",
    ),
    "adapter-folder-exists": Text("{folder} 폴더가 이미 있습니다.", "어댑터를 둘 새 폴더를 쓰세요."),
    "only-distillation": Text(
        "`{name}`: `train: distillation`에만 쓰는데, 이 학습은 `train: {kind}`입니다.", "빼세요."
    ),
    "stored-without-states": Text(
        "`top_k`는 예측만 저장하는데 `hidden_states`는 은닉 상태를 비교합니다.",
        "둘 가운데 하나를 빼세요. 은닉 상태를 비교하려면 교사 모델이 학생 모델 옆에서 돌아야 합니다.",
    ),
    "training-weights": Text("`weights: {given}`: 모르는 값입니다.", "아는 것: {known:all}."),
    "training-switch": Text("`{name}` 값이 {found}인데, true나 false여야 합니다."),
    "not-a-row": Text(
        "{name} 데이터의 {line}번째 행에 있어야 할 것이 없습니다: {wanted:phrase}.",
        "학습 종류마다 필요한 열은 docs/heal.md에 있습니다.",
    ),
    "no-instructions": Text("{file}: 지시문이 없습니다.", "한 줄에 하나씩 쓰세요."),
    "training-file-kind": Text(
        "{name}: 읽을 수 있는 종류의 파일이 아닙니다. 읽는 것: {known:all}.",
        ".jsonl로 바꾸세요. 한 줄에 JSON 객체 하나씩이고, 필요한 열은 docs/heal.md에 있습니다.",
    ),
    "row-repeated-key": Text(
        "{name} 파일의 {line}번째 줄에 `{key}` 키가 두 번 있습니다.", "하나만 남기세요."
    ),
    "row-too-large": Text(
        "{name} 데이터의 {line}번째 행이 {size:,.0f}백만 자인데, {most:,.0f}백만 자까지만 읽습니다.",
        "문서별로 나누어 한 행에 하나씩 두세요.",
    ),
    "row-null-character": Text(
        "{name} 데이터의 {line}번째 행에 널 문자가 있습니다. 글에는 쓸 수 없는 문자입니다.",
        "파일이 손상되었거나 인코딩이 다를 수 있습니다. 그 문자를 지우거나 파일을 UTF-8로 바꾸세요.",
    ),
    "row-answers-alike": Text(
        "{name} 데이터의 {line}번째 행은 고른 답과 버린 답이 같아 선호를 배울 수 없습니다.",
        "그 행을 빼세요.",
    ),
    "row-role": Text(
        "{name} 데이터의 {line}번째 행에 role이 '{role}'인 메시지가 있습니다.",
        "쓸 수 있는 role: {known:plain}.",
    ),
    "row-turns-repeat": Text(
        "{name} 데이터의 {line}번째 행에 role이 '{role}'인 메시지가 잇달아 있습니다.",
        "하나로 합치거나 그 사이에 빠진 말을 넣으세요.",
    ),
    "row-without-answer": Text(
        "{name} 데이터의 {line}번째 행의 대화가 assistant의 말로 끝나지 않아 배울 답이 없습니다.",
        "답을 넣거나 그 행을 빼세요.",
    ),
    "rows-without-columns": Text(
        "`{name}`에는 {columns:and} 열이 필요한데 행에는 {given:and} 열이 있습니다.",
        "빼거나 다른 행을 주세요.",
    ),
    "rows-cut": Text(
        "{rows:,}개 행 중 {count:,}개가 `max_length`(토큰 {length:,}개)보다 긴 듯합니다. 넘는 부분은 읽지 않습니다.",
        "`max_length`를 늘리거나 행을 더 짧게 나누세요.",
    ),
    "top-k-too-large": Text(
        "`top_k`가 {k:,}인데 어휘는 토큰 {most:,}개입니다.",
        "줄이거나(보통 64), 빼고 교사 모델을 함께 돌리세요.",
    ),
    "rows-of-two-forms": Text(
        "어떤 행의 열은 {one:and}, 다른 행의 열은 {other:and}입니다.", "한 가지 형식의 행만 주세요."
    ),
    "training-beyond-context": Text(
        "`max_length`가 {length:,}인데 모델은 한 번에 토큰 {most:,}개까지만 읽습니다.",
        "{most:,} 이하로 낮추세요.",
    ),
    "training-texts-tiny": Text(
        "학습할 글 가운데 가장 긴 것이 {bytes}바이트입니다. 토큰 하나짜리 낱말에서는 배울 것이 없습니다.",
        "적어도 한 문장인 글을 주세요.",
    ),
    "rows-too-short": Text(
        "{rows:,}개 행 가운데 배울 토큰이 있는 행이 없습니다.", "더 긴 행을 주거나 `max_length`를 늘리세요."
    ),
    "rows-without-template": Text(
        "행이 대화인데 모델에 대화 템플릿이 없습니다.",
        "`text`가 있는 행이나 글로 된 `prompt`와 답을 주거나, 레시피에 `chat_template:`을 쓰세요.",
    ),
    "nothing-held-out": Text(
        "{rows:,}개 행에서 평가할 행을 떼어 둘 수 없습니다. 열 개가 안 되거나 모두 비슷합니다.",
        "행을 더 주거나 `evaluate:`에 글을 쓰세요.",
    ),
    "no-trl": Text(
        "`train: {kind}`에는 TRL이 필요합니다.", "`pip install 'alloy-merge[healing]'`을 실행하세요."
    ),
    "trl-refused": Text("TRL이 행이나 인자를 거절했습니다: {words}"),
    "no-copies": Text(
        "`weights: copies`는 쌓은 모델의 조용한 사본을 학습하는데, 이 모델에는 그런 레이어가 없습니다.",
        "`alloy stack`을 쓰거나 `weights:`를 빼세요.",
    ),
    "nothing-to-imitate": Text(
        "조용한 사본만 더한 모델은 {teacher}: 이 모델과 똑같이 예측하므로 배울 것이 없습니다.",
        "글로 `train: sft`를 하거나 다른 교사 모델을 쓰세요.",
    ),
    "state-not-private": Text(
        "{repository}: 공개 저장소라서 끝나지 않은 작업이 누구에게나 보입니다.",
        "비공개로 바꾸거나 다른 저장소를 쓰세요. 학습은 `--work`로 폴더에 상태를 둡니다.",
    ),
    "state-not-stored": Text(
        "끝나지 않은 작업을 {repository} 저장소에 둘 수 없었습니다: {error}.",
        "다시 실행하면 이어집니다. 학습은 `--work`로 폴더에 상태를 둡니다.",
    ),
    "adapter-only-lora": Text(
        "`--adapter-only`는 LoRA를 저장하는데 `weights: {weights}`는 텐서를 통째로 학습합니다.",
        "둘 가운데 하나를 빼세요.",
    ),
    # pipelines
    "not-only-recipes": Text(
        "이 문서(`{key}:`)는 파이프라인의 한 단계인데 여기서는 레시피만 읽습니다.",
        "파일 전체를 `alloy run`으로 실행하세요.",
    ),
    "no-stage-before": Text("`{key}:` 앞에 레시피가 없습니다.", "그 위에 레시피를 쓰세요."),
    "stage-name": Text("뒤의 문서가 이 문서의 결과를 쓰는데 `name:`이 없습니다.", "이름을 주세요."),
    "stage-name-repeated": Text("두 문서의 이름이 {name}입니다.", "하나의 이름을 바꾸세요."),
    "last-stage-gguf": Text("`gguf:` 뒤에 다른 문서가 있습니다.", "맨 뒤에 두세요."),
    "stage-unused": Text("{name}: 마지막이 아닌데 뒤의 문서가 쓰지 않습니다.", "쓰거나 지우세요."),
    "other-pipeline": Text(
        "{folder} 폴더에 다른 파이프라인의 작업이 있습니다.",
        "`--work`로 다른 폴더를 쓰거나 이 폴더를 지우세요.",
    ),
    "training-too-long": Text(
        "{steps:,}스텝이면 약 {minutes:.0f}분 걸립니다. 이 서버에서는 {most:,}스텝, {most_minutes:.0f}분까지입니다.",
        "`max_steps`를 줄이거나 자기 컴퓨터에서 `alloy heal run`으로 실행하세요.",
    ),
    "not-healed": Text(
        (
            "모델이 회복되지 않았지만 `--keep`을 주었으므로 {written}에 저장했습니다.",
            "모델이 회복되지 않아 저장하지 않았습니다.",
        ),
        "더 많은 글이나 스텝으로 학습하세요. `--keep`을 주면 이런 결과도 저장합니다.",
    ),
}
