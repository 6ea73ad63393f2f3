#!/usr/bin/env python3
"""Makes fixtures/: tiny random DeepSeek models as transformers saves them, and their logits on 24 ids.

    make_fixtures.py FOLDER

Needs torch, transformers and safetensors; a second run gives the same weights. Logits are computed in float from the stored
weights. `v3_bf16` also holds a multi-token prediction module, as DeepSeek-V3's own files do; `v3_fp8` is `v3_bf16` in e4m3 with
block scales.
"""

import json
import pathlib
import shutil
import sys

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import live_oracle

VOCABULARY, TOKENS = 40, 24


def config_of(kind):
    common = dict(vocab_size=VOCABULARY, hidden_size=16, intermediate_size=144, moe_intermediate_size=12, num_hidden_layers=2,
                  num_attention_heads=2, num_key_value_heads=2, kv_lora_rank=12, qk_nope_head_dim=8, qk_rope_head_dim=4,
                  v_head_dim=6, first_k_dense_replace=1, initializer_range=0.2, bos_token_id=0, eos_token_id=1,
                  max_position_embeddings=1024)
    yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 256,
            "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 0.707, "mscale_all_dim": 0.707}
    if kind == "v2":
        return transformers.DeepseekV2Config(
            **common, q_lora_rank=None, n_routed_experts=4, n_shared_experts=2, num_experts_per_tok=2, topk_method="greedy",
            n_group=1, topk_group=1, norm_topk_prob=False, routed_scaling_factor=1.0, rope_parameters=yarn)
    return transformers.DeepseekV3Config(
        **common, q_lora_rank=10, n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=2, n_group=4, topk_group=2,
        num_mtp_layers=1 if kind == "v3" else 0, rope_interleave=kind != "v3_halves",
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0})


def add_prediction_module(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name in ("eh_proj.weight", "enorm.weight", "hnorm.weight", "input_layernorm.weight", "shared_head.norm.weight"):
        tensors[f"model.layers.2.{name}"] = torch.ones(16, dtype=torch.bfloat16)
    save_file(tensors, path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_nextn_predict_layers": 1}, indent=1))


def main():
    out = pathlib.Path(sys.argv[1])
    shutil.rmtree(out, ignore_errors=True)
    for kind, dtype in (("v2", torch.bfloat16), ("v3", torch.bfloat16), ("v3_halves", torch.float32)):
        model = live_oracle.random_model(config_of(kind)).to(dtype)
        folder = out / f"{kind}_{'bf16' if dtype == torch.bfloat16 else 'f32'}"
        # A file for a few tensors each where there is an index to read.
        model.save_pretrained(folder, max_shard_size="12KB" if kind == "v2" else "1GB")
    live_oracle.quantise(out / "v3_bf16", out / "v3_fp8")
    ids = np.random.default_rng(2).integers(0, VOCABULARY, TOKENS)
    for name in ("v2_bf16", "v3_bf16", "v3_halves_f32", "v3_fp8"):
        plain = out / (name + "_dequantised") if name == "v3_fp8" else out / name
        model = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32).eval()
        with torch.no_grad():
            logits = model(torch.from_numpy(ids)[None]).logits[0].float().numpy()
        logits.astype(np.float32).tofile(out / name / "logits.f32")
        ids.astype(np.int32).tofile(out / name / "ids.i32")
    shutil.rmtree(out / "v3_fp8_dequantised")
    add_prediction_module(out / "v3_bf16")
    for path in out.rglob("generation_config.json"):
        path.unlink()


if __name__ == "__main__":
    main()
