#!/usr/bin/env python3
"""torch._grouped_mm at the experts' shapes of gpu_bench, for speed: `gpu_bench --op=grouped` times ours on the same deal of rows.

    peer_grouped.py

A line a product: milliseconds (the median of 9, caches cold) and TFLOP/s. Gradients of weights are torch's own: bf16, not added.
"""

import torch

ROWS = 6 * 32768
SHAPES = {"sweep": (64, 512, 256), "27b": (72, 2560, 1536)}  # experts, hidden, width


def ends(experts):
    shares = [8 + 7 * e % 9 for e in range(experts)]
    counts = torch.tensor([ROWS * s // sum(shares) for s in shares]).cumsum(0)
    counts[-1] = ROWS
    return counts.to(torch.int32).cuda()


def milliseconds(run, flush):
    for _ in range(3):
        run()
    times = []
    for _ in range(9):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.sum()
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return sorted(times)[4]


def main():
    flush = torch.ones(256 << 20, dtype=torch.uint8, device="cuda")
    for shape, (experts, hidden, width) in SHAPES.items():
        offs = ends(experts)
        for name, out, inner in (("up", 2 * width, hidden), ("down", hidden, width)):
            normal = lambda *dims: torch.randn(*dims, dtype=torch.bfloat16, device="cuda")
            x, y, w = normal(ROWS, inner), normal(ROWS, out), 0.05 * normal(experts, out, inner)
            products = {"": lambda: torch._grouped_mm(x, w.transpose(1, 2), offs=offs),
                        " dx": lambda: torch._grouped_mm(y, w, offs=offs),
                        " dw": lambda: torch._grouped_mm(y.t(), x, offs=offs)}
            for which, run in products.items():
                ms = milliseconds(run, flush)
                print(f"torch {name}{which:<4} {shape:<6} {ms:9.4f} ms {2e-9 * ROWS * out * inner / ms:7.1f} TFLOP/s")


if __name__ == "__main__":
    main()
