// Rules of the architecture.
#include <algorithm>
#include <limits>

#include "configs/rules.h"

namespace mneme {
namespace {

// Far beyond any model, and so small that sums of their products stay countable.
constexpr int64_t kMostWidth = int64_t{1} << 20;
constexpr int64_t kMostLayers = int64_t{1} << 14;
constexpr int64_t kMostHeads = int64_t{1} << 14;
constexpr int64_t kMostEngramHeads = 1024;
constexpr int64_t kMostExperts = int64_t{1} << 16;
constexpr int64_t kMostStreams = 64;
constexpr int64_t kMostIterations = 1000;
constexpr double kMostValues = 1e15;  // of a kind of weights, in all layers

std::string N(int64_t value) { return std::to_string(value); }
double Real(int64_t value) { return static_cast<double>(value); }

void MlaRules(const MlaConfig& mla, Rules& rules) {
  rules.Within("model.mla.heads", mla.heads, 1, kMostHeads);
  rules.Within("model.mla.q_lora_rank", mla.q_lora_rank, 0, kMostWidth);
  rules.Within("model.mla.kv_lora_rank", mla.kv_lora_rank, 1, kMostWidth);
  rules.Within("model.mla.qk_nope", mla.qk_nope, 1, kMostWidth);
  rules.Within("model.mla.qk_rope", mla.qk_rope, 2, kMostWidth);
  rules.Within("model.mla.v_head", mla.v_head, 1, kMostWidth);
  if (mla.qk_rope % 2 != 0) {
    rules.Add({"model.mla.qk_rope"}, "is " + N(mla.qk_rope) + "; rotary values come in pairs: " +
                                         N(mla.qk_rope - 1) + " or " + N(mla.qk_rope + 1));
  }
  rules.Above("model.mla.rope_theta", mla.rope_theta, 1.0);
}

void MhcRules(const MhcConfig& mhc, Rules& rules) {
  rules.Within("model.mhc.streams", mhc.streams, 1, kMostStreams);
  rules.Within("model.mhc.sinkhorn_iterations", mhc.sinkhorn_iterations, 1, kMostIterations);
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
  rules.Within("model.moe.experts", moe.experts, 0, kMostExperts);
  if (moe.experts <= 0) return;
  rules.Within("model.moe.shared", moe.shared, 0, kMostExperts);
  rules.Within("model.moe.shared_width", moe.shared_width, 0, kMostWidth);
  rules.Within("model.moe.expert_width", moe.expert_width, 1, kMostWidth);
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
  rules.Within(d_mem, engram.d_mem, 1, kMostWidth);
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
  rules.Within("model.engram.heads", engram.heads, 1, kMostEngramHeads);
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
  rules.Within("model.engram.conv.kernel", engram.conv.kernel, 1, kMostWidth);
  rules.Within("model.engram.conv.dilation", engram.conv.dilation, 0, kMostWidth);
  rules.AtLeast("model.engram.conv.norm_eps", engram.conv.norm_eps, 0.0);
  TableRules(engram.table, rules);
}

// Every kind of weights, so that their sum, its bytes and its moments can be counted.
void SizeRules(const ModelConfig& model, Rules& rules) {
  const Rules::Factor layers = {"model.layers", Real(model.layers)};
  const Rules::Factor hidden = {"model.hidden", Real(model.hidden)};
  const auto most = [&](std::initializer_list<Rules::Factor> factors) {
    rules.ProductAtMost(kMostValues, "weights", factors);
  };
  const MlaConfig& mla = model.mla;
  const Rules::Factor heads = {"model.mla.heads", Real(mla.heads)};
  const Rules::Factor widths[] = {{"model.mla.qk_nope", Real(mla.qk_nope)},
                                  {"model.mla.qk_rope", Real(mla.qk_rope)},
                                  {"model.mla.v_head", Real(mla.v_head)}};
  for (const Rules::Factor& width : widths) {
    most({layers, heads, width, hidden});
    most({layers, heads, width, {"model.mla.kv_lora_rank", Real(mla.kv_lora_rank)}});
    most({layers, heads, width, {"model.mla.q_lora_rank", Real(mla.q_lora_rank)}});
  }
  most({layers, hidden, {"model.mla.kv_lora_rank", Real(mla.kv_lora_rank)}});
  most({layers, hidden, {"model.mla.q_lora_rank", Real(mla.q_lora_rank)}});
  most({layers, hidden, {"model.dense_width", Real(model.dense_width)}});
  most({{"model.vocab_size", Real(model.vocab_size)}, hidden});
  const double streams = Real(model.mhc.streams);
  most({layers, hidden, {"model.mhc.streams", streams * streams * streams}});
  const MoeConfig& moe = model.moe;
  if (moe.experts > 0) {
    const Rules::Factor width = {"model.moe.expert_width", Real(moe.expert_width)};
    most({layers, {"model.moe.experts", Real(moe.experts)}, hidden, width});
    most({layers, {"model.moe.shared", Real(moe.shared)}, hidden, width});
    most({layers, hidden, {"model.moe.shared_width", Real(moe.shared_width)}});
  }
  if (!model.engram.blocks.empty()) {
    most({layers,
          {"model.mhc.streams", streams},
          {"model.engram.d_mem", Real(model.engram.d_mem)},
          hidden});
    most({layers,
          {"model.mhc.streams", streams},
          hidden,
          {"model.engram.conv.kernel", Real(model.engram.conv.kernel)}});
  }
}

}  // namespace

void ModelRules(const ModelConfig& model, Rules& rules) {
  rules.Within("model.vocab_size", model.vocab_size, 0, kMostVocabulary);
  rules.Within("model.layers", model.layers, 1, kMostLayers);
  rules.Within("model.hidden", model.hidden, 1, kMostWidth);
  rules.AtLeast("model.leading_dense", model.leading_dense, 0);
  if (model.moe.experts <= 0 || model.leading_dense > 0)
    rules.Within("model.dense_width", model.dense_width, 1, kMostWidth);
  rules.AtLeast("model.norm_eps", model.norm_eps, 0.0);
  rules.AtLeast("model.init_std", model.init_std, 0.0);
  MlaRules(model.mla, rules);
  MhcRules(model.mhc, rules);
  MoeRules(model, rules);
  EngramRules(model, rules);
  SizeRules(model, rules);
}

}  // namespace mneme
