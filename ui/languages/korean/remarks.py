"""Remarks about results, in Korean."""

from __future__ import annotations

from checkpoints.wording import Template

_BITS = "(바이트당 {value:+.4f}비트, 95 % 구간 {low:+.4f}에서 {high:+.4f})"
_SCORE = "(질문 {count:,}개에서 {value:+.3f}, 95 % 구간 {low:+.3f}에서 {high:+.3f})"
_AS_CONFIGURED = "NaN이나 Inf, 0으로만 된 행이 없고, 레이어와 어휘와 head가 config.json대로입니다."

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
        "토크나이저가 서로 다르므로 바이트당 비트를 비교하세요. 다른 토큰으로 잰 퍼플렉시티는 서로 비교할 수 "
        "없습니다."
    ),
    # how two models score on a benchmark
    "score-higher": f"{{model}}: {{other}}보다 점수가 높습니다 {_SCORE}.",
    "score-lower": f"{{model}}: {{other}}보다 점수가 낮습니다 {_SCORE}.",
    "score-none": f"{{model}}, {{other}}: 이 질문들로 보일 수 있는 차이가 없습니다 {_SCORE}.",
    "score-few": "{model}, {other}: 비교하기에는 질문 {count}개가 너무 적습니다. {least}개 이상 물으세요.",
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
    "score-left-out": "질문별 평균이 아니어서 여기서 비교하지 않은 값: {metrics:all}.",
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
    "weights-layers": "config.json의 레이어 수는 {stated}인데 가중치에는 {found}개가 있습니다.",
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
    # what a search costs and can show
    "search-trial": "시도 한 번에 {seconds:.2f}초가 걸리고, 그 가운데 모델을 만드는 데 {making:.3f}초가 듭니다.",
    "search-time": "탐색은 약 {minutes:.1f}분이나 그보다 덜 걸립니다.",
    "search-shows": "보고 부분으로는 대개 {value:.4f} 이상의 차이가 보입니다.",
    "search-shows-nothing": "보고 부분의 문서가 너무 적어 어떤 차이도 보일 수 없습니다. 글을 더 주세요.",
    "search-coarse": (
        "탐색으로 {value:g}보다 많이 나아지는 일은 드뭅니다. 글을 더 주거나, 판정이 없을 수 있음을 알아 두세요."
    ),
    # what a search found
    "search-unfinished": "탐색이 끝나지 않아, 찾은 최선의 레시피를 보고 부분에서 판정하지 않았습니다.",
    "search-no-winner": "제한을 지킨 시도가 없습니다. 단순 평균을 쓰거나 제한을 늦추세요.",
    "search-guards": (
        "보고 부분에서 최선의 레시피가 제한을 넘습니다: {limits:and}. 단순 평균을 쓰거나 제한을 늦추세요."
    ),
    "search-limit": "{name} {over:.4f}만큼",
    "search-short": (
        "보고 부분의 문서가 너무 적어 최선의 레시피와 나머지를 구별할 수 없습니다. 단순 평균을 쓰거나 글을 더 "
        "주세요."
    ),
    "search-better": (
        "탐색에 쓰지 않은 문서에서 최선의 레시피가 다음보다 낫습니다: {others:and} ({other:phrase} 대비: "
        "{difference:phrase})."
    ),
    "search-worse": "최선의 레시피보다 나은 것: {other:phrase} ({difference:phrase}). 그것을 쓰세요.",
    "search-none": (
        "이 글로는 최선의 레시피와 다음의 차이를 보일 수 없습니다: {other:phrase} ({difference:phrase}). 더 단순한 "
        "쪽을 쓰세요: {other:phrase}."
    ),
    "search-none-corrected": (
        "이 글로는 최선의 레시피와 다음의 차이를 보일 수 없습니다: {other:phrase} ({difference:phrase}). 비교가 "
        "{count}건이면 우연히 0을 벗어나는 구간이 있을 수 있습니다. 더 단순한 쪽을 쓰세요: {other:phrase}."
    ),
    "search-difference": (
        "{value:+.4f}, 95 % 구간 {low:+.4f}에서 {high:+.4f}, 비교 {count}건에 맞춰 보정한 p = {p:.2g}",
        "{value:+.4f}",
    ),
    "search-corrected": (
        "차이가 0보다 작으면 최선의 레시피가 낫습니다. 판정은 비교 {count}건에 맞춰 보정한 p를 따릅니다(홀름 보정). "
        "구간은 보정하지 않았습니다."
    ),
    "search-interval": "{low:+.4f}에서 {high:+.4f}",
    "search-ends": "{low}에서 {high}",
    "search-how": (
        "시도 {trials}번({by}, 시드 {seed}) 가운데 {stopped}번은 일찍 멈추고 {failed}번은 실패했습니다. 문서 "
        "{search}개로 탐색하고 {choice}개로 골라 다른 {report}개로 보고했습니다: {texts}."
    ),
    "search-benchmark": "{name}의 질문 {count}개로 탐색했으므로 그 점수는 결과가 아닙니다.",
    "search-gains": "단순 평균보다 나아진 정도: {gains:all}. 왼쪽에서 오른쪽으로 줄어든 만큼은 우연이었습니다.",
    "search-gains-so-far": "단순 평균보다 나아진 정도: {gains:all}.",
    "search-gain-search": "탐색 부분 {value:+.4f}",
    "search-gain-choice": "선택 부분 {value:+.4f}",
    "search-gain-report": "보고 부분 {value:+.4f}",
    "search-seeds": "다른 시드로는: {values}.",
    "search-is-better": "나음",
    "search-is-worse": "못함",
    "search-is-equal": "뚜렷한 차이 없음",
    "search-is-short": "글이 모자람",
    "search-named": "{who:phrase}",
    "recipe-best": "최선의 레시피",
    "recipe-average": "단순 평균",
    "recipe-given": "처음 레시피",
    "recipe-cocktail": "LM-Cocktail 비중",
    "recipe-soup": "그리디 수프",
    "recipe-parent": "{name}",
    # headings of its report
    "search-heading": "탐색으로 찾은 것",
    "search-heading-how": "레시피를 찾은 방법",
    "search-heading-beside": "보고 부분에서 최선의 레시피와 나머지",
    "search-heading-numbers": "숫자",
    "search-heading-recipe": "레시피",
    "search-column-difference": "차이",
    "search-column-interval": "95 % 구간",
    "search-column-p": "보정한 p (Holm)",
    "search-column-verdict": "최선의 레시피가",
    "search-column-five": "가장 나은 다섯",
    "search-part-search": "탐색",
    "search-part-choice": "선택",
    "search-part-report": "보고",
}  # fmt: skip
