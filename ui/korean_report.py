"""The labels of the table of sizes and speeds in Korean, by the English ones of `evaluation.report`."""

from __future__ import annotations

KOREAN_REPORT: dict[str, str] = {
    "files": "파일",
    "stored in": "저장된 형식",
    "weights": "가중치",
    "tensors": "텐서",
    "stands alone": "독립적으로 작동",
    "yes": "예",
    "ran on": "실행한 곳",
    "loading": "불러오는 시간",
    "peak memory, answering": "답할 때 최대 메모리",
    "peak GPU memory": "최대 GPU 메모리",
    "first token, ms": "첫 토큰까지, ms",
    "tokens a second": "초당 토큰",
    "perplexity": "퍼플렉시티",
    "bits per byte": "바이트당 비트",
}
