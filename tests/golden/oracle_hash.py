"""Addresses of Engram's suffix n-grams (paper 3.2-3.4), with numpy's own generator and plain Python integers."""

import numpy as np


def multipliers(seed, layer_id, canonical_vocab, count):
    half = max(1, ((2**63 - 1) // canonical_vocab) // 2)
    draws = np.random.default_rng(seed + 10007 * layer_id).integers(0, half, size=count, dtype=np.int64)
    return [2 * int(r) + 1 for r in draws]


def is_prime(n):
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))


def prime_tables(layers, orders, heads, base):
    """One list of primes a layer (order by order, head by head), all distinct."""
    seen, tables = set(), []
    for _ in range(layers):
        table = []
        for _ in orders:
            current = base - 1
            for _ in range(heads):
                current += 1
                while current in seen or not is_prime(current):
                    current += 1
                seen.add(current)
                table.append(current)
        tables.append(table)
    return tables


def addresses(ids, canonical, pad, doc_start, orders, heads, factors, primes):
    """ids [B, S] -> fused rows [B, S, orders * heads]. Look-back that leaves the document reads `pad`."""
    batch, length = ids.shape
    offsets = [sum(primes[:i]) for i in range(len(primes))]
    rows = np.zeros((batch, length, len(primes)), dtype=np.int64)
    for b in range(batch):
        for t in range(length):
            for o, order in enumerate(orders):
                mix = 0
                for back in range(order):
                    inside = t - back >= doc_start[b, t]
                    mix ^= (int(canonical[ids[b, t - back]]) if inside else pad) * factors[back]
                for k in range(heads):
                    sub = o * heads + k
                    rows[b, t, sub] = mix % primes[sub] + offsets[sub]
    return rows
