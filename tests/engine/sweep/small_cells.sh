# shellcheck shell=bash
# Sourced by the tests of sweeps, in the folder that they work in: a small corpus, and a base of cells that take seconds.

# make_corpus PROGRAM WORDS: ./corpus/train and ./corpus/held_out, words in a fixed order, two blank lines between documents.
make_corpus() {
  awk -v words="$2" 'BEGIN { s = 7; for (i = 0; i < words; ++i) { s = (s * 1103515245 + 12345) % 2147483648
    printf "%s%s", substr("the old river runs under a tall stone bridge and small boats wait there", s % 60 + 1, 7),
    i % 150 == 149 ? "\n\n\n" : " " } }' >text.txt
  "$1" prepare --input text.txt --blank-lines 2 --held-out 0.1 --output corpus >/dev/null 2>&1
}

# make_base STEPS: ./base.yaml.
make_base() {
  cat >base.yaml <<YAML
model:
  layers: 2
  hidden: 32
  dense_width: 64
  leading_dense: 1
  init_std: 0.05
  mla: {heads: 2, kv_lora_rank: 16, qk_nope: 8, qk_rope: 4, v_head: 8}
  moe: {experts: 34, shared: 1, top_k: 2, expert_width: 16}
  engram: {blocks: [1], orders: [2, 3], heads: 2, d_mem: 16, vocab_size: 2}
data: {train: corpus/train}
train: {steps: $1, sequence_length: 64, batch_sequences: 8, checkpoint_every: 10}
optim: {lr: 4e-3, schedule: {shape: constant, warmup: 5}}
evaluate:
  sets: [{name: held_out, data: corpus/held_out}]
device: cpu
YAML
}
