// Rules of the architecture.
#include <algorithm>
#include <limits>

#include "configs/rules.h"

namespace mneme {
namespace {

std::string N(int64_t value) { return std::to_string(value); }

void MlaRules(const MlaConfig& mla, Rules& rules) {
  rules.AtLeast("model.mla.heads", mla.heads, 1);
  rules.AtLeast("model.mla.q_lora_rank", mla.q_lora_rank, 0);
  rules.AtLeast("model.mla.kv_lora_rank", mla.kv_lora_rank, 1);
  rules.AtLeast("model.mla.qk_nope", mla.qk_nope, 1);
  rules.AtLeast("model.mla.qk_rope", mla.qk_rope, 2);
  rules.AtLeast("model.mla.v_head", mla.v_head, 1);
  if (mla.qk_rope % 2 != 0) {
    rules.Add({"model.mla.qk_rope"}, "is " + N(mla.qk_rope) + "; rotary values come in pairs: " +
                                         N(mla.qk_rope - 1) + " or " + N(mla.qk_rope + 1));
  }
  rules.Above("model.mla.rope_theta", mla.rope_theta, 1.0);
}

void MhcRules(const MhcConfig& mhc, Rules& rules) {
  rules.AtLeast("model.mhc.streams", mhc.streams, 1);
  rules.AtLeast("model.mhc.sinkhorn_iterations", mhc.sinkhorn_iterations, 1);
  rules.Above("model.mhc.post_mult", mhc.post_mult, 0.0);
  rules.AtLeast("model.mhc.eps", mhc.eps, 0.0);
}

void GroupRules(const MoeConfig& moe, Rules& rules) {
  rules.AtLeast("model.moe.groups", moe.groups, 1);
  if (moe.groups < 1) return;
  if (moe.experts % moe.groups != 0) {
    return rules.Add(
        {"model.moe.groups", "model.moe.experts"},
        N(moe.experts) + " experts do not fall into " + N(moe.groups) + " equal groups");
  }
  const int64_t size = moe.experts / moe.groups;
  if (moe.groups_kept < 1 || moe.groups_kept > moe.groups) {
    return rules.Add({"model.moe.groups_kept", "model.moe.groups"},
                     "is " + N(moe.groups_kept) + "; must be between 1 and the number of groups, " +
                         N(moe.groups));
  }
  if (moe.top_k <= moe.experts && moe.groups_kept * size < moe.top_k) {
    rules.Add({"model.moe.groups_kept", "model.moe.top_k", "model.moe.groups", "model.moe.experts"},
              N(moe.groups_kept) + " groups of " + N(size) + " experts hold " +
                  N(moe.groups_kept * size) + ", fewer than top_k " + N(moe.top_k));
  }
  if (moe.groups > 1 && moe.score == "sigmoid" && size < 2) {
    rules.Add(
        {"model.moe.groups", "model.moe.score", "model.moe.experts"},
        "a sigmoid router scores a group by its two best experts, but groups have " + N(size));
  }
}

void MoeRules(const ModelConfig& model, Rules& rules) {
  const MoeConfig& moe = model.moe;
  rules.AtLeast("model.moe.experts", moe.experts, 0);
  if (moe.experts <= 0) return;
  rules.AtLeast("model.moe.shared", moe.shared, 0);
  rules.AtLeast("model.moe.shared_width", moe.shared_width, 0);
  rules.AtLeast("model.moe.expert_width", moe.expert_width, 1);
  rules.AtLeast("model.moe.top_k", moe.top_k, 1);
  if (moe.top_k > moe.experts) {
    rules.Add({"model.moe.top_k", "model.moe.experts"},
              "top_k " + N(moe.top_k) + " is more than the " + N(moe.experts) + " experts");
  }
  GroupRules(moe, rules);
  rules.Above("model.moe.route_scale", moe.route_scale, 0.0);
  rules.AtLeast("model.moe.bias_update", moe.bias_update, 0.0);
  rules.AtLeast("model.moe.sequence_balance", moe.sequence_balance, 0.0);
  if (model.leading_dense > model.layers) {
    rules.Add({"model.leading_dense", "model.layers"},
              N(model.leading_dense) + " leading dense blocks are more than the " +
                  N(model.layers) + " layers");
  }
}

// Every list of blocks or orders must rise, so that nothing stands twice.
void Rising(const std::string& key, const std::vector<int64_t>& values, Rules& rules) {
  for (size_t i = 1; i < values.size(); ++i) {
    if (values[i] <= values[i - 1]) {
      return rules.Add({key}, "must rise, but " + N(values[i]) + " follows " + N(values[i - 1]));
    }
  }
}

void EngramWidthRules(const EngramConfig& engram, Rules& rules) {
  const std::string d_mem = "model.engram.d_mem";
  const auto columns = static_cast<int64_t>(engram.orders.size()) * engram.heads;
  rules.AtLeast(d_mem, engram.d_mem, 1);
  if (columns < 1 || engram.d_mem < 1) return;
  if (engram.d_mem % columns != 0) {
    const int64_t below = engram.d_mem / columns * columns;
    rules.Add({d_mem, "model.engram.heads", "model.engram.orders"},
              "d_mem " + N(engram.d_mem) + " is not a multiple of " +
                  N(static_cast<int64_t>(engram.orders.size())) + " orders x " + N(engram.heads) +
                  " heads = " + N(columns) + "; nearest: " + (below > 0 ? N(below) + " or " : "") +
                  N(below + columns));
  }
}

void EngramRowRules(const EngramConfig& engram, Rules& rules) {
  const std::string key = "model.engram.vocab_size";
  const size_t sizes = engram.vocab_size.size();
  if (sizes != 1 && sizes != engram.orders.size()) {
    return rules.Add({key, "model.engram.orders"},
                     "has " + N(static_cast<int64_t>(sizes)) + " numbers for " +
                         N(static_cast<int64_t>(engram.orders.size())) +
                         " orders; give one number, or one an order");
  }
  // Rows of a layer are counted in 64 bits, and so are their bytes: 8 bytes a value.
  __int128 rows = 0;
  for (size_t i = 0; i < engram.orders.size(); ++i) {
    const int64_t size = engram.vocab_size[sizes == 1 ? 0 : i];
    if (size < 2) return rules.Add({key}, "is " + N(size) + "; a sub-table has at least 2 rows");
    rows += static_cast<__int128>(size) * engram.heads;
  }
  const __int128 layers = static_cast<__int128>(engram.blocks.size());
  if (rows * layers * engram.d_mem > std::numeric_limits<int64_t>::max() / 8) {
    rules.Add({key, "model.engram.heads", "model.engram.d_mem"},
              "makes more bytes than 64 bits can count");
  }
}

void TableRules(const TableConfig& table, Rules& rules) {
  rules.AtLeast("model.engram.table.init_std", table.init_std, 0.0);
  rules.AtLeast("model.engram.table.lr_mult", table.lr_mult, 0.0);
  rules.Rate("model.engram.table.beta1", table.beta1);
  rules.Rate("model.engram.table.beta2", table.beta2);
  rules.AtLeast("model.engram.table.eps", table.eps, 0.0);
  rules.AtLeast("model.engram.table.weight_decay", table.weight_decay, 0.0);
  if (table.weight_decay > 0.0 && (table.store == "lazy" || table.adam == "touched")) {
    rules.Add(
        {"model.engram.table.weight_decay", "model.engram.table.store", "model.engram.table.adam"},
        "is " + NumberText(table.weight_decay) + ", but store: " + table.store +
            " with adam: " + table.adam +
            " does not move every row at each step; decay needs store: resident and adam: dense");
  }
}

void EngramRules(const ModelConfig& model, Rules& rules) {
  const EngramConfig& engram = model.engram;
  if (engram.blocks.empty()) return;
  const std::string blocks = "model.engram.blocks";
  Rising(blocks, engram.blocks, rules);
  for (const int64_t block : engram.blocks) {
    if (block < 0 || block >= model.layers) {
      rules.Add({blocks, "model.layers"}, "block " + N(block) + " does not exist: the " +
                                              N(model.layers) + " layers are blocks 0 to " +
                                              N(model.layers - 1));
    }
  }
  if (engram.orders.empty())
    rules.Add({"model.engram.orders"}, "is empty; [2, 3] is the paper's choice");
  Rising("model.engram.orders", engram.orders, rules);
  for (const int64_t order : engram.orders) {
    if (order < 1 || order > 64)
      rules.Add({"model.engram.orders"}, "has " + N(order) + "; orders are 1 to 64");
  }
  rules.AtLeast("model.engram.heads", engram.heads, 1);
  EngramWidthRules(engram, rules);
  EngramRowRules(engram, rules);
  const auto ids = static_cast<int64_t>(engram.hash_layer_ids.size());
  const auto count = static_cast<int64_t>(engram.blocks.size());
  if (ids != 0 && ids != count) {
    rules.Add({"model.engram.hash_layer_ids", blocks},
              "has " + N(ids) + " numbers for " + N(count) + " blocks; give one a block, or []");
  }
  for (const int64_t id : engram.hash_layer_ids)
    rules.AtLeast("model.engram.hash_layer_ids", id, 0);
  rules.AtLeast("model.engram.hash_seed", engram.hash_seed, 0);
  rules.AtLeast("model.engram.gate.clamp", engram.gate.clamp, 0.0);
  rules.AtLeast("model.engram.gate.norm_eps", engram.gate.norm_eps, 0.0);
  rules.AtLeast("model.engram.conv.kernel", engram.conv.kernel, 1);
  rules.AtLeast("model.engram.conv.dilation", engram.conv.dilation, 0);
  rules.AtLeast("model.engram.conv.norm_eps", engram.conv.norm_eps, 0.0);
  TableRules(engram.table, rules);
}

}  // namespace

void ModelRules(const ModelConfig& model, Rules& rules) {
  rules.AtLeast("model.vocab_size", model.vocab_size, 0);
  if (model.vocab_size > std::numeric_limits<int32_t>::max()) {
    rules.Add({"model.vocab_size"}, "is " + N(model.vocab_size) + "; token ids have 32 bits");
  }
  rules.AtLeast("model.layers", model.layers, 1);
  rules.AtLeast("model.hidden", model.hidden, 1);
  rules.AtLeast("model.leading_dense", model.leading_dense, 0);
  if (model.moe.experts <= 0 || model.leading_dense > 0)
    rules.AtLeast("model.dense_width", model.dense_width, 1);
  rules.AtLeast("model.norm_eps", model.norm_eps, 0.0);
  rules.AtLeast("model.init_std", model.init_std, 0.0);
  MlaRules(model.mla, rules);
  MhcRules(model.mhc, rules);
  MoeRules(model, rules);
  EngramRules(model, rules);
}

}  // namespace mneme
