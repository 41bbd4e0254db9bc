"""Rows by orthogonal matching pursuit: processor time of a token, and how well held-out rows are met.

The guide is a noisy, nonlinear image of the model's own space, so that the right rows are known.

python -m bench.transplant [--width 576] [--atoms 49000] [--tokens 256] [--table FILE.safetensors TENSOR]
"""

from __future__ import annotations

import argparse
import time

import torch
from safetensors import safe_open
from torch import Tensor

from checkpoints import pursuit
from checkpoints.pursuit import nearest, omp


def drawn(count: int, width: int) -> Tensor:
    """Rows near few directions, as embeddings are, (count, width)."""
    draw = torch.Generator().manual_seed(0)
    directions = torch.randn((width // 4, width), generator=draw)
    spread = torch.randn((count, width // 4), generator=draw)
    return spread @ directions / width**0.5 + 0.3 * torch.randn((count, width), generator=draw)


def image(rows: Tensor) -> Tensor:
    """Rows in another space, of two thirds of the width."""
    draw = torch.Generator().manual_seed(1)
    rows = rows / rows.std()
    turn = torch.randn((rows.shape[1], 2 * rows.shape[1] // 3), generator=draw) / rows.shape[1] ** 0.5
    found = torch.tanh(rows @ turn)
    return found + 0.1 * torch.randn(found.shape, generator=draw)


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.transplant", description=__doc__)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--atoms", type=int, default=49_000)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument(
        "--table", nargs=2, metavar=("FILE", "TENSOR"), help="real rows instead of drawn ones"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.table:
        with safe_open(options.table[0], "pt") as file:
            own = file.get_tensor(options.table[1]).float()
        own = own[torch.randperm(len(own), generator=torch.Generator().manual_seed(2))]
    else:
        own = drawn(options.atoms + options.tokens, options.width)
    guide = image(own)
    known, new = slice(options.tokens, None), slice(0, options.tokens)
    atoms, rows = guide[known], own[known].double()
    for name, rule, k, shortest in (
        ("nearest", nearest, 64, 256),
        ("omp", omp, 8, 256),
        ("omp", omp, 64, 256),
        ("omp", omp, 64, 1024),
    ):
        pursuit.FEWEST_LISTED = shortest
        began = time.process_time()
        found = rule(guide[new], atoms.__getitem__, len(atoms), k)
        seconds = (time.process_time() - began) / options.tokens
        used = torch.where(found.atoms[:, :, None] < 0, 0, rows[found.atoms.clamp_min(0)])
        made = (found.factors[:, :, None] * used).sum(1)
        missed = ((made - own[new]).norm() / own[new].norm()).item()
        rate = pursuit.pursuit_operations(1, guide.shape[1], k, len(atoms)) / seconds
        print(
            f"{name}, k = {k}, from {pursuit.listed(k, len(atoms))} of {len(atoms):,}: {1000 * seconds:.1f} ms a "
            f"token, {rate / 1e9:.1f} G multiplications a second, off by {missed:.0%} of the length",
            flush=True,
        )


if __name__ == "__main__":
    main()
