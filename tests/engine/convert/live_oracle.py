#!/usr/bin/env python3
"""Conversion against PyPI's transformers, safetensors and lm_eval, on CPUs, in float.

    live_oracle.py MNEME PRINT_LOGITS FOLDER [case...]

Exits with 77 where torch or transformers is not there. Works in FOLDER, which it makes; needs no network. Prints a line a case:
the greatest difference of logits over 1,000 tokens, which must be below 1e-4.
"""

import json
import os
import pathlib
import subprocess
import sys

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_PROGRESS_BARS="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false")
try:
    import numpy as np
    import safetensors
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    transformers.utils.logging.disable_progress_bar()
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

HERE = pathlib.Path(__file__).resolve().parent
TOKENS = 1000
TOLERANCE = 1e-4

BASE = """
model:
  layers: 3
  hidden: 48
  dense_width: 96
  leading_dense: 1
  init_std: 0.05
  norm_eps: 1e-6
  mla: {heads: 4, q_lora_rank: 24, kv_lora_rank: 32, qk_nope: 16, qk_rope: 8, v_head: 16}
  moe: {experts: 8, shared: 1, top_k: 2, expert_width: 32, route_scale: 2.5, groups: 4, groups_kept: 2}
data: {train: corpus}
train: {sequence_length: 128, batch_sequences: 2, steps: 8}
optim: {lr: 4e-3, schedule: {shape: constant, warmup: 2}}
device: cpu
"""
MEMORY = "model.engram={blocks: [1, 2], orders: [2, 3], heads: 4, d_mem: 64, vocab_size: [1000], conv: {zero_init: false}}"
# name -> (overrides, model_type, extra arguments of convert)
OURS = {
    "v3": ([], "deepseek_v3", []),
    "v3_plain_queries_in_shards": (["model.mla.q_lora_rank=0", "model.moe.groups=1", "model.moe.groups_kept=1"],
                                   "deepseek_v3", ["--file-bytes", "60000"]),
    "v3_dense_tied": (["model.moe.experts=0", "model.tie_embeddings=true"], "deepseek_v3", []),
    "v3_yarn": (["stages=[{steps: 4}, {steps: 4, sequence_length: 256, yarn: {scale: 8, original_length: 128, mscale: 0.707}}]"],
                "deepseek_v3", []),
    "v2": (["model.moe={experts: 8, shared: 2, top_k: 3, expert_width: 32, score: softmax, normalize: false, bias_update: 0}",
            "model.mla.q_lora_rank=0"], "deepseek_v2", []),
    "v2_groups": (["model.moe={experts: 8, shared: 2, top_k: 2, expert_width: 32, score: softmax, normalize: false, "
                   "bias_update: 0, groups: 4, groups_kept: 2, route_scale: 16}"], "deepseek_v2", []),
    "mneme_softmax_bias": (["model.moe.score=softmax"], "mneme", []),
    "mneme_memory": ([MEMORY], "mneme", []),
    "mneme_full": ([MEMORY, "model.mhc.streams=4"], "mneme", ["--file-bytes", "100000"]),
    "mneme_full_eps": ([MEMORY, "model.mhc={streams: 2, readout: mean}", "model.norm_eps=1e-20", "model.tie_embeddings=true"],
                       "mneme", []),
    "mneme_single_gate": ([MEMORY, "model.mhc={streams: 4, readout: sum}", "model.engram.gate.branches=single",
                           "model.engram.gate.transform=none", "model.moe.shared=0"], "mneme", []),
    "mneme_no_gate": ([MEMORY, "model.mhc.streams=2", "model.engram.gate.branches=none", "model.engram.conv.enabled=false",
                       "model.engram.compression=false"], "mneme", []),
    "mneme_full_yarn": ([MEMORY, "model.mhc.streams=4", "stages=[{steps: 4}, {steps: 4, sequence_length: 256, "
                         "yarn: {scale: 8, original_length: 128}}]"], "mneme", []),
}


def run(*arguments):
    result = subprocess.run([str(a) for a in arguments], capture_output=True, text=True)
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, arguments))}\n{result.stderr}")
    return result.stdout


class Oracle:
    def __init__(self, mneme, printer, folder):
        self.mneme, self.printer, self.folder = mneme, printer, folder
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        self.failed = []
        text = pathlib.Path("text.txt")
        if not pathlib.Path("corpus").exists():
            words = "the quick brown fox jumps over a lazy dog while Ångström sleeps".split()
            generator = np.random.default_rng(0)
            text.write_text("\n\n".join(" ".join(generator.choice(words, 40)) for _ in range(400)))
            run(mneme, "prepare", "--input", text, "--output", "corpus", "--blank-lines", 1)

    def ids(self, vocabulary, count=TOKENS):
        return np.random.default_rng(1).integers(0, vocabulary, count).astype(np.int32)

    def ours(self, checkpoint, ids):
        ids.tofile("ids.i32")
        run(self.printer, checkpoint, "ids.i32", "logits.f32")
        return np.fromfile("logits.f32", np.float32).reshape(len(ids), -1)

    def theirs(self, model, ids):
        with torch.no_grad():
            return model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0].float().numpy()

    def check(self, name, a, b, tolerance=TOLERANCE):
        gap = np.abs(a - b).max() if a.shape == b.shape else float("inf")
        good = gap < tolerance and np.isfinite(a).all() and np.abs(a).max() > 0.05
        print(f"{name:32s} {gap:.2e}  (largest logit {np.abs(a).max():.2f}){'' if good else '  FAILED'}", flush=True)
        if not good:
            self.failed.append(name)

    def fail_unless(self, what, good):
        if not good:
            print(f"{what}  FAILED")
            self.failed.append(what)

    def read_by_safetensors(self, folder):
        """Every file written here is read by the format's own reader, and holds finite numbers."""
        for path in sorted(pathlib.Path(folder).glob("*.safetensors")):
            with safetensors.safe_open(path, "pt") as file:
                self.fail_unless(f"{path}: metadata", file.metadata().get("format") == "pt")
                for key in file.keys():
                    self.fail_unless(f"{path}: {key}", bool(torch.isfinite(file.get_tensor(key)).all()))

    def export(self, name):
        overrides, model_type, arguments = OURS[name]
        pathlib.Path("base.yaml").write_text(BASE)
        run(self.mneme, "train", "base.yaml", f"run.dir=runs/{name}", *overrides)
        out = f"export/{name}"
        run(self.mneme, "convert", "--from", f"runs/{name}", "--to", out, "--format", "huggingface", "--dtype", "f32",
            "--replace", *arguments)
        self.read_by_safetensors(out)
        config = json.loads(pathlib.Path(out, "config.json").read_text())
        self.fail_unless(f"{name}: model_type {config['model_type']}", config["model_type"] == model_type)
        own = model_type == "mneme"
        model, told = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, trust_remote_code=own,
                                                           output_loading_info=True)
        model.eval()
        missing = [k for k in told["missing_keys"] if k != "lm_head.weight"]
        self.fail_unless(f"{name}: missing {missing}, unexpected {told['unexpected_keys']}",
                         not missing and not told["unexpected_keys"])
        ids = self.ids(config["vocab_size"])
        self.check(f"export {name}", self.ours(f"runs/{name}", ids), self.theirs(model, ids))
        run(self.mneme, "convert", "--from", out, "--to", f"back/{name}", "--format", "mneme", "--replace")
        difference = json.loads(run(self.mneme, "inspect", f"runs/{name}", f"back/{name}", "--json"))
        others = [d["name"] for d in difference["differing"] if d["differing"] > 0]
        self.fail_unless(f"{name}: import differs in {others}", not others and not difference["only_in_first"])
        return model, out

    # --- theirs -----------------------------------------------------------------------------------------------------

    def their_config(self, kind):
        common = dict(vocab_size=300, hidden_size=64, intermediate_size=96, moe_intermediate_size=40, num_hidden_layers=3,
                      num_attention_heads=4, num_key_value_heads=4, kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8,
                      v_head_dim=16, first_k_dense_replace=1, initializer_range=0.06, bos_token_id=0, eos_token_id=1,
                      max_position_embeddings=2048)
        yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 512,
                "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 0.707, "mscale_all_dim": 0.707}
        if kind.startswith("v2"):
            return transformers.DeepseekV2Config(
                **common, q_lora_rank=None, n_routed_experts=8, n_shared_experts=2, num_experts_per_tok=3,
                topk_method="greedy", n_group=1, topk_group=1, norm_topk_prob=False, routed_scaling_factor=1.0,
                rope_parameters=yarn)
        return transformers.DeepseekV3Config(
            **common, q_lora_rank=24, n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=2, n_group=4, topk_group=2,
            num_mtp_layers=0, rope_interleave=kind != "v3_halves",
            rope_parameters=yarn if kind == "v3_yarn" else {"rope_type": "default", "rope_theta": 10000.0})

    def import_theirs(self, kind):
        for dtype in ("float32", "bfloat16"):
            name = f"{kind}_{dtype}"
            folder = f"theirs/{name}"
            random_model(self.their_config(kind)).to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size="200KB")
            self.compare_import(name, folder)
        if kind == "v3":
            quantise(f"theirs/{kind}_bfloat16", f"theirs/{kind}_fp8")
            self.compare_import(f"{kind}_fp8", f"theirs/{kind}_fp8", dequantised=f"theirs/{kind}_fp8_dequantised")

    def compare_import(self, name, folder, dequantised=None):
        run(self.mneme, "convert", "--from", folder, "--to", f"imported/{name}", "--format", "mneme", "--replace",
            "--file-bytes", 150000)
        model = AutoModelForCausalLM.from_pretrained(dequantised or folder, dtype=torch.float32).eval()
        ids = self.ids(300)
        self.check(f"import {name}", self.ours(f"imported/{name}", ids), self.theirs(model, ids))

    # --- use --------------------------------------------------------------------------------------------------------

    def generate(self, model, folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
        text = "the quick brown fox, Ångström 狐"
        ids = tokenizer(text)["input_ids"]
        self.fail_unless("tokenizer: bytes are ids", ids == list(text.encode()))
        self.fail_unless("tokenizer: decode", tokenizer.decode(ids) == text)
        prompts = ["the quick", "a lazy dog"]
        tokenizer.padding_side = "left"
        batch = tokenizer(prompts, return_tensors="pt", padding=True)
        together = model.generate(**batch, max_new_tokens=12, do_sample=False)
        for i, prompt in enumerate(prompts):
            alone = model.generate(**tokenizer([prompt], return_tensors="pt"), max_new_tokens=12, do_sample=False)
            tail = together[i, batch["input_ids"].shape[1]:]
            self.fail_unless(f"generate: padded like alone ({prompt})",
                             bool((alone[0, -12:] == tail).all()) if len(alone[0]) >= 12 else False)
        line = json.loads(run(self.mneme, "generate", "runs/mneme_full", "--prompt", "the quick", "--tokens", 12,
                              "--temperature", 0, "--json"))
        print("generate: ", repr(tokenizer.decode(together[0], skip_special_tokens=True)), "| mneme:", json.dumps(line)[:160])

    def lm_eval(self, folder):
        try:
            import lm_eval  # noqa: F401
        except ImportError as error:
            print(f"lm_eval: skipped: {error}")
            return
        task = pathlib.Path("tasks")
        task.mkdir(exist_ok=True)
        lines = [{"text": "the quick brown", "choices": [" fox", " xof"], "gold": 0},
                 {"text": "over a lazy", "choices": [" god", " dog"], "gold": 1}] * 4
        (task / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (task / "local.yaml").write_text(
            f"task: mneme_local\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {task.resolve()}/data.jsonl}}}}\n"
            "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{text}}'\ndoc_to_choice: '{{choices}}'\n"
            "doc_to_target: gold\nmetric_list:\n  - metric: acc\n")
        out = run(sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args",
                  f"pretrained={folder},trust_remote_code=True,dtype=float32", "--tasks", "mneme_local", "--include_path", task,
                  "--device", "cpu", "--batch_size", 4)
        print(out.strip())
        self.fail_unless("lm_eval", "mneme_local" in out and "acc" in out)


def random_model(config):
    """Random weights, gains and router biases that are not those of a fresh model."""
    torch.manual_seed(3)
    third = config.model_type == "deepseek_v3"
    model = (transformers.DeepseekV3ForCausalLM if third else transformers.DeepseekV2ForCausalLM)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
        for name, buffer in model.named_buffers():
            if "e_score_correction_bias" in name:
                buffer.uniform_(-0.1, 0.1)
    return model


def quantise(source, target):
    """FP8 as DeepSeek-V3 stores it: e4m3 weights with a float scale for each 128 x 128 block; and the same dequantised."""
    from safetensors.torch import load_file, save_file

    tensors = {}
    for path in sorted(pathlib.Path(source).glob("*.safetensors")):
        tensors |= load_file(path)
    config = json.loads(pathlib.Path(source, "config.json").read_text())
    fp8, plain = {}, {}
    for name, w in tensors.items():
        if not name.endswith("proj.weight") and "proj_with_mqa" not in name:
            fp8[name] = plain[name] = w
            continue
        rows, cols = w.shape
        scales = torch.zeros((rows + 127) // 128, (cols + 127) // 128)
        q, back = torch.empty(rows, cols, dtype=torch.float8_e4m3fn), torch.empty(rows, cols)
        for i in range(scales.shape[0]):
            for j in range(scales.shape[1]):
                here = slice(128 * i, 128 * i + 128), slice(128 * j, 128 * j + 128)
                scales[i, j] = w[here].float().abs().max() / 448
                q[here] = (w[here].float() / scales[i, j]).to(torch.float8_e4m3fn)
                back[here] = q[here].float() * scales[i, j]
        fp8[name], fp8[name + "_scale_inv"], plain[name] = q, scales, back
    for folder, parts, extra in ((target, fp8, {"quantization_config": {
            "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}}),
            (f"{target}_dequantised", plain, {})):
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        save_file(parts, f"{folder}/model.safetensors", metadata={"format": "pt"})
        pathlib.Path(folder, "config.json").write_text(json.dumps(config | extra))


def main():
    mneme, printer, folder = (pathlib.Path(a).resolve() for a in sys.argv[1:4])
    wanted = sys.argv[4:]
    torch.set_num_threads(2)
    oracle = Oracle(mneme, printer, folder)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, safetensors {safetensors.__version__}")
    for name in OURS:
        if wanted and name not in wanted:
            continue
        model, out = oracle.export(name)
        if name == "mneme_full":
            oracle.generate(model, out)
            oracle.lm_eval(out)
    for kind in ("v2", "v3", "v3_halves", "v3_yarn"):
        if not wanted or "theirs_" + kind in wanted:
            oracle.import_theirs(kind)
    if oracle.failed:
        raise SystemExit(f"{len(oracle.failed)} failed: {oracle.failed}")
    print("all agree")


if __name__ == "__main__":
    main()
