"""Remarks about results, in Korean."""

from __future__ import annotations

from checkpoints.wording import Template

_BITS = "(바이트당 {value:+.4f}비트, 95 % 구간 {low:+.4f}에서 {high:+.4f})"
_SCORE = "(질문 {count:,}개에서 {value:+.3f}, 95 % 구간 {low:+.3f}에서 {high:+.3f})"
_AS_CONFIGURED = "NaN이나 Inf, 0으로만 된 행이 없고, 층과 어휘와 head가 config.json대로입니다."

REMARKS: dict[str, Template] = {
    # how two models predict a text
    "difference-better": f"{{model}}: 이 글을 {{other}}보다 잘 예측합니다 {_BITS}.",
    "difference-worse": f"{{model}}: 이 글을 {{other}}보다 못 예측합니다 {_BITS}.",
    "difference-none": f"{{model}}, {{other}}: 이 글로 보일 수 있는 차이가 없습니다 {_BITS}.",
    "difference-short": (
        "{model}, {other}: 차이를 말하기에는 글이 너무 적습니다. 서로 다른 문서 {documents}개, "
        "{bytes:,}바이트입니다. 문서를 {least}개 이상 주거나 {least_bytes:,}바이트 이상을 주세요."
    ),
    "difference-outlier": (
        "{model}, {other}: 차이를 말하기에는 글이 너무 적습니다. 문서 {documents}개 가운데 하나가 나머지와 "
        "크게 달라 결과를 좌우합니다. 문서를 {least}개 이상 주세요."
    ),
    "difference-outlier-block": (
        "{model}, {other}: 차이를 말하기에는 글이 너무 적습니다. 토막 {blocks}개 가운데 하나가 나머지와 "
        "크게 달라 결과를 좌우합니다. 문서를 {least}개 이상 주세요."
    ),
    "difference-detectable": "이만한 글로는 대개 {value:.4f} 이상의 차이가 보입니다.",
    "difference-more": "이런 문서가 {count:,}개쯤 더 있으면 {value:.2g}의 차이를 보일 수 있습니다.",
    "difference-blocks": (
        "문서 {documents}개를 토막 {blocks}개로 나누어 재었으므로 이 글에만 맞는 말입니다. 비슷한 다른 "
        "글까지 말하려면 문서를 {least}개 이상 쓰세요."
    ),
    "difference-tokenizers": (
        "토크나이저가 서로 다르므로 바이트당 비트를 견주세요. 다른 토큰으로 잰 퍼플렉시티는 서로 견줄 수 "
        "없습니다."
    ),
    # how two models score on a benchmark
    "score-higher": f"{{model}}: {{other}}보다 점수가 높습니다 {_SCORE}.",
    "score-lower": f"{{model}}: {{other}}보다 점수가 낮습니다 {_SCORE}.",
    "score-none": f"{{model}}, {{other}}: 이 질문들로 보일 수 있는 차이가 없습니다 {_SCORE}.",
    "score-few": "{model}, {other}: 견주기에는 질문 {count}개가 너무 적습니다. {least}개 이상 물으세요.",
    "metric-higher": f"{{model}}: {{metric}} 값이 {{other}}보다 높습니다 {_SCORE}.",
    "metric-higher-better": f"{{model}}: {{metric}} 값이 {{other}}보다 높습니다(높을수록 좋음) {_SCORE}.",
    "metric-higher-worse": f"{{model}}: {{metric}} 값이 {{other}}보다 높습니다(낮을수록 좋음) {_SCORE}.",
    "metric-lower": f"{{model}}: {{metric}} 값이 {{other}}보다 낮습니다 {_SCORE}.",
    "metric-lower-better": f"{{model}}: {{metric}} 값이 {{other}}보다 낮습니다(낮을수록 좋음) {_SCORE}.",
    "metric-lower-worse": f"{{model}}: {{metric}} 값이 {{other}}보다 낮습니다(높을수록 좋음) {_SCORE}.",
    "metric-of-all": (
        "{metric}: 모든 질문을 한꺼번에 계산하는 값({value:+.3f})이라 {model}, {other}의 질문별 비교는 "
        "없습니다."
    ),
    "score-detectable": "이만한 질문 수로는 대개 {value:.3f} 이상의 차이가 보입니다.",
    "score-more": "이런 질문이 {count:,}개쯤 더 있으면 {value:.2g}의 차이를 보일 수 있습니다.",
    "score-left-out": "질문별 평균이 아니어서 여기서 견주지 않은 값: {metrics:all}.",
    # what a model's weights look like
    "weights-spoilt": (
        "텐서 {count}개에 NaN이나 Inf가 있습니다. 이를테면 {first}(NaN {nan}개, Inf {inf}개). 이 모델은 "
        "답할 수 없습니다."
    ),
    "weights-untied-head": (
        '{head}: 가중치에는 따로 있는데 config.json에는 임베딩과 같은 것으로 되어 있어, 불러올 때 저장된 '
        'head가 버려집니다. "tie_word_embeddings"를 false로 바꾸세요.'
    ),
    "weights-vocabulary": "config.json의 vocab_size는 {stated}인데 임베딩의 행은 {rows}개입니다.",
    "weights-layers": "config.json의 층 수는 {stated}인데 가중치에는 {found}개가 있습니다.",
    "weights-zero-rows": "0으로만 된 행이 {count}개 있습니다. 그 가운데 {most}개는 {tensor}에 있습니다.",
    "weights-unchanged": "모든 텐서가 {parent}의 것과 같습니다. 병합된 것이 없습니다.",
    "weights-unchanged-so-far": "읽은 데까지는 모든 텐서가 {parent}의 것과 같습니다. 병합된 것이 없습니다.",
    "weights-read": "전체 가중치의 {share:.2%}만 읽고 한 말입니다.",
    "weights-unread": "읽지 않은 텐서의 dtype: {dtypes:all}.",
    "weights-sound": f"텐서 {{count}}개에서 잘못된 것을 찾지 못했습니다. {_AS_CONFIGURED}",
    "weights-sound-so-far": (
        f"텐서 {{count}}개에서 읽은 {{share:.2%}} 안에서는 잘못된 것을 찾지 못했습니다. {_AS_CONFIGURED}"
    ),
    # what ties a model to others
    "adapter-needs-base": "{adapter}: 어댑터이므로 베이스가 있어야 합니다.",
    "adapter-file": "{file} 파일이 있습니다. 불러올 때 거기에 적힌 베이스를 찾게 됩니다.",
    "link-out": "{file}: {target}의 링크입니다.",
    "not-json": "{file}: JSON이 아닙니다.",
    "names-origin": "{place}에 {key}: {value!r} 항목이 있습니다.",
    "runs-code": "{place}에 auto_map이 있습니다. 가중치 옆이나 다른 저장소의 코드를 실행합니다.",
    "names-parent": "{place}에 부모 모델 {parent}의 이름이 있습니다.",
    "points-at": "{file}: {base} 모델을 가리킵니다.",
    "unmerged-lora": "병합되지 않은 LoRA 텐서가 있습니다.",
    "no-answer-alone": "다른 것이 전혀 없으면 답하지 못합니다: {why:phrase}",
    "lacks-tensor": "{tensor} 텐서가 없습니다.",
    "took-too-long": "{seconds:.0f}초가 넘게 걸렸습니다.",
    "ended-early": "상태 {status}{status:으로|로} 끝났습니다: {words}",
    "needs-nothing": "{model}: 다른 것이 필요 없습니다({means:phrase}). 이렇게 답합니다: {answer!r}",
    "held-by-landlock": "Landlock으로 막음",
    "held-by-namespace": "마운트 네임스페이스로 막음",
    "held-by-python": "링크를 따라가 확인하고 Python이 여는 파일만 막음. 이 시스템에서는 그 이상 막을 수 없음",
    # models side by side
    "alone-yes": "예",
    "alone-no": "아니요",
    "ran-on": "{device}, {dtype}",
    "ran-from-disk": "{device}, {dtype}, 일부는 디스크에",
    "same-structure": "{model}, {other}: 모듈과 모양이 같습니다.",
    "other-structure": "{model}(이쪽), {other}(저쪽)의 다른 점: {changes:each}.",
    "only-here": (
        "이쪽에만 있음: {tensors} {here:phrase} ({count}개)", "이쪽에만 있음: {tensors} {here:phrase}"
    ),
    "only-there": (
        "저쪽에만 있음: {tensors} {there:phrase} ({count}개)", "저쪽에만 있음: {tensors} {there:phrase}"
    ),
    "changed-shape": (
        "모양이 다름: {tensors} 이쪽 {here:phrase}, 저쪽 {there:phrase} ({count}개)",
        "모양이 다름: {tensors} 이쪽 {here:phrase}, 저쪽 {there:phrase}",
    ),
    "one-number": "수 하나",
    "changed-config": "{key}: 이쪽 {one!r}, 저쪽 {two!r}",
    "number-format-alone": (
        "{model}: {dtypes}, {other}: {other_dtypes} 형식으로 저장되어 있고 가중치의 수는 "
        "같습니다. 크기의 차이는 수의 형식 때문이지 압축한 것이 아닙니다."
    ),
    "stands-alone": "독립적으로 작동: 다른 모델을 전혀 읽을 수 없는 프로세스에서 답했습니다({means:each}).",
    "speeds": "속도: 토큰 {tokens}개짜리 답 {count}개의 평균 ± 표준 편차(준비 삼아 한 첫 답은 뺌).",
}  # fmt: skip
