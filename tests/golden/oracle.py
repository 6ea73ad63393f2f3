#!/usr/bin/env python3
"""Writes full_model.h5: forward, loss and all gradients of tiny models in double precision. See README.md beside it.

    python3 tests/golden/oracle.py            needs torch, numpy, h5py, pyyaml; not needed to run the tests
"""

import pathlib

import h5py
import numpy as np
import torch
import yaml

import oracle_model
import oracle_optim

HERE = pathlib.Path(__file__).resolve().parent
VOCAB, CANONICAL = 23, 17
ROWS, LENGTH = 2, 14


def piece_shapes(m):
    """Name -> shape of every parameter."""
    d, a, moe, n, e = m["hidden"], m["mla"], m["moe"], m["mhc"]["streams"], m["engram"]
    shapes = {"embedding": (VOCAB, d)}

    def swiglu(name, width):
        shapes.update({f"{name}.gate": (width, d), f"{name}.up": (width, d), f"{name}.down": (d, width)})

    hashes = oracle_model.make_hashes(m, CANONICAL)
    for block in range(m["layers"]):
        b = f"blocks.{block}"
        if block in e["blocks"]:
            primes = hashes[e["blocks"].index(block)][1]
            shapes[f"{b}.engram.table"] = (sum(primes), e["d_mem"] // len(primes))
            shapes[f"{b}.engram.value"] = (d, e["d_mem"])
            shapes.update({f"{b}.engram.key.{i}": (d, e["d_mem"]) for i in range(n)})
            shapes.update({f"{b}.engram.{w}": (n, d) for w in ("norm_h", "norm_k", "conv_norm")})
            shapes[f"{b}.engram.conv"] = (n * d, e["conv"]["kernel"])
        qk, heads, rank = a["qk_nope"] + a["qk_rope"], a["heads"], a["kv_lora_rank"]
        shapes[f"{b}.attention.norm"] = (d,)
        if a["q_lora_rank"]:
            shapes[f"{b}.attention.q_a"] = (a["q_lora_rank"], d)
            shapes[f"{b}.attention.q_norm"] = (a["q_lora_rank"],)
            shapes[f"{b}.attention.q_b"] = (heads * qk, a["q_lora_rank"])
        else:
            shapes[f"{b}.attention.q"] = (heads * qk, d)
        shapes[f"{b}.attention.kv_a"] = (rank + a["qk_rope"], d)
        shapes[f"{b}.attention.kv_norm"] = (rank,)
        shapes[f"{b}.attention.kv_b"] = (heads * (a["qk_nope"] + a["v_head"]), rank)
        shapes[f"{b}.attention.o"] = (d, heads * a["v_head"])
        shapes[f"{b}.ffn.norm"] = (d,)
        if block < m["leading_dense"]:
            swiglu(f"{b}.mlp", m["dense_width"])
        else:
            shapes[f"{b}.moe.router"] = (moe["experts"], d)
            shapes[f"{b}.moe.router_bias"] = (moe["experts"],)
            swiglu(f"{b}.moe.shared", moe["shared"] * moe["expert_width"])
            for i in range(moe["experts"]):
                swiglu(f"{b}.moe.experts.{i}", moe["expert_width"])
        for part in ("attention", "ffn") if n > 1 else ():
            shapes[f"{b}.{part}.hyper.phi"] = (n * d, n * n + 2 * n)
            shapes[f"{b}.{part}.hyper.alpha"] = (3,)
            shapes[f"{b}.{part}.hyper.bias"] = (n * n + 2 * n,)
    if n > 1:
        shapes.update({"readout.fn": (n, n * d), "readout.scale": (1,), "readout.base": (n,)})
    shapes["norm"] = (d,)
    if not m["tie_embeddings"]:
        shapes["head"] = (VOCAB, d)
    return shapes


def draw(shapes, rng):
    """Values at which every part matters: nothing zero, gains near one, router biases that change choices."""
    params = {}
    for name, shape in shapes.items():
        last = name.split(".")[-1]
        x = rng.standard_normal(shape)
        if "norm" in last:
            x = 1 + 0.2 * x
        elif last == "router_bias":
            x = 0.1 * x
        elif last in ("alpha", "scale"):
            x = 0.5 + 0.1 * x
        elif last in ("table", "embedding", "router"):
            x = 0.7 * x
        else:
            x = 0.35 * x
        params[name] = torch.from_numpy(x)
    return params


def make_batch(rng, ignore):
    ids = rng.integers(0, VOCAB, size=(ROWS, LENGTH + 1))
    doc = np.zeros((ROWS, LENGTH), dtype=np.int32)
    targets = ids[:, 1:].astype(np.int32)
    if not ignore:
        doc[0, 5:], doc[1, 3:], doc[1, 4:] = 5, 3, 4     # one document of a single token
        targets[0, 4] = targets[1, 2] = targets[1, 3] = -1
    targets[1, LENGTH - 1] = -1
    canonical = rng.permutation(np.concatenate([np.arange(CANONICAL), rng.integers(0, CANONICAL, VOCAB - CANONICAL)]))
    return {"tokens": torch.from_numpy(ids[:, :-1].copy()), "targets": torch.from_numpy(targets).long(),
            "doc_start": torch.from_numpy(doc), "canonical": torch.from_numpy(canonical),
            "canonical_size": CANONICAL, "pad": int(canonical[2])}


def evaluate(m, params, batch, yarn):
    leaves = {k: v.clone().requires_grad_(not k.endswith("router_bias")) for k, v in params.items()}
    out = oracle_model.forward(m, leaves, batch, yarn)
    assert out["margin"] > 1e-4, f"too near a tie or the gate's kink: {out['margin']:.1e}"
    (out["loss"] + out["balance"]).backward()
    return out, {k: v.grad for k, v in leaves.items() if v.grad is not None}


def write_case(file, case, config):
    m, yarn = config["model"], {"scale": 1}
    if "stages" in config:
        yarn = config["stages"][0]["yarn"]
    ignore = config.get("data", {}).get("doc_boundary") == "ignore"
    for seed in range(1000):  # the first seed whose choices are clear at every step
        rng = np.random.default_rng(seed)
        try:
            params = draw(piece_shapes(m), rng)
            batch = make_batch(rng, ignore)
            first = {k: v.clone() for k, v in params.items()}
            out, grads = evaluate(m, params, batch, yarn)
            steps = train(config, params, batch, yarn) if "optim" in config else []
            break
        except AssertionError:
            continue
    group = file.create_group(case)
    group.attrs["config"], group.attrs["seed"] = (HERE / f"{case}.yaml").read_text(), seed
    for name in ("tokens", "targets", "doc_start", "canonical"):
        group[name] = batch[name].numpy().astype(np.int32)
    group["canonical_size"], group["pad"] = np.int64([CANONICAL]), np.int64([batch["pad"]])
    group["loss"], group["balance"] = [out["loss"].item()], [out["balance"].item()]
    group["logits"] = out["logits"].detach().numpy()
    for layer, rows in enumerate(out["rows"]):
        group[f"rows.{layer}"] = rows.numpy()
    for name, value in first.items():
        group[f"params/{name}"] = value.numpy()
    for name, value in grads.items():
        group[f"grads/{name}"] = value.numpy()
    for number, (loss, norm, rate, after) in enumerate(steps, 1):
        step = group.create_group(f"steps/{number}")
        step["loss"], step["grad_norm"], step["rate"] = [loss], [norm], [rate]
        for name, value in after.items():
            step[f"params/{name}"] = value.numpy()
    print(f"{case}: seed {seed}, loss {out['loss'].item():.12f}, balance {out['balance'].item():.12f}, "
          f"margin {out['margin']:.1e}, {sum(v.numel() for v in first.values())} values")


def train(config, params, batch, yarn, count=3):
    """`count` updates on one batch -> [(loss, gradient norm, rate, values after the update)]."""
    o, m, state, steps = config["optim"], config["model"], {}, []
    for number in range(1, count + 1):
        out, grads = evaluate(m, params, batch, yarn)
        rate = o["lr"] * min(1.0, number / o["schedule"]["warmup"])
        norm = oracle_optim.update(o, params, grads, state, number, rate)
        oracle_optim.move_biases(params, out["loads"], m["moe"]["bias_update"])
        assert norm > o["clip"], "the clip does not act"
        steps.append((out["loss"].item(), norm.item(), rate, {k: v.clone() for k, v in params.items()}))
    return steps


def check_goldens():
    """Numbers of the paper notes (0.2, 11.2), before anything is written."""
    i, j = torch.meshgrid(torch.arange(4.0).double(), torch.arange(4.0).double(), indexing="ij")
    row = oracle_model.sinkhorn(2 * torch.sin(1 + 4 * i + j), 20, 1e-6)[0]
    assert np.allclose(row, [0.3159791559, 0.4556433256, 0.1931844899, 0.0351920286], atol=5e-11)
    i, j = torch.meshgrid(torch.arange(2.0).double(), torch.arange(3.0).double(), indexing="ij")
    row = oracle_optim.newton_schulz(torch.sin(1 + 3 * i + j), 5, (3.4445, -4.7750, 2.0315))[0]
    assert np.allclose(row, [0.7360245855, 0.1563248287, -0.5670992547], atol=5e-11)
    yarn = {"scale": 10, "alpha": 1, "beta": 32, "original_length": 4096}
    freq = oracle_model.frequencies({"qk_rope": 64, "rope_theta": 10000.0}, yarn)[[11, 16, 22]]
    assert np.allclose(freq, [3.9250213011e-2, 5.8461538462e-3, 3.0093959247e-4], rtol=1e-10)
    factors = oracle_model.oracle_hash.multipliers(0, 1, 129280, 3)
    assert factors == [58737837727525, 3709723095905, 27562777300965]
    primes = oracle_model.oracle_hash.prime_tables(1, [2, 3], 8, 2262400)[0]
    assert sum(primes) == 36199972
    ids = np.array([[0, 1, 2, 100, 129279, 77, 77, 77]])
    rows = oracle_model.oracle_hash.addresses(ids, np.arange(129280), 2, 0 * ids, [2, 3], 8, factors, primes)
    assert list(rows[0, 4, :3]) == [848347, 3307706, 5920702] and rows[0, 4, 15] == 34305643


def main():
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    check_goldens()
    with h5py.File(HERE / "full_model.h5", "w", libver=("earliest", "v110")) as file:
        for case in ("full", "q_lora", "plain"):
            write_case(file, case, yaml.safe_load((HERE / f"{case}.yaml").read_text()))


if __name__ == "__main__":
    main()
