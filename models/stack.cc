#include "models/stack.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "models/block.h"
#include "models/embedding.h"
#include "models/ngram.h"
#include "models/rotary.h"

namespace mneme {
namespace {

// Blocks whose streams are made again at once: of 30 blocks with four streams those of eight are
// kept then, and on the way back those of four stand beside them, which together is about the
// least.
constexpr size_t kBlocksOfStreams = 4;

using PendingRows = std::vector<std::optional<Pending<FetchedRows>>>;

RowTableSpec TableSpec(const Context& c, const EngramConfig& engram, const NgramHash& hash,
                       const std::string& prefix, uint64_t seed) {
  const TableConfig& table = engram.table;
  RowTableSpec spec;
  spec.name = prefix + ".table";
  spec.rows = TableRows(hash);
  spec.width = engram.d_mem / static_cast<int64_t>(hash.primes.size());
  spec.dtype = Accurate(c.dtype);
  spec.init = {MakeKey(seed, spec.name), table.init_std};
  spec.adam.beta1 = table.beta1;
  spec.adam.beta2 = table.beta2;
  spec.adam.eps = table.eps;
  spec.adam.decay = table.weight_decay;
  spec.adam.rate_mult = table.lr_mult;
  spec.dense_adam = table.adam == "dense";
  return spec;
}

// Ids beyond the data's vocabulary hash like padding (docs/mathematics.md).
Tensor CanonicalMap(Context& c, const Vocabulary& vocabulary, int64_t size) {
  Tensor canonical = Tensor::Empty(c.stream, DType::kI32, {size}, MemoryTag::kOther);
  if (c.stream.device().dry) return canonical;  // of which nobody reads an id
  std::vector<int32_t> map = vocabulary.canonical;
  map.resize(static_cast<size_t>(size), static_cast<int32_t>(vocabulary.pad));
  Upload(c.stream, map.data(), canonical.bytes(), canonical);
  return canonical;
}

// x [T, C] as `streams` equal streams; and the gradient: the sum of dx [T, n, C] over them. One
// stream is the tensor itself.
Tensor Expand(Context& c, const Tensor& x, int64_t streams) {
  const Shape shape = {x.dim(0), streams, x.dim(1)};
  if (streams == 1) return x.Reshape(shape);
  Tensor all = c.Empty(shape);
  c.kernels.hyper_expand(c.stream, x, all);
  return all;
}
Tensor Reduced(Context& c, const Tensor& dx) {
  const Shape shape = {dx.dim(0), dx.dim(2)};
  if (dx.dim(1) == 1) return dx.Reshape(shape);
  Tensor sum = c.Empty(shape);
  c.kernels.hyper_reduce(c.stream, dx, 1.0, sum);
  return sum;
}

// Those declared since there were `before`, behind others.
void AppendDeclared(const ParameterStore& store, size_t before, std::vector<Parameter*>& to) {
  for (size_t i = before; i < store.parameters().size(); ++i)
    to.push_back(store.parameters()[i].get());
}

absl::Status CheckWidths(const ModelConfig& model) {
  const EngramConfig& e = model.engram;
  const int64_t heads = static_cast<int64_t>(e.orders.size()) * e.heads;
  if (!e.blocks.empty() && (heads < 1 || e.d_mem < heads || e.d_mem % heads != 0)) {
    return absl::InvalidArgumentError(
        "model.engram.d_mem: " + std::to_string(e.d_mem) +
        " is not a multiple of orders x heads = " + std::to_string(heads) + "; make it one");
  }
  return absl::OkStatus();
}

}  // namespace

struct Stack::State {
  // The note of one micro-batch.
  struct Saved {
    std::vector<Block::Saved> blocks;
    Readout::Saved readout;
    Tensor read;  // [T, D] before the last norm
    Norm::Saved norm;
  };

  ModelConfig config;
  Embedding embedding;
  std::vector<Block> blocks;
  Readout readout;
  Norm norm;
  Parameter* head = nullptr;  // [V, D]; the embedding where tied
  Rotary rotary;
  std::vector<RouterState> routers;  // never grows after Make: layers point into it
  std::vector<RowExchange*> tables;
  // Who declared which parameters; the head's are none where it is tied.
  struct {
    std::vector<Parameter*> embedding, last, head;  // last: read-out and norm
    std::vector<std::vector<Parameter*>> blocks;
  } of;

  absl::Status Declare(Context& c, const Vocabulary& vocabulary, const RecomputePlan& recompute,
                       uint64_t seed, ParameterStore& store);
  absl::StatusOr<std::vector<std::optional<Engram>>> DeclareEngrams(Context& c,
                                                                    const Vocabulary& vocabulary,
                                                                    uint64_t seed,
                                                                    ParameterStore& store);
  PendingRows Fetch(Context& c, const MicroBatch& batch) const;
  // Embedding to last norm: [T, D].
  Tensor Forward(Context& c, const Pass& pass, bool memory_off, Saved* saved,
                 std::vector<Tensor>* gates);
  void Backward(Context& c, const Pass& pass, const Tensor& dy, Saved saved,
                const GradientsFinal& final);
  Pass MakePass(const MicroBatch& batch) const;

  // Whether the streams before block b are kept although they could be made again: of every so many
  // blocks, and behind a memory.
  bool KeepsStreams(size_t b) const;
  // Where block b is the last before such a one: the streams of all since the last such one.
  void RemakeStreams(Context& c, const Pass& pass, size_t b, Saved& saved) const;
};

absl::StatusOr<std::vector<std::optional<Engram>>> Stack::State::DeclareEngrams(
    Context& c, const Vocabulary& vocabulary, uint64_t seed, ParameterStore& store) {
  const EngramConfig& e = config.engram;
  std::vector<std::optional<Engram>> engrams(static_cast<size_t>(config.layers));
  if (e.blocks.empty()) return engrams;
  const Tensor canonical = CanonicalMap(c, vocabulary, config.vocab_size);
  const std::vector<NgramHash> hashes =
      MakeNgramHashes(e, vocabulary.canonical_size, vocabulary.pad);
  for (size_t i = 0; i < e.blocks.size(); ++i) {
    const std::string prefix = "blocks." + std::to_string(e.blocks[i]) + ".engram";
    auto rows =
        MakeRowExchange(c.stream, c.kernels, c.mesh, TableSpec(c, e, hashes[i], prefix, seed),
                        /*resident=*/e.table.resident(c.stream.device().is_cpu()));
    RETURN_IF_ERROR(rows.status());
    std::shared_ptr<RowExchange> exchange = *std::move(rows);
    tables.push_back(exchange.get());
    const auto block = static_cast<size_t>(e.blocks[i]);
    const size_t before = store.parameters().size();
    engrams[block] =
        Engram::Declare(store, prefix, config, hashes[i], canonical, std::move(exchange));
    AppendDeclared(store, before, of.blocks[block]);
  }
  return engrams;
}

absl::Status Stack::State::Declare(Context& c, const Vocabulary& vocabulary,
                                   const RecomputePlan& recompute, uint64_t seed,
                                   ParameterStore& store) {
  RETURN_IF_ERROR(CheckWidths(config));
  of.blocks.resize(static_cast<size_t>(config.layers));
  auto engrams = DeclareEngrams(c, vocabulary, seed, store);
  RETURN_IF_ERROR(engrams.status());
  size_t before = store.parameters().size();
  const auto declared = [&](std::vector<Parameter*>& by) {
    AppendDeclared(store, std::exchange(before, store.parameters().size()), by);
  };
  embedding =
      Embedding::Declare(store, "embedding", config.vocab_size, config.hidden, config.init_std);
  declared(of.embedding);
  routers.reserve(static_cast<size_t>(config.layers));
  for (int64_t b = 0; b < config.layers; ++b) {
    RouterState* router = nullptr;
    if (config.is_moe_block(b)) {
      const std::string prefix = "blocks." + std::to_string(b) + ".moe";
      router = &routers.emplace_back(MakeRouterState(c, prefix, config.moe.experts));
    }
    blocks.push_back(Block::Declare(c, store, b, config, recompute,
                                    std::move((*engrams)[static_cast<size_t>(b)]), router));
    declared(of.blocks[static_cast<size_t>(b)]);
  }
  readout = Readout::Declare(store, config);
  norm = Norm::Declare(store, "norm", 1, config.hidden, config.norm_eps);
  declared(of.last);
  head = config.tie_embeddings
             ? embedding.table
             : Embedding::Declare(store, "head", config.vocab_size, config.hidden, config.init_std)
                   .table;
  declared(of.head);
  return absl::OkStatus();
}

PendingRows Stack::State::Fetch(Context& c, const MicroBatch& batch) const {
  PendingRows rows(blocks.size());
  for (size_t b = 0; b < blocks.size(); ++b) {
    if (blocks[b].engram.has_value()) rows[b] = blocks[b].engram->Fetch(c, batch);
  }
  return rows;
}

Pass Stack::State::MakePass(const MicroBatch& batch) const {
  CHECK(rotary.table.defined());
  CHECK_LE(batch.length, rotary.table.dim(0));
  return {batch, rotary, Tensor(), Tensor()};
}

Tensor Stack::State::Forward(Context& c, const Pass& pass, bool memory_off, Saved* saved,
                             std::vector<Tensor>* gates) {
  // Rows set out before anything is computed: they depend on token ids only.
  PendingRows rows = memory_off ? PendingRows(blocks.size()) : Fetch(c, pass.batch);
  const int64_t tokens = pass.batch.tokens_count();
  ResidualStreams x = Expand(c, embedding.Forward(c, pass.batch.tokens), config.mhc.streams);
  if (saved != nullptr) saved->blocks.resize(blocks.size());
  for (size_t b = 0; b < blocks.size(); ++b) {
    Tensor* gate = nullptr;
    if (gates != nullptr && blocks[b].engram.has_value()) {
      gate = &gates->emplace_back();
      if (memory_off) {
        *gate = Tensor::Zeros(c.stream, Accurate(c.dtype), {tokens, blocks[b].engram->branches});
      }
    }
    x = blocks[b].Forward(c, pass, x, rows[b].has_value() ? &*rows[b] : nullptr,
                          saved ? &saved->blocks[b] : nullptr, gate);
    if (saved != nullptr && blocks[b].attention.remakes())
      blocks[b].DropStreams(saved->blocks[b], KeepsStreams(b));
  }
  const Tensor read = readout.Forward(c, x.Settle(c), saved ? &saved->readout : nullptr);
  if (saved != nullptr) saved->read = read;
  return norm.Forward(c, read, saved ? &saved->norm : nullptr);
}

bool Stack::State::KeepsStreams(size_t b) const {
  size_t since = 0;  // a memory, or the first block
  while (since < b && !blocks[b - since].engram.has_value()) ++since;
  return since % kBlocksOfStreams == 0;
}

void Stack::State::RemakeStreams(Context& c, const Pass& pass, size_t b, Saved& saved) const {
  if (b + 1 < blocks.size() && !KeepsStreams(b + 1)) return;
  size_t first = b;
  while (!KeepsStreams(first)) --first;
  ResidualStreams streams = blocks[first].FirstStreams(c, pass, saved.blocks[first]);
  for (; first <= b; ++first)
    streams = blocks[first].RemakeStreams(c, streams, saved.blocks[first]);
}

void Stack::State::Backward(Context& c, const Pass& pass, const Tensor& dy, Saved saved,
                            const GradientsFinal& final) {
  const auto done = [&](const std::vector<Parameter*>& parameters) {
    if (final != nullptr) final(parameters);
  };
  done(of.head);  // of it there is no more to do after the loss
  Tensor dx = norm.Backward(c, dy, saved.read, {}, saved.norm);
  saved.read = Tensor();
  dx = readout.Backward(c, dx, std::move(saved.readout));
  done(of.last);
  for (size_t b = blocks.size(); b-- > 0;) {
    if (blocks[b].attention.remakes()) RemakeStreams(c, pass, b, saved);
    dx = blocks[b].Backward(c, pass, dx, std::move(saved.blocks[b]));
    saved.blocks.pop_back();
    done(of.blocks[b]);
  }
  embedding.Backward(c, Reduced(c, dx), pass.batch.tokens);
  done(of.embedding);
}

Stack::Stack() : state_(std::make_unique<State>()) {}
Stack::~Stack() = default;

absl::StatusOr<std::unique_ptr<Stack>> Stack::Make(Context& context, const ModelConfig& config,
                                                   const Vocabulary& vocabulary,
                                                   const RecomputePlan& recompute, uint64_t seed,
                                                   ParameterStore& store) {
  std::unique_ptr<Stack> stack(new Stack());
  stack->state_->config = config;
  if (config.vocab_size == 0) stack->state_->config.vocab_size = vocabulary.size;
  RETURN_IF_ERROR(stack->state_->Declare(context, vocabulary, recompute, seed, store));
  return stack;
}

void Stack::SetPositions(Context& context, int64_t length, const YarnConfig& yarn) {
  state_->rotary = MakeRotary(context, length, state_->config.mla, yarn);
}

void Stack::Announce(Context& context, const MicroBatch& batch) {
  for (const Block& block : state_->blocks) {
    if (block.engram.has_value()) block.engram->Announce(context, batch);
  }
}

void Stack::TrainStep(Context& context, const MicroBatch& batch, const Tensor& loss_scale,
                      const Tensor& balance_scale, Tensor& loss_sum, Tensor& balance_sum,
                      const GradientsFinal& final) {
  Pass pass = state_->MakePass(batch);
  pass.balance_scale = balance_scale;
  pass.balance_sum = balance_sum;
  State::Saved saved;
  const Tensor y = state_->Forward(context, pass, false, &saved, nullptr);
  Tensor losses = context.EmptyAccurate({batch.tokens_count()});
  Tensor dy = context.Empty(y.shape());
  context.kernels.head_loss(context.stream, y, state_->head->value, batch.targets, loss_scale,
                            losses, dy, state_->head->grad);
  context.kernels.sum(context.stream, losses, loss_sum);
  state_->Backward(context, pass, dy, std::move(saved), final);
}

Scores Stack::Score(Context& context, const MicroBatch& batch, bool memory_off, bool with_gates) {
  Scores scores;
  const Tensor y = state_->Forward(context, state_->MakePass(batch), memory_off, nullptr,
                                   with_gates ? &scores.gates : nullptr);
  scores.losses = context.EmptyAccurate({batch.tokens_count()});
  Tensor none;
  context.kernels.head_loss(context.stream, y, state_->head->value, batch.targets, none,
                            scores.losses, none, none);
  return scores;
}

Tensor Stack::Logits(Context& context, const MicroBatch& batch) {
  const Tensor y = state_->Forward(context, state_->MakePass(batch), false, nullptr, nullptr);
  return ProjectAccurate(context, y, state_->head->value);
}

Tensor Stack::LastLogits(Context& context, const MicroBatch& batch, bool memory_off,
                         std::vector<Tensor>* gates) {
  const Tensor y = state_->Forward(context, state_->MakePass(batch), memory_off, nullptr, gates);
  std::vector<int32_t> last(static_cast<size_t>(batch.rows));
  for (size_t r = 0; r < last.size(); ++r) {
    last[r] = static_cast<int32_t>((static_cast<int64_t>(r) + 1) * batch.length - 1);
  }
  Tensor ids = Tensor::Empty(context.stream, DType::kI32, {batch.rows});
  Upload(context.stream, last.data(), ids.bytes(), ids);
  Tensor rows = context.Empty({batch.rows, y.dim(1)});
  context.kernels.gather_rows(context.stream, y, ids, rows);
  return ProjectAccurate(context, rows, state_->head->value);
}

std::vector<RouterState>& Stack::routers() { return state_->routers; }
std::vector<RowExchange*> Stack::tables() { return state_->tables; }
const ModelConfig& Stack::config() const { return state_->config; }

}  // namespace mneme
