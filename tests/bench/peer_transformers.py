#!/usr/bin/env python3
"""transformers' DeepseekV3ForCausalLM at a configuration's shape, for speed: bf16 weights and moments, compiled, routed experts by
grouped_mm, SDPA (cuDNN first), fused AdamW. Plain residuals, no memory; its router's bias does not move.

    peer_transformers.py CONFIG [--steps N] [--eager]

CONFIG is a resolved configuration (`mneme config resolve FILE`). The last line has what peer_torch.py's has.
"""

import argparse
import types

import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

import mneme_files
import peer_torch
import peer_weights


def shape_of(m, length, vocabulary):
    a, moe = m["mla"], m["moe"]
    return DeepseekV3Config(
        vocab_size=vocabulary, hidden_size=m["hidden"], intermediate_size=m["dense_width"], num_hidden_layers=m["layers"],
        num_attention_heads=a["heads"], num_key_value_heads=a["heads"], q_lora_rank=a["q_lora_rank"] or None,
        kv_lora_rank=a["kv_lora_rank"], qk_nope_head_dim=a["qk_nope"], qk_rope_head_dim=a["qk_rope"], v_head_dim=a["v_head"],
        n_routed_experts=moe["experts"], n_shared_experts=moe["shared"], num_experts_per_tok=moe["top_k"],
        moe_intermediate_size=moe["expert_width"], n_group=1, topk_group=1, routed_scaling_factor=float(moe["route_scale"]),
        norm_topk_prob=moe["normalize"], first_k_dense_replace=m["leading_dense"], max_position_embeddings=length,
        initializer_range=float(m["init_std"]), tie_word_embeddings=m["tie_embeddings"], use_cache=False, num_mtp_layers=0,
        rope_parameters={"rope_type": "default", "rope_theta": float(a["rope_theta"])})


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("config")
    a.add_argument("--corpus", help="instead of data.train")
    peer_torch.add_pace(a)
    a.add_argument("--eager", action="store_true")
    o = a.parse_args()
    config = mneme_files.read_config(o.config)
    m, train, data = config["model"], config["train"], dict(config["data"])
    data["train"] = [o.corpus] if o.corpus else data["train"]
    length, rows = train["sequence_length"], train["batch_sequences"]
    corpus = mneme_files.Corpus(data, length)
    vocabulary = m["vocab_size"] or corpus.vocabulary_size
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        shape = shape_of(m, length, vocabulary)
        shape._attn_implementation, shape._experts_implementation = "sdpa", "grouped_mm"
        model = DeepseekV3ForCausalLM(shape)
    torch.set_default_dtype(torch.float32)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["optim"]["lr"], betas=(0.9, 0.95), eps=1e-8,
                                  weight_decay=config["optim"]["weight_decay"], fused=device == "cuda")
    call = model if o.eager else torch.compile(model)

    def step(_, batch):
        loss = call(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    batches = [torch.from_numpy(corpus.batch(i * rows, rows)[0]).to(device) for i in range(o.steps)]
    weights = peer_weights.declare(m, vocabulary, [], types.SimpleNamespace(config=config, dtype=torch.bfloat16))

    def report(windows, seconds, last):
        return peer_torch.summary(windows, seconds, peer_weights.flops_per_token(m, weights, length),
                                  sum(p.numel() for p in model.parameters()), last.item())

    with peer_torch.attention_backends(torch.device(device)):
        print(peer_torch.measure(o, step, batches, rows * length, report)[1])


if __name__ == "__main__":
    main()
