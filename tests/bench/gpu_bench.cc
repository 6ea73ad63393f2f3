// Every op of the GPU against its floor, at the shapes of a sweep model and of Engram-27B.
//
//   gpu_bench [--shape=sweep|27b] [--dtype=bf16|f32] [--op=BEGINNING]
//
// Prints the copy and matmul rates of the machine, measured here and now on random data; then a
// line an op: the median of its replays with cold caches, the rates that its bytes and flop make of
// it, and the share of its floor, which is the larger of the two at the machine's rates. Bytes are
// those of the tensors that the op must read and write once; flop those of its products.
//
// Not here: ops of a few numbers a layer or step (bias_update, load_imbalance, step_decision, sum,
// count_marks), normal_rows, which is for the start, and what goes between GPUs: exchange_bench.
//
// To add an op: a line in the group that has its tensors. `work` is {bytes, flop}.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "kernels/core/random.h"
#include "tests/bench/gpu_timer.h"

namespace mneme::bench {
namespace {

struct Sizes {
  const char* name;
  int64_t rows, length;                   // samples and tokens of each
  int64_t hidden, dense, vocab;           // widths of the stream and of a dense block
  int64_t experts, top_k, width, shared;  // routed, chosen, width of one, shared ones
  int64_t heads, nope, rope, value, q_lora, kv_lora;
  int64_t tokens() const { return rows * length; }
};

constexpr Sizes kSweep = {.name = "sweep",
                          .rows = 16,
                          .length = 2048,
                          .hidden = 512,
                          .dense = 2048,
                          .vocab = 32768,
                          .experts = 64,
                          .top_k = 6,
                          .width = 256,
                          .shared = 2,
                          .heads = 8,
                          .nope = 64,
                          .rope = 32,
                          .value = 64,
                          .q_lora = 0,
                          .kv_lora = 256};
constexpr Sizes k27b = {.name = "27b",
                        .rows = 4,
                        .length = 4096,
                        .hidden = 2560,
                        .dense = 12288,
                        .vocab = 129280,
                        .experts = 72,
                        .top_k = 6,
                        .width = 1536,
                        .shared = 2,
                        .heads = 32,
                        .nope = 128,
                        .rope = 64,
                        .value = 128,
                        .q_lora = 768,
                        .kv_lora = 512};
constexpr int64_t kLayerTokens = 32768;  // of the whole MoE layer, at either shape
constexpr int64_t kStreams = 4;          // of mHC
constexpr int64_t kMemoryWidth = 80;     // of a table row
constexpr int64_t kMemoryHeads = 8;      // of each n-gram order
constexpr int64_t kTableRows = 36'195'200;
constexpr int64_t kRequests = 4'000'000;  // of a step's update
constexpr double kZipf = 1.1;
constexpr double kScale = 0.05;  // of weights: products keep their size

double D(int64_t n) { return static_cast<double>(n); }

class Bench {
 public:
  Bench(GpuTimer& timer, const Ceilings& ceilings, const Sizes& sizes, DType dtype)
      : b_(timer), k_(timer.kernels()), s_(timer.stream()), n_(sizes), a_(dtype) {
    b_.Begin(n_.name, ceilings);
  }

  void All() {
    Linears();
    Norms();
    Rotation();
    Latents();
    Attentions();
    Gated();
    Routing();
    Routed("", false);
    Routed(" crowded", true);
    Grouped("up", 2 * n_.width, n_.hidden);
    Grouped("down", n_.hidden, n_.width);
    MoeLayer();
    Head();
    Streams();
    Memory();
    Rows();
    Tables();
    Updates();
    Sums();
  }

 private:
  // y = x wᵀ, dx = dy w, dw += dyᵀ x of one linear layer.
  void Linear(const std::string& name, int64_t out, int64_t in) {
    if (!b_.WantsAny({"matmul " + name})) return;
    const int64_t t = n_.tokens();
    Tensor x = b_.Normal(a_, {t, in}), w = b_.Normal(a_, {out, in}, kScale);
    Tensor y = b_.Normal(a_, {t, out}), dw = b_.Zeros(kR, {out, in});
    const double flop = 2 * D(t) * D(in) * D(out);
    b_.Line("matmul " + name, k_.matmul, {Bytes({x, w, y}), flop},
            [&] { k_.matmul(s_, x, Trans::kNo, w, Trans::kYes, {}, y); });
    b_.Line("matmul " + name + " dx", k_.matmul, {Bytes({x, w, y}), flop},
            [&] { k_.matmul(s_, y, Trans::kNo, w, Trans::kNo, {}, x); });
    b_.Line("matmul " + name + " dw", k_.matmul, {Bytes({x, y, dw, dw}), flop},
            [&] { k_.matmul(s_, y, Trans::kYes, x, Trans::kNo, dw, dw); });
  }

  void Linears() {
    const int64_t qk = n_.heads * (n_.nope + n_.rope);
    if (n_.q_lora > 0) Linear("q_down", n_.q_lora, n_.hidden);
    Linear("q", qk, n_.q_lora > 0 ? n_.q_lora : n_.hidden);
    Linear("kv_down", n_.kv_lora + n_.rope, n_.hidden);
    Linear("kv_up", n_.heads * (n_.nope + n_.value), n_.kv_lora);
    Linear("o", n_.hidden, n_.heads * n_.value);
    Linear("dense up", 2 * n_.dense, n_.hidden);
    Linear("dense down", n_.hidden, n_.dense);
    Linear("shared up", 2 * n_.shared * n_.width, n_.hidden);
    Linear("shared down", n_.hidden, n_.shared * n_.width);
  }

  void Norms() {
    if (!b_.WantsAny({"rms_norm", "rms_norm_grad"})) return;
    const int64_t t = n_.tokens();
    Tensor x = b_.Normal(a_, {t, n_.hidden}), y = b_.Normal(a_, x.shape());
    Tensor dx = b_.Empty(a_, x.shape()), w = b_.Normal(kR, {1, n_.hidden});
    Tensor dw = b_.Zeros(kR, w.shape()), rstd = b_.Empty(kR, {t});
    k_.fill(s_, 1, rstd);
    b_.Line("rms_norm", k_.rms_norm, {Bytes({x, y, w, rstd})},
            [&] { k_.rms_norm(s_, x, w, 1e-6, y, rstd); });
    b_.Line("rms_norm_grad", k_.rms_norm_grad, {Bytes({x, y, dx, rstd})},
            [&] { k_.rms_norm_grad(s_, y, x, w, rstd, {}, dx, dw); });
  }

  void Rotation() {
    if (!b_.WantsAny({"rope"})) return;
    const int64_t t = n_.tokens();
    Tensor q = b_.Normal(a_, {t, n_.heads, n_.nope + n_.rope});
    const Tensor table = b_.Normal(kR, {n_.length, n_.rope / 2, 2}, 0.5);
    const Tensor positions = b_.Ids(DType::kI32, {t}, n_.length);
    const double turned = D(q.bytes()) * D(n_.rope) / D(n_.nope + n_.rope);
    b_.Line("rope", k_.rope, {2 * turned + Bytes({table, positions})},
            [&] { k_.rope(s_, q, n_.nope, table, positions, false); });
  }

  void Latents() {
    if (!b_.WantsAny({"latent", "latent_grad"})) return;
    const int64_t t = n_.tokens(), l = n_.kv_lora, r = n_.rope;
    Tensor x = b_.Normal(a_, {t, l + r}), dx = b_.Empty(a_, x.shape());
    Tensor normed = b_.Normal(a_, {t, l}), rotary = b_.Normal(a_, {t, r});
    Tensor w = b_.Normal(kR, {1, l}), dw = b_.Zeros(kR, w.shape()), rstd = b_.Empty(kR, {t});
    const Tensor table = b_.Normal(kR, {n_.length, r / 2, 2}, 0.5);
    const Tensor positions = b_.Ids(DType::kI32, {t}, n_.length);
    k_.fill(s_, 1, rstd);
    b_.Line("latent", k_.latent, {Bytes({x, w, table, positions, normed, rotary, rstd})},
            [&] { k_.latent(s_, x, w, 1e-6, table, positions, normed, rotary, rstd); });
    b_.Line("latent_grad", k_.latent_grad, {Bytes({normed, rotary, x, rstd, table, positions, dx})},
            [&] { k_.latent_grad(s_, normed, rotary, x, w, rstd, table, positions, dx, dw); });
  }

  // One document a row, then several.
  void Attentions() {
    Attention("attention", {});
    std::vector<int64_t> starts;
    for (int64_t t = 0; t < n_.tokens(); ++t) {
      const int64_t in_row = t % n_.length, part = n_.length / 4 + 37;
      starts.push_back(in_row / part * part);
    }
    Attention("attention docs", starts);
  }

  // The floor counts the whole triangle, whatever documents leave out.
  void Attention(const std::string& name, const std::vector<int64_t>& starts) {
    if (!b_.WantsAny({name, name + "_grad"})) return;
    const AttentionShape shape = {.rows = n_.rows,
                                  .length = n_.length,
                                  .heads = n_.heads,
                                  .nope = n_.nope,
                                  .rope = n_.rope,
                                  .value = n_.value,
                                  .documents = !starts.empty()};
    const int64_t t = n_.tokens(), qk = n_.nope + n_.rope;
    Tensor q = b_.Normal(a_, {t, n_.heads, qk}), dq = b_.Empty(a_, q.shape());
    Tensor kv = b_.Normal(a_, {t, n_.heads, n_.nope + n_.value}), dkv = b_.Empty(a_, kv.shape());
    Tensor pe = b_.Normal(a_, {t, n_.rope}), dpe = b_.Empty(a_, pe.shape());
    Tensor out = b_.Empty(a_, {t, n_.heads, n_.value}), dout = b_.Normal(a_, out.shape());
    Tensor lse = b_.Empty(kR, {t, n_.heads});
    const Tensor start =
        starts.empty() ? b_.Zeros(DType::kI32, {t}) : b_.Host(DType::kI32, {t}, starts);
    const double scale = 1 / std::sqrt(D(qk));
    const double half = D(n_.rows) * D(n_.heads) * D(n_.length) * D(n_.length);  // causal: 2 · ½
    b_.Line(name, k_.attention, {Bytes({q, kv, pe, out, lse}), half * D(qk + n_.value)},
            [&] { k_.attention(s_, shape, scale, q, kv, pe, start, out, lse); });
    b_.Line(name + "_grad", k_.attention_grad,
            {Bytes({q, kv, pe, out, lse, dout, dq, dkv, dpe}), half * D(3 * qk + 2 * n_.value)},
            [&] {
              k_.attention_grad(s_, shape, scale, dout, q, kv, pe, start, out, lse, dq, dkv, dpe);
            });
  }

  void Gated() {
    if (!b_.WantsAny({"swiglu", "swiglu_grad"})) return;
    Tensor up = b_.Normal(a_, {n_.tokens(), 2 * n_.shared * n_.width});
    Tensor dup = b_.Empty(a_, up.shape()), h = b_.Normal(a_, {n_.tokens(), n_.shared * n_.width});
    b_.Line("swiglu", k_.swiglu, {Bytes({up, h})}, [&] { k_.swiglu(s_, up, h); });
    b_.Line("swiglu_grad", k_.swiglu_grad, {Bytes({up, h, dup})},
            [&] { k_.swiglu_grad(s_, h, up, dup); });
  }

  void Routing() {
    if (!b_.WantsAny({"route", "route_grad", "balance_loss"})) return;
    const int64_t t = n_.tokens(), e = n_.experts;
    const RouteOptions options = {.top_k = n_.top_k};
    const Tensor logits = b_.Normal(kR, {t, e}), bias = b_.Zeros(kR, {e});
    Tensor scores = b_.Empty(kR, {t, e}), chosen = b_.Empty(DType::kI32, {t, n_.top_k});
    Tensor weights = b_.Empty(kR, {t, n_.top_k}), load = b_.Zeros(DType::kI64, {e});
    Tensor dweights = b_.Normal(kR, weights.shape()), dlogits = b_.Empty(a_, {t, e});
    Tensor f = b_.Empty(kR, {n_.rows, e}), loss = b_.Zeros(kR, {1}), scale = b_.Zeros(kR, {1});
    b_.Line("route", k_.route, {Bytes({logits, scores, chosen, weights})},
            [&] { k_.route(s_, options, logits, bias, scores, chosen, weights, load); });
    b_.Line("balance_loss", k_.balance_loss, {Bytes({scores, chosen, f})},
            [&] { k_.balance_loss(s_, options, n_.length, scores, chosen, scale, f, loss); });
    b_.Line("route_grad", k_.route_grad, {Bytes({scores, chosen, weights, dweights, dlogits})},
            [&] {
              k_.route_grad(s_, options, n_.length, scores, chosen, weights, dweights, f, scale,
                            dlogits);
            });
  }

  // Choices as a router at rest makes them: distinct within a token, uneven over the experts.
  // crowded: as a model does in its first steps, where one expert has every token.
  Tensor Choices(bool crowded) {
    std::vector<int64_t> chosen;
    const int64_t crowd = crowded ? 1 : 0, others = n_.experts - crowd;
    for (int64_t t = 0; t < n_.tokens(); ++t) {
      const int64_t first =
          RandomInt(MakeKey(1, "first"), static_cast<uint64_t>(t),
                    RandomInt(MakeKey(1, "most"), static_cast<uint64_t>(t), others) + 1);
      const int64_t stride =
          1 + RandomInt(MakeKey(1, "stride"), static_cast<uint64_t>(t), others / n_.top_k);
      for (int64_t k = 0; k < n_.top_k; ++k) {
        chosen.push_back(k < crowd ? 0 : crowd + (first + k * stride) % others);
      }
    }
    return b_.Host(DType::kI32, {n_.tokens(), n_.top_k}, chosen);
  }

  void Routed(const std::string& deal, bool crowded) {
    if (!b_.WantsAny({"experts" + deal, "experts_grad" + deal})) return;
    const int64_t t = n_.tokens(), e = n_.experts, f = n_.width, d = n_.hidden;
    const Tensor chosen = Choices(crowded);
    Tensor x = b_.Normal(a_, {t, d}), y = b_.Empty(a_, {t, d}), dy = b_.Normal(a_, {t, d});
    Tensor dx = b_.Empty(a_, {t, d});
    Tensor weights = b_.Normal(kR, {t, n_.top_k}), dweights = b_.Empty(kR, weights.shape());
    Tensor up = b_.Normal(a_, {e, 2 * f, d}, kScale), down = b_.Normal(a_, {e, d, f}, kScale);
    Tensor dup = b_.Zeros(kR, up.shape()), ddown = b_.Zeros(kR, down.shape());
    ExpertsSaved saved;
    if (k_.experts == nullptr) return;
    const auto forward = [&] {
      saved = {};
      k_.experts(s_, x, chosen, weights, up, down, {}, y, saved);
    };
    const double flop = 6 * D(t) * D(n_.top_k) * D(d) * D(f);
    forward();
    const auto backward = [&] {
      k_.experts_grad(s_, dy, x, weights, up, down, saved, dx, dweights, dup, ddown);
    };
    b_.Line("experts" + deal, k_.experts,
            {Bytes({x, chosen, weights, up, down, y, saved.gate_up}), flop}, forward);
    b_.Line(
        "experts_grad" + deal, k_.experts_grad,
        {Bytes({x, dy, weights, up, down, saved.gate_up, dx, dup, dup, ddown, ddown}), 2 * flop},
        backward);
  }

  // The experts' products alone, of rows that stand in order: dealt as peer_grouped.py deals them.
  void Grouped(const std::string& name, int64_t out, int64_t in) {
    if (!b_.WantsAny({"grouped " + name})) return;
    const int64_t rows = kLayerTokens * n_.top_k, e = n_.experts;
    const auto share = [](int64_t expert) { return 8 + 7 * expert % 9; };
    int64_t shares = 0;
    for (int64_t i = 0; i < e; ++i) shares += share(i);
    std::vector<int64_t> ends = {0};
    for (int64_t i = 0; i < e; ++i) ends.push_back(ends.back() + rows * share(i) / shares);
    ends.back() = rows;
    const Tensor offsets = b_.Host(DType::kI64, {e + 1}, ends);
    Tensor x = b_.Normal(a_, {rows, in}), w = b_.Normal(a_, {e, out, in}, kScale);
    Tensor y = b_.Normal(a_, {rows, out}), dw = b_.Zeros(kR, {e, out, in});
    const double flop = 2 * D(rows) * D(in) * D(out);
    b_.Line("grouped " + name, k_.grouped_matmul, {Bytes({x, w, y}), flop},
            [&] { k_.grouped_matmul(s_, x, w, Trans::kYes, offsets, y); });
    b_.Line("grouped " + name + " dx", k_.grouped_matmul, {Bytes({x, w, y}), flop},
            [&] { k_.grouped_matmul(s_, y, w, Trans::kNo, offsets, x); });
    b_.Line("grouped " + name + " dw", k_.grouped_matmul_weight_grad, {Bytes({x, y, dw, dw}), flop},
            [&] { k_.grouped_matmul_weight_grad(s_, y, x, offsets, dw); });
  }

  // Router, routed and shared experts as the layer runs them; flop of the experts alone.
  void MoeLayer() {
    if (!b_.WantsAny({"moe layer", "moe layer grad"})) return;
    const int64_t t = kLayerTokens, e = n_.experts, f = n_.width, d = n_.hidden;
    const int64_t wide = n_.shared * f;
    const RouteOptions options = {.top_k = n_.top_k};
    Tensor x = b_.Normal(a_, {t, d}), y = b_.Empty(a_, {t, d}), dy = b_.Normal(a_, {t, d});
    Tensor dx = b_.Empty(a_, {t, d}), part = b_.Empty(a_, {t, d});
    Tensor w = b_.Normal(a_, {e, d}, kScale), dw = b_.Zeros(kR, {e, d}), bias = b_.Zeros(kR, {e});
    Tensor logits = b_.Empty(kR, {t, e}), scores = b_.Empty(kR, {t, e});
    Tensor dlogits = b_.Empty(a_, {t, e}), load = b_.Zeros(DType::kI64, {e});
    Tensor chosen = b_.Empty(DType::kI32, {t, n_.top_k});
    Tensor weights = b_.Empty(kR, {t, n_.top_k}), dweights = b_.Empty(kR, weights.shape());
    Tensor up = b_.Normal(a_, {e, 2 * f, d}, kScale), down = b_.Normal(a_, {e, d, f}, kScale);
    Tensor dup = b_.Zeros(kR, up.shape()), ddown = b_.Zeros(kR, down.shape());
    Tensor shared_up = b_.Normal(a_, {2 * wide, d}, kScale);
    Tensor shared_down = b_.Normal(a_, {d, wide}, kScale);
    Tensor dshared_up = b_.Zeros(kR, shared_up.shape());
    Tensor dshared_down = b_.Zeros(kR, shared_down.shape());
    Tensor pre = b_.Empty(a_, {t, 2 * wide}), dpre = b_.Empty(a_, pre.shape());
    Tensor h = b_.Empty(a_, {t, wide}), dh = b_.Empty(a_, h.shape());
    ExpertsSaved saved;
    constexpr Trans kNo = Trans::kNo, kYes = Trans::kYes;
    const auto forward = [&] {
      saved = {};
      k_.matmul(s_, x, kNo, w, kYes, {}, logits);
      k_.route(s_, options, logits, bias, scores, chosen, weights, load);
      k_.experts(s_, x, chosen, weights, up, down, {}, y, saved);
      k_.matmul(s_, x, kNo, shared_up, kYes, {}, pre);
      k_.swiglu(s_, pre, h);
      k_.matmul(s_, h, kNo, shared_down, kYes, {}, part);
      k_.add(s_, part, y);
    };
    const auto backward = [&] {
      k_.experts_grad(s_, dy, x, weights, up, down, saved, dx, dweights, dup, ddown);
      k_.matmul(s_, dy, kNo, shared_down, kNo, {}, dh);
      k_.matmul(s_, dy, kYes, h, kNo, dshared_down, dshared_down);
      k_.swiglu_grad(s_, dh, pre, dpre);
      k_.matmul(s_, dpre, kNo, shared_up, kNo, {}, part);
      k_.matmul(s_, dpre, kYes, x, kNo, dshared_up, dshared_up);
      k_.add(s_, part, dx);
      k_.route_grad(s_, options, t, scores, chosen, weights, dweights, {}, {}, dlogits);
      k_.matmul(s_, dlogits, kYes, x, kNo, dw, dw);
      k_.matmul(s_, dlogits, kNo, w, kNo, dx, dx);
    };
    if (k_.experts == nullptr) return;
    const double flop = 6 * D(t) * D(n_.top_k + n_.shared) * D(d) * D(f);
    forward();
    b_.Line("moe layer", k_.experts,
            {Bytes({x, up, down, shared_up, shared_down, y, saved.gate_up, pre}), flop}, forward);
    b_.Line("moe layer grad", k_.experts_grad,
            {Bytes({x, dy, up, down, shared_up, shared_down, saved.gate_up, pre, dx, dup, dup,
                    ddown, ddown, dshared_up, dshared_up, dshared_down, dshared_down}),
             2 * flop},
            backward);
  }

  void Head() {
    if (!b_.WantsAny({"head_loss"})) return;
    const int64_t t = n_.tokens();
    const Tensor x = b_.Normal(a_, {t, n_.hidden}),
                 w = b_.Normal(a_, {n_.vocab, n_.hidden}, kScale);
    const Tensor targets = b_.Ids(DType::kI32, {t}, n_.vocab);
    Tensor losses = b_.Empty(kR, {t}), dx = b_.Empty(a_, x.shape()), dw = b_.Zeros(kR, w.shape());
    Tensor scale = b_.Empty(kR, {1});
    k_.fill(s_, 1 / D(t), scale);
    b_.Line("head_loss", k_.head_loss,
            {Bytes({x, w, dx, dw, dw}), 6 * D(t) * D(n_.vocab) * D(n_.hidden)},
            [&] { k_.head_loss(s_, x, w, targets, scale, losses, dx, dw); });
  }

  // mHC around one sub-layer.
  void Streams() {
    if (!b_.WantsAny({"hyper"})) return;
    const int64_t t = n_.tokens(), c = n_.hidden, n = kStreams, mixes = n * n + 2 * n;
    const HyperOptions o;
    Tensor x = b_.Normal(a_, {t, n, c}), out = b_.Empty(a_, x.shape());
    Tensor dx = b_.Empty(a_, x.shape()), y = b_.Normal(a_, {t, c}), h = b_.Empty(a_, {t, c});
    Tensor phi = b_.Normal(kR, {n * c, mixes}, 0.02), dphi = b_.Zeros(kR, phi.shape());
    Tensor alpha = b_.Normal(kR, {3}, 0.01), dalpha = b_.Zeros(kR, {3});
    Tensor bias = b_.Normal(kR, {mixes}), dbias = b_.Zeros(kR, {mixes});
    Tensor r = b_.Normal(kR, {t}), m = b_.Normal(kR, {t, mixes});
    Tensor pre = b_.Normal(kR, {t, n}), post = b_.Normal(kR, {t, n}),
           res = b_.Normal(kR, {t, n, n});
    Tensor dpost = b_.Normal(kR, {t, n}), dy = b_.Empty(a_, {t, c});
    Tensor dres = b_.Normal(kR, {t, n, n});
    const double flop = 2 * D(t) * D(n * c) * D(mixes);
    b_.Line("hyper_enter", k_.hyper_enter, {Bytes({x, phi, r, m, pre, post, res, h}), flop},
            [&] { k_.hyper_enter(s_, o, x, phi, alpha, bias, r, m, pre, post, res, h); });
    b_.Line("hyper_leave", k_.hyper_leave, {Bytes({x, y, res, post, out})},
            [&] { k_.hyper_leave(s_, x, res, post, y, out); });
    Tensor next_pre = b_.Empty(kR, pre.shape()), next_post = b_.Empty(kR, post.shape());
    Tensor next_res = b_.Empty(kR, res.shape());
    b_.Line("hyper_leave_enter", k_.hyper_leave_enter,
            {Bytes({x, y, res, post, out, phi, r, m, pre, post, res, h}), flop}, [&] {
              k_.hyper_leave_enter(s_, o, x, res, post, y, out, phi, alpha, bias, r, m, next_pre,
                                   next_post, next_res, h);
            });
    b_.Line("hyper_leave_grad", k_.hyper_leave_grad, {Bytes({out, x, y, post, dres, dpost, dy})},
            [&] { k_.hyper_leave_grad(s_, out, x, post, y, dres, dpost, dy); });
    b_.Line("hyper_enter_grad", k_.hyper_enter_grad,
            {Bytes({out, x, h, dx, phi, dphi, dphi, r, m, pre, res, dpost, dres}), 2 * flop}, [&] {
              k_.hyper_enter_grad(s_, o, out, h, dres, dpost, x, phi, alpha, bias, r, m, pre, res,
                                  dx, dphi, dalpha, dbias);
            });
    Tensor fn = b_.Normal(kR, {n, n * c}, 0.02), dfn = b_.Zeros(kR, fn.shape());
    Tensor scale = b_.Normal(kR, {1}), dscale = b_.Zeros(kR, {1});
    Tensor base = b_.Normal(kR, {n}), dbase = b_.Zeros(kR, {n});
    Tensor logit = b_.Normal(kR, {t, n}), w = b_.Normal(kR, {t, n});
    b_.Line("hyper_read", k_.hyper_read, {Bytes({x, fn, h})},
            [&] { k_.hyper_read(s_, o, x, fn, scale, base, r, logit, w, h); });
    b_.Line("hyper_read_grad", k_.hyper_read_grad, {Bytes({x, fn, h, dx})}, [&] {
      k_.hyper_read_grad(s_, o, h, x, fn, scale, base, r, logit, w, dx, dfn, dscale, dbase);
    });
    b_.Line("hyper_expand", k_.hyper_expand, {Bytes({y, out})},
            [&] { k_.hyper_expand(s_, y, out); });
    b_.Line("hyper_reduce", k_.hyper_reduce, {Bytes({x, h})},
            [&] { k_.hyper_reduce(s_, x, 1.0, h); });
  }

  // Engram's ops of one layer.
  void Memory() {
    if (!b_.WantsAny({"ngram_rows", "engram_gate", "short_conv"})) return;
    const int64_t t = n_.tokens(), d = n_.hidden, m = kStreams, taps = 4;
    const NgramHash hash = Hash();
    const Tensor tokens = b_.Ids(DType::kI32, {t}, n_.vocab);
    const Tensor canonical = b_.Ids(DType::kI32, {n_.vocab}, n_.vocab);
    const Tensor start = b_.Zeros(DType::kI32, {t});
    Tensor rows = b_.Empty(DType::kI64, {t, 2 * kMemoryHeads});
    b_.Line("ngram_rows", k_.ngram_rows, {Bytes({tokens, start, rows})},
            [&] { k_.ngram_rows(s_, hash, tokens, canonical, n_.length, start, rows); });

    const GateOptions o;
    Tensor h = b_.Normal(a_, {t, m, d}), dh = b_.Empty(a_, h.shape()), u = b_.Normal(a_, h.shape());
    Tensor kv = b_.Normal(a_, {t, (m + 1) * d}), dkv = b_.Empty(a_, kv.shape());
    const Tensor more = b_.Normal(a_, h.shape());
    Tensor w_h = b_.Normal(kR, {m, d}), w_k = b_.Normal(kR, {m, d});
    Tensor dw_h = b_.Zeros(kR, {m, d}), dw_k = b_.Zeros(kR, {m, d});
    Tensor rh = b_.Normal(kR, {t, m}), rk = b_.Normal(kR, {t, m}), sum = b_.Normal(kR, {t, m});
    Tensor alpha = b_.Normal(kR, {t, m});
    b_.Line("engram_gate", k_.engram_gate, {Bytes({h, kv, u})},
            [&] { k_.engram_gate(s_, o, h, kv, w_h, w_k, rh, rk, sum, alpha, u); });
    b_.Line("engram_gate_grad", k_.engram_gate_grad, {Bytes({u, h, kv, dh, dkv})}, [&] {
      k_.engram_gate_grad(s_, o, u, {}, h, kv, w_h, w_k, rh, rk, sum, alpha, dh, dkv, dw_h, dw_k);
    });
    b_.Line("engram_gate_grad, addend", k_.engram_gate_grad, {Bytes({u, u, h, kv, dh, dkv})}, [&] {
      k_.engram_gate_grad(s_, o, u, more, h, kv, w_h, w_k, rh, rk, sum, alpha, dh, dkv, dw_h, dw_k);
    });

    Tensor x = b_.Normal(a_, {t, m * d}), y = b_.Normal(a_, x.shape());
    Tensor dn = b_.Empty(a_, x.shape()), skip = b_.Normal(a_, x.shape());
    Tensor w = b_.Normal(kR, {m * d, taps}), dw = b_.Zeros(kR, w.shape());
    b_.Line("short_conv", k_.short_conv, {Bytes({x, skip, y, w})},
            [&] { k_.short_conv(s_, x, skip, {}, w, 3, n_.length, start, y); });
    b_.Line("short_conv, addend", k_.short_conv, {Bytes({x, skip, dn, y, w})},
            [&] { k_.short_conv(s_, x, skip, dn, w, 3, n_.length, start, y); });
    b_.Line("short_conv_grad", k_.short_conv_grad, {Bytes({y, x, dn, w})},
            [&] { k_.short_conv_grad(s_, y, x, w, 3, n_.length, start, dn, dw); });
  }

  // The rows of one step in a table of Engram-27B, and the embedding.
  void Rows() {
    const int64_t t = n_.tokens();
    if (b_.WantsAny({"embedding"})) {
      const Tensor ids = b_.Ids(DType::kI32, {t}, n_.vocab);
      Tensor table = b_.Normal(a_, {n_.vocab, n_.hidden}), x = b_.Empty(a_, {t, n_.hidden});
      Tensor dtable = b_.Zeros(kR, table.shape());
      b_.Line("embedding", k_.gather_rows, {2 * Bytes({x})},
              [&] { k_.gather_rows(s_, table, ids, x); });
      b_.Line("embedding_grad", k_.scatter_add_rows, {3 * Bytes({x})},
              [&] { k_.scatter_add_rows(s_, x, ids, dtable); });
    }
    if (!b_.WantsAny({"gather_rows", "unique_ids", "sum_unique", "deal_rows", "adam_rows"})) return;
    const int64_t asked = t * 2 * kMemoryHeads;
    Tensor table = b_.Normal(kR, {kTableRows, kMemoryWidth});
    Tensor ids = b_.Ids(DType::kI64, {asked}, kTableRows);
    Tensor e = b_.Empty(a_, {asked, kMemoryWidth});
    b_.Line("gather_rows", k_.gather_rows, {Bytes({ids, e}) + D(asked * kMemoryWidth * 4)},
            [&] { k_.gather_rows(s_, table, ids, e); });
    Unique("", ids);
    int64_t different = 0;
    Unique(", Zipf 1.1", b_.Host(DType::kI64, {asked}, ZipfIds(asked, &different)));
    std::vector<int64_t> distinct;
    const RandomKey key = MakeKey(1, "slots");
    for (int64_t i = 0; i < asked; ++i) distinct.push_back(Permute(key, i, kTableRows));
    const Tensor slots = b_.Host(DType::kI64, {asked}, distinct), g = b_.Normal(kR, e.shape());
    Tensor m = b_.Zeros(kR, table.shape()), v = b_.Zeros(kR, table.shape());
    b_.Line("adam_rows", k_.adam_rows, {7 * Bytes({g}) + Bytes({slots})},
            [&] { k_.adam_rows(s_, {}, Step(), g, slots, m, v, table); });
  }

  // Distinct ids of a micro-batch for two owners, their rows dealt, and their gradients summed.
  void Unique(const std::string& which, const Tensor& ids) {
    const int64_t n = ids.elements();
    Tensor unique = b_.Empty(DType::kI64, {n}), inverse = b_.Empty(DType::kI32, {n});
    Tensor order = b_.Empty(DType::kI32, {n}), counts = b_.Empty(DType::kI64, {2});
    const auto find = [&] { k_.unique_ids(s_, ids, kTableRows, unique, inverse, order, counts); };
    b_.Line("unique_ids" + which, k_.unique_ids, {Bytes({ids, unique, inverse, order})}, find);
    find();
    int64_t each[2] = {};
    Download(s_, counts, each, counts.bytes());
    const Tensor table = b_.Normal(kR, {kTableRows / 2 + 1, kMemoryWidth});
    const Tensor came = b_.Normal(a_, {each[1], kMemoryWidth});
    const Tensor own = unique.Rows(0, each[0]);
    Tensor e = b_.Empty(a_, {n, kMemoryWidth});
    b_.Line("deal_rows" + which, k_.deal_rows,
            {Bytes({own, came, inverse, e}) + D(each[0] * kMemoryWidth * 4)},
            [&] { k_.deal_rows(s_, table, own, 0, came, inverse, e); });
    Tensor sums = b_.Empty(kR, {each[0] + each[1], kMemoryWidth});
    b_.Line("sum_unique" + which, k_.sum_unique, {Bytes({e, inverse, order, sums})},
            [&] { k_.sum_unique(s_, e, inverse, order, sums); });
  }

  // The hash of Engram-27B's tables.
  NgramHash Hash() const {
    NgramHash hash;
    hash.orders = {2, 3};
    hash.heads = kMemoryHeads;
    hash.multipliers = {0x9e3779b97f4a7c1, 0x3c6ef372fe94f83, 0x5851f42d4c957f3};
    for (int64_t i = 0; i < 2 * kMemoryHeads; ++i) {
      hash.primes.push_back(2'262'193 + 2 * i);
      hash.offsets.push_back(i * 2'262'200);
    }
    return hash;
  }

  // Zipf ids, ranks spread over the table; how many are distinct.
  std::vector<int64_t> ZipfIds(int64_t n, int64_t* distinct) const {
    std::vector<double> below(static_cast<size_t>(kTableRows));
    double sum = 0;
    for (size_t r = 0; r < below.size(); ++r)
      below[r] = sum += std::pow(D(static_cast<int64_t>(r) + 1), -kZipf);
    const RandomKey key = MakeKey(1, "zipf");
    std::vector<int64_t> ids;
    std::vector<bool> seen(below.size());
    *distinct = 0;
    for (int64_t i = 0; i < n; ++i) {
      const double u = RandomUniform(key, static_cast<uint64_t>(i)) * sum;
      const auto rank = std::upper_bound(below.begin(), below.end(), u) - below.begin();
      const int64_t id = std::min<int64_t>(rank, kTableRows - 1) * 2'654'435'761 % kTableRows;
      *distinct += seen[static_cast<size_t>(id)] ? 0 : 1;
      seen[static_cast<size_t>(id)] = true;
      ids.push_back(id);
    }
    return ids;
  }

  // A table whole on the device: rows of a micro-batch by hash, one update of many requests.
  void Tables() {
    if (!b_.WantsAny({"table"})) return;
    const int64_t t = n_.tokens(), w = kMemoryWidth;
    Tensor p = b_.Normal(kR, {kTableRows, w}), m = b_.Zeros(kR, p.shape());
    Tensor v = b_.Zeros(kR, p.shape()), marks = b_.Zeros(DType::kI32, {kTableRows / 32});
    {
      const NgramHash hash = Hash();
      const Tensor tokens = b_.Ids(DType::kI32, {t}, n_.vocab);
      const Tensor canonical = b_.Ids(DType::kI32, {n_.vocab}, n_.vocab);
      const Tensor start = b_.Zeros(DType::kI32, {t});
      Tensor rows = b_.Empty(DType::kI64, {t, 2 * kMemoryHeads});
      Tensor e = b_.Empty(a_, {rows.elements(), w});
      b_.Line("table gather", k_.ngram_gather, {Bytes({rows, e}) + 4 * D(e.elements())},
              [&] { k_.ngram_gather(s_, hash, tokens, canonical, n_.length, start, p, rows, e); });
    }
    int64_t distinct = 0;
    const Tensor ids = b_.Host(DType::kI64, {kRequests}, ZipfIds(kRequests, &distinct));
    const Tensor g = b_.Normal(a_, {kRequests, w}, 1e-3);
    {
      Tensor e = b_.Empty(a_, {kRequests, w});
      b_.Line("table gather ids", k_.gather_rows, {Bytes({ids, e}) + 4.0 * w * D(distinct)},
              [&] { k_.gather_rows(s_, p, ids, e); });
    }
    b_.Line("table marks", k_.mark_rows, {Bytes({ids}) + 4 * D(distinct)},
            [&] { k_.mark_rows(s_, ids, marks); });
    Tensor squares = b_.Zeros(DType::kF64, {1}), none;
    const double moved = 24.0 * w, touched = D(distinct) * moved;
    RowGroups groups;
    const auto group = [&] {
      groups = {};
      k_.group_rows(s_, {&ids, 1}, kTableRows, groups, none);
    };
    const auto sum = [&] {
      groups.sums = Tensor();
      k_.sum_groups(s_, {&g, 1}, groups, squares);
    };
    const auto move = [&](bool dense) {
      k_.adam_groups(s_, {}, dense, Step(), {&g, 1}, groups, marks, m, v, p);
    };
    b_.Line("table update", k_.adam_groups, {Bytes({g}) + touched}, [&] {
      group();
      sum();
      move(false);
    });
    group();
    sum();
    b_.Line("table group", k_.group_rows, {Bytes({ids}) + 12.0 * kRequests}, group);
    b_.Line("table sum", k_.sum_groups, {Bytes({g})}, sum);
    b_.Line("table adam", k_.adam_groups, {touched}, [&] { move(false); });
    const std::vector<uint32_t> all(static_cast<size_t>(marks.elements()), ~uint32_t{0});
    Upload(s_, all.data(), marks.bytes(), marks);
    b_.Line("table update dense", k_.adam_groups, {Bytes({g}) + D(kTableRows) * moved}, [&] {
      group();
      sum();
      move(true);
    });
  }

  // A step that moves.
  Tensor Step() {
    if (!step_.defined()) {
      const double values[kStepScalars] = {1e-4, 0.1, 0.05, 0.5, 1};
      step_ = b_.Empty(DType::kF64, {kStepScalars});
      Upload(s_, values, sizeof values, step_);
    }
    return step_;
  }

  // The optimizers on the routed experts of one layer.
  void Updates() {
    const int64_t count = n_.experts * 3 * n_.width * n_.hidden;
    const Tensor step = Step();
    if (b_.WantsAny({"adamw", "muon", "sum_squares"})) {
      Tensor g = b_.Normal(kR, {count}), p = b_.Normal(kR, {count}), m = b_.Zeros(kR, {count});
      Tensor v = b_.Zeros(kR, {count}), copy = b_.Empty(a_, {count}), u = b_.Empty(a_, {count});
      Tensor sum = b_.Zeros(DType::kF64, {1}), none;
      Tensor& rounded = a_ == kR ? none : copy;
      b_.Line("adamw", k_.adamw, {Bytes({g, m, m, v, v, p, p, rounded})},
              [&] { k_.adamw(s_, {}, step, g, m, v, p, rounded); });
      b_.Line("muon_momentum", k_.muon_momentum, {Bytes({g, m, m, u})}, [&] {
        k_.muon_momentum(s_, 0.95, true, step, {{0, count}}, g, m, u);
      });
      b_.Line("muon_apply", k_.muon_apply, {Bytes({u, p, p, rounded})}, [&] {
        k_.muon_apply(s_, 1, 0.1, step, {{0, count}}, u, p, rounded);
      });
      b_.Line("sum_squares", k_.sum_squares, {Bytes({g})}, [&] { k_.sum_squares(s_, g, sum); });
    }
    if (!b_.WantsAny({"newton_schulz"})) return;
    const NewtonSchulzOptions o;
    const auto line = [&](const std::string& name, const Shape& shape) {
      Tensor x = b_.Normal(a_, shape);
      const double small = D(std::min(shape[1], shape[2])), large = D(std::max(shape[1], shape[2]));
      // A = X Xᵀ, A², B X of each of five iterations, without the symmetry of the first two.
      const double flop =
          D(o.steps) * D(shape[0]) * (4 * small * small * large + 2 * small * small * small);
      b_.Line(name, k_.newton_schulz, {2 * Bytes({x}), flop}, [&] { k_.newton_schulz(s_, o, x); });
    };
    line("newton_schulz", {n_.experts, 2 * n_.width, n_.hidden});
    // The experts of a cell of configs/sweeps/small_h200.yaml.
    line("newton_schulz cell", {940, 128, 256});
    line("newton_schulz cell, turned", {470, 256, 128});
  }

  void Sums() {
    if (!b_.WantsAny({"add", "cast", "copy", "scale"})) return;
    Tensor x = b_.Normal(a_, {n_.tokens(), n_.hidden}), y = b_.Normal(a_, x.shape());
    Tensor wide = b_.Normal(kR, x.shape()), one = b_.Empty(kR, {1});
    k_.fill(s_, 1, one);
    b_.Line("add", k_.add, {Bytes({x, y, y})}, [&] { k_.add(s_, x, y); });
    b_.Line("cast", k_.cast, {Bytes({x, wide})}, [&] { k_.cast(s_, wide, x); });
    b_.Line("copy", k_.copy, {Bytes({x, y})}, [&] { k_.copy(s_, x, y); });
    b_.Line("scale", k_.scale, {Bytes({wide, wide})}, [&] { k_.scale(s_, one, wide); });
  }

  static constexpr DType kR = DType::kF32;  // what stays accurate (docs/numerics.md)
  GpuTimer& b_;
  const Kernels& k_;
  Stream& s_;
  const Sizes& n_;
  const DType a_;  // of activations
  Tensor step_;
};

int Main(int argc, char** argv) {
  std::string shape, op;
  DType dtype = DType::kBf16;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto value = [&] { return word.substr(word.find('=') + 1); };
    if (word.starts_with("--shape=")) {
      shape = value();
    } else if (word.starts_with("--op=")) {
      op = value();
    } else if (word == "--dtype=f32") {
      dtype = DType::kF32;
    } else if (word != "--dtype=bf16") {
      std::fprintf(stderr,
                   "usage: gpu_bench [--shape=sweep|27b] [--dtype=bf16|f32] [--op=BEGINNING]\n");
      return 2;
    }
  }
  std::string why;
  if (GpuDriver()->count(&why) == 0) {
    std::fprintf(stderr, "gpu_bench: no GPU on this machine (%s)\n", why.c_str());
    return 1;
  }
  const Ceilings ceilings = GpuTimer(op).MeasureCeilings();
  for (const Sizes* sizes : {&kSweep, &k27b}) {
    if (!shape.empty() && shape != sizes->name) continue;
    GpuTimer timer(op);
    Bench(timer, ceilings, *sizes, dtype).All();
  }
  return 0;
}

}  // namespace
}  // namespace mneme::bench

int main(int argc, char** argv) { return mneme::bench::Main(argc, argv); }
