"""What `evaluation` calls things, in Korean: rows of its table of sizes and speeds, and what benchmarks ask."""

from __future__ import annotations

LABELS: dict[str, str] = {
    "report.files": "파일",
    "report.stored": "저장된 형식",
    "report.weights": "가중치",
    "report.tensors": "텐서",
    "report.alone": "독립적으로 작동",
    "report.device": "실행한 곳",
    "report.loading": "불러오는 시간",
    "report.memory": "답할 때 최대 메모리",
    "report.gpu_memory": "최대 GPU 메모리",
    "report.first_token": "첫 토큰까지, ms",
    "report.speed": "초당 토큰",
    "report.perplexity": "퍼플렉시티",
    "report.bits_per_byte": "바이트당 비트",
    # benchmarks
    "benchmark.kmmlu": "한국어 지식, 45개 과목 (arXiv 2402.11548)",
    "benchmark.kmmlu_hard": "그중 어려운 질문",
    "benchmark.kmmlu_direct": "답을 직접 쓰는 KMMLU",
    "benchmark.kmmlu_direct_hard": "그중 어려운 질문, 답을 직접 쓰기",
    "benchmark.haerae": "한국의 언어와 문화 (arXiv 2309.02706)",
    "benchmark.hellaswag": "장면이 어떻게 이어지는지 (arXiv 1905.07830)",
    "benchmark.arc_easy": "학교 과학 (arXiv 1803.05457)",
    "benchmark.arc_challenge": "학교 과학의 어려운 부분",
    "benchmark.gsm8k": "글로 된 산수 문제 풀이 (arXiv 2110.14168)",
    "benchmark.ifeval": "지켰는지 확인할 수 있는 지시 (arXiv 2311.07911)",
}
