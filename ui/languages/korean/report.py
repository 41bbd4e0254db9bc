"""What `evaluation/` calls things, in Korean: labels of the table of sizes and speeds, and what benchmarks ask."""

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
    # benchmarks
    "Korean knowledge, 45 subjects (arXiv 2402.11548)": "한국어 지식, 45개 과목 (arXiv 2402.11548)",
    "its hard questions": "그중 어려운 질문",
    "KMMLU with the answer written out": "답을 직접 쓰는 KMMLU",
    "its hard questions, with the answer written out": "그중 어려운 질문, 답을 직접 쓰기",
    "Korean language and culture (arXiv 2309.02706)": "한국의 언어와 문화 (arXiv 2309.02706)",
    "how a scene goes on (arXiv 1905.07830)": "장면이 어떻게 이어지는지 (arXiv 1905.07830)",
    "school science (arXiv 1803.05457)": "학교 과학 (arXiv 1803.05457)",
    "school science, the hard part": "학교 과학의 어려운 부분",
    "sums in words, worked out (arXiv 2110.14168)": "글로 된 산수 문제 풀이 (arXiv 2110.14168)",
    "instructions that can be checked (arXiv 2311.07911)": "지켰는지 확인할 수 있는 지시 (arXiv 2311.07911)",
}
