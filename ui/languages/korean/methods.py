"""What the registry of methods says, in Korean: by the English sentence."""

from __future__ import annotations

KOREAN_METHODS: dict[str, str] = {
    # methods
    "Weighted average of the models, weight by weight (a model soup).": (
        "모델들의 가중치를 하나하나 가중 평균합니다(모델 수프)."
    ),
    "Spherical interpolation between two models: along the arc instead of the chord.": (
        "두 모델 사이의 구면 보간: 현이 아니라 호를 따라갑니다."
    ),
    "Spherical interpolation by weights, between two models or, with a base, between what they changed.": (
        "비중에 따른 구면 보간. 두 모델 사이에서, 또는 베이스 모델이 있으면 두 모델이 바꾼 것 사이에서."
    ),
    "Spherical interpolation of any number of models, or, with a base, of what they changed.": (
        "모델 수에 제한이 없는 구면 보간. 베이스 모델이 있으면 모델들이 바꾼 것을 보간합니다."
    ),
    (
        "The point on the sphere that is nearest to the directions of all models, as long as they are on average."
    ): "모든 모델의 방향에 가장 가까운 구면 위의 점. 길이는 모델들의 평균입니다.",
    "Add the weighted sum of what each model changed to the base.": (
        "각 모델이 바꾼 것의 가중 합을 베이스 모델에 더합니다."
    ),
    "Trim each change to its largest entries, elect one sign per entry, and combine those that agree.": (
        "변화마다 가장 큰 값만 남기고, 자리마다 부호를 하나 뽑아, 그 부호에 맞는 것만 합칩니다."
    ),
    (
        "Add to the first model what the second, a chat model, learnt beyond the base: "
        "first + weight * (second - base)."
    ): "둘째 모델(채팅 모델)이 베이스 모델보다 더 배운 것을 첫 모델에 더합니다: 첫째 + 비중 × (둘째 − 기준).",
    "Drop part of each change at random, enlarge the rest, and add the weighted sum to the base.": (
        "변화의 일부를 무작위로 버리고 나머지를 키워, 그 가중 합을 베이스 모델에 더합니다."
    ),
    (
        "Drop part of each change at random, enlarge the rest, elect one sign per entry, combine those that agree."
    ): "변화의 일부를 무작위로 버리고 나머지를 키운 뒤, 자리마다 부호를 하나 뽑아 맞는 것만 합칩니다.",
    (
        "Drop part of each change, small entries of a row more probably, "
        "elect one sign per entry, combine the rest."
    ): "변화의 일부를, 행에서 작은 값일수록 더 자주 버린 뒤, 자리마다 부호를 하나 뽑아 나머지를 합칩니다.",
    "Drop part of each change, small entries of a row more probably, and add the weighted sum to the base.": (
        "변화의 일부를, 행에서 작은 값일수록 더 자주 버리고, 그 가중 합을 베이스 모델에 더합니다."
    ),
    (
        "Drop the largest and the smallest entries of each change, "
        "and add the weighted sum of the rest to the base."
    ): "변화마다 가장 큰 값과 가장 작은 값을 버리고, 나머지의 가중 합을 베이스 모델에 더합니다.",
    "Drop the largest and smallest entries of each change, elect one sign per entry, combine those that agree.": (
        "변화마다 가장 큰 값과 가장 작은 값을 버린 뒤, 자리마다 부호를 하나 뽑아 맞는 것만 합칩니다."
    ),
    "Keep the strongest directions of each model's change of a matrix, an equal share each, and untangle them.": (
        "행렬마다 각 모델이 바꾼 것에서 가장 강한 방향을 같은 몫만큼 남기고, 서로 얽히지 않게 풉니다."
    ),
    "Add up the changes, but only where they support at least two of the models, by their TALL-masks.": (
        "변화를 더하되, TALL 마스크로 보아 적어도 두 모델을 뒷받침하는 자리에서만 더합니다."
    ),
    "Keep the entries on which the models differ most, weigh models by the squares of these, elect one sign each.": (
        "모델들이 가장 다른 자리만 남기고, 그 제곱으로 모델의 비중을 정하며, 자리마다 부호를 하나 뽑습니다."
    ),
    (
        "Add up the changes of each matrix and make all their directions equally strong, "
        "so that no task drowns another."
    ): "행렬마다 변화를 더하고 모든 방향을 똑같이 강하게 하여, 한 과제가 다른 과제를 덮지 않게 합니다.",
    "Go from the base towards the mean of the fine-tunes, the further the more their changes point one way.": (
        "베이스 모델에서 파인튜닝한 모델들의 평균 쪽으로 갑니다. 변화가 한쪽을 가리킬수록 더 멀리 갑니다."
    ),
    "Average each change over the models that made one there; what a single model changed stays whole.": (
        "자리마다 바꾼 모델들끼리만 평균합니다. 한 모델만 바꾼 것은 그대로 남습니다."
    ),
    "Average each change over the models that made one there; what a single model changed grows a little.": (
        "자리마다 바꾼 모델들끼리만 평균합니다. 한 모델만 바꾼 것은 조금 커집니다."
    ),
    "Take the other model's weights where they are near the base's, and keep the base where they are far.": (
        "다른 모델의 가중치가 베이스 모델과 가까운 곳은 받아들이고, 먼 곳은 베이스 모델대로 둡니다."
    ),
    "Take over the important changes of the other model, and keep the base where they are not.": (
        "다른 모델의 중요한 변화만 받아들이고, 나머지는 베이스 모델대로 둡니다."
    ),
    "Take each tensor from one model as it stands; with slices, stack layers (depth up-scaling).": (
        "텐서마다 한 모델의 것을 그대로 가져옵니다. slices로는 층을 쌓습니다(깊이 업스케일링)."
    ),
    # parameters
    "how much each model counts": "모델마다의 비중",
    "divide the weights by their sum": "비중을 그 합으로 나눕니다",
    "how far to go from the base model (0) to the other one (1)": "베이스 모델(0)에서 다른 모델(1)로 얼마나 갈지",
    "take a tensor as one vector, else each of its rows as one": (
        "텐서 전체를 한 벡터로, 아니면 행마다 한 벡터로 봅니다"
    ),
    "without nuslerp_flatten, take each column as a vector, not each row": (
        "nuslerp_flatten 없이, 행이 아니라 열마다 한 벡터로 봅니다"
    ),
    "mean directions shorter than this cancel, and the models are added up as they are": (
        "평균 방향이 이보다 짧으면 서로 지워진 것으로 보고 모델을 그대로 더합니다"
    ),
    "most steps of the search": "찾는 걸음의 최대 수",
    "stop when a step is shorter than this angle, in radians; shorter tensors than this do not count": (
        "걸음이 이 각도(라디안)보다 짧으면 멈춥니다. 이보다 짧은 텐서는 세지 않습니다"
    ),
    "how much each model's change counts; negative takes it away": "모델마다 바꾼 것의 비중. 음수는 뺍니다",
    "divide by the sum of the weights": "비중의 합으로 나눕니다",
    "factor on the whole sum; 0 gives the base back": "합 전체에 곱하는 수. 0이면 베이스 모델 그대로입니다",
    "how much each model's change counts; a negative weight turns its vote around": (
        "모델마다 바꾼 것의 비중. 음수면 그 표가 뒤집힙니다"
    ),
    "divide each entry by the sum of the weights that agreed on it": "자리마다 뜻이 맞은 비중의 합으로 나눕니다",
    "factor on the combined change": "합친 변화에 곱하는 수",
    "a vote is as large as the change, times the weight or, as in the paper of TIES, unweighted": (
        "표의 크기는 변화의 크기에 비중을 곱한 것, 또는 TIES 논문처럼 비중 없는 것"
    ),
    "share of each task vector that is kept, the largest magnitudes first": "변화에서 남기는 비율. 큰 값부터",
    "multiply what is kept so that the sum of magnitudes stays what it was": (
        "남은 것을 키워 크기의 합이 그대로이게 합니다"
    ),
    "how much of what the chat model learnt is added": "채팅 모델이 배운 것을 얼마나 더할지",
    "change embeddings, output head and norms too, which otherwise stay as the first model has them": (
        "임베딩, 출력 헤드, 정규화 층도 바꿉니다. 아니면 첫 모델의 것이 그대로 남습니다"
    ),
    "share of each task vector that is kept, to 1/65536, whichever entries the seed draws": (
        "변화에서 남기는 비율(1/65536 단위). 어느 것이 남을지는 시드가 정합니다"
    ),
    "make what is kept larger, so that the whole stays as it was on average": (
        "남은 것을 키워 전체가 평균적으로 그대로이게 합니다"
    ),
    "expected divides by the density, as the paper does; l1 keeps the sum of magnitudes": (
        "expected는 논문처럼 density로 나누고, l1은 크기의 합을 지킵니다"
    ),
    "share of each task vector that is kept; 1 keeps everything": "변화에서 남기는 비율. 1이면 모두 남깁니다",
    "chance to stay of a row's largest entry, less the density; the smallest has as much less": (
        "행에서 가장 큰 값이 남을 확률에서 density를 뺀 것. 가장 작은 값은 그만큼 낮습니다"
    ),
    "expected divides each entry by its chance, as the paper does; l1 keeps the sum of magnitudes": (
        "expected는 논문처럼 값마다 그 확률로 나누고, l1은 크기의 합을 지킵니다"
    ),
    "share of each task vector that is kept; 1 keeps everything, the largest too": (
        "변화에서 남기는 비율. 1이면 가장 큰 값까지 모두 남깁니다"
    ),
    "share of each task vector that is dropped because it is largest": "가장 커서 버리는 비율",
    "factor on the change": "변화에 곱하는 수",
    "do so with embeddings and output head too, which are otherwise averaged, as vectors are": (
        "임베딩과 출력 헤드에도 그렇게 합니다. 아니면 벡터처럼 평균합니다"
    ),
    "factor on the sum; it grows with the number of models, so that more of them want less": (
        "합에 곱하는 수. 합은 모델 수만큼 커지므로 모델이 많을수록 작게 둡니다"
    ),
    "factor on what the others changed; the larger it is, the fewer entries support a model": (
        "다른 모델이 바꾼 것에 곱하는 수. 클수록 모델을 뒷받침하는 자리가 줄어듭니다"
    ),
    "how many models an entry has to support": "한 자리가 뒷받침해야 하는 모델 수",
    "share of the entries with any difference between the models that is kept, the largest first": (
        "모델들이 조금이라도 다른 자리 가운데 남기는 비율. 큰 것부터"
    ),
    "look at the angles row by row instead of over the whole tensor": "각도를 텐서 전체가 아니라 행마다 봅니다",
    "changes up to this magnitude count as none": "크기가 이 이하인 변화는 없는 것으로 봅니다",
    "how much a model's own changes grow for each change of it that others made too, over its own ones": (
        "남과 함께 바꾼 것이 혼자 바꾼 것에 견주어 많을수록 혼자 바꾼 것을 얼마나 키울지"
    ),
    "at most so many shared changes count for each own one": "혼자 바꾼 것 하나마다 함께 바꾼 것을 세는 최대 수",
    "the distance up to which a weight is taken over whole; beyond it the change itself is never larger than t": (
        "가중치를 그대로 받아들이는 거리. 이를 넘으면 변화가 t보다 커지지 않습니다"
    ),
    "factor on the tensor": "텐서에 곱하는 수",
}
