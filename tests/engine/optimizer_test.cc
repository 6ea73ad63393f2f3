// The optimizer against plain loops in double: every piece, every layout, clip and skips.
#include "engine/update/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "engine/machine/machine.h"
#include "kernels/core/random.h"
#include "parallel/world.h"
#include "tests/engine/host_step.h"

namespace mneme {
namespace {

RunConfig SmallConfig() {
  RunConfig config;
  config.train.precision = "f64";
  ModelConfig& m = config.model;
  m.vocab_size = 24;
  m.layers = 2;
  m.hidden = 12;
  m.dense_width = 20;
  m.mla = {2, 0, 8, 4, 4, 6, 10000.0};
  m.mhc.streams = 2;
  m.moe.experts = 4;
  m.moe.top_k = 2;
  m.moe.shared = 1;
  m.moe.expert_width = 10;
  m.engram.blocks = {1};
  m.engram.orders = {2};
  m.engram.heads = 2;
  m.engram.d_mem = 6;
  m.engram.vocab_size = {50};
  config.optim.clip = 0.5;
  config.optim.lr = 0.01;
  return config;
}

VocabularyInfo SmallVocabulary() {
  VocabularyInfo v;
  v.size = 24;
  v.eos = 22;
  v.pad = 23;
  for (int32_t i = 0; i < 24; ++i) v.canonical.push_back(i);
  v.canonical_size = 24;
  return v;
}

using Values = std::vector<double>;

Values Normals(const std::string& name, uint64_t seed, int64_t n) {
  Values x(static_cast<size_t>(n));
  FillNormal(MakeKey(seed, name), 0, n, 1.0, x.data());
  return x;
}

// One logical matrix as the paper's formulas have it.
struct PlainPiece {
  int64_t rows, cols;
  bool muon, decays;
  Values p, m, v;
};

Values Orthogonalized(const MuonConfig& c, int64_t rows, int64_t cols, Values u) {
  const bool flip = rows > cols;
  const int64_t r = flip ? cols : rows;
  const int64_t k = flip ? rows : cols;
  double norm = 0;
  for (double x : u) norm += x * x;
  norm = std::sqrt(norm) + 1e-7;
  Values x(u.size());
  const auto at = [](int64_t i) { return static_cast<size_t>(i); };
  for (int64_t i = 0; i < r; ++i)
    for (int64_t j = 0; j < k; ++j)
      x[at(i * k + j)] = (flip ? u[at(j * cols + i)] : u[at(i * cols + j)]) / norm;
  for (int64_t step = 0; step < c.steps; ++step) {
    Values a(at(r * r)), b(at(r * r)), next(x.size());
    for (int64_t i = 0; i < r; ++i)
      for (int64_t j = 0; j < r; ++j)
        for (int64_t l = 0; l < k; ++l) a[at(i * r + j)] += x[at(i * k + l)] * x[at(j * k + l)];
    for (int64_t i = 0; i < r; ++i)
      for (int64_t j = 0; j < r; ++j) {
        double square = 0;
        for (int64_t l = 0; l < r; ++l) square += a[at(i * r + l)] * a[at(l * r + j)];
        b[at(i * r + j)] = c.coefficients[1] * a[at(i * r + j)] + c.coefficients[2] * square;
      }
    for (int64_t i = 0; i < r; ++i)
      for (int64_t j = 0; j < k; ++j) {
        double sum = c.coefficients[0] * x[at(i * k + j)];
        for (int64_t l = 0; l < r; ++l) sum += b[at(i * r + l)] * x[at(l * k + j)];
        next[at(i * k + j)] = sum;
      }
    x = next;
  }
  for (int64_t i = 0; i < r; ++i)
    for (int64_t j = 0; j < k; ++j) u[at(flip ? j * cols + i : i * cols + j)] = x[at(i * k + j)];
  return u;
}

class PlainOptimizer {
 public:
  explicit PlainOptimizer(const OptimConfig& optim) : optim_(optim) {}

  std::map<std::string, PlainPiece> pieces;

  // Returns the norm before clipping.
  double Step(const std::map<std::string, Values>& gradients, int64_t t, double rate) {
    double squares = 0;
    for (const auto& [name, g] : gradients)
      for (double x : g) squares += x * x;
    const double norm = std::sqrt(squares);
    const double clip = std::min(1.0, optim_.clip / norm);
    for (auto& [name, piece] : pieces) {
      Values g = gradients.at(name);
      for (double& x : g) x *= clip;
      const double decay = piece.decays ? optim_.weight_decay : 0.0;
      if (piece.muon) {
        Muon(piece, g, rate, decay);
      } else {
        Adam(piece, g, t, rate, decay);
      }
    }
    return norm;
  }

 private:
  void Muon(PlainPiece& piece, const Values& g, double rate, double decay) {
    Values u(g.size());
    for (size_t i = 0; i < g.size(); ++i) {
      piece.m[i] = optim_.muon.momentum * piece.m[i] + g[i];
      u[i] = g[i] + optim_.muon.momentum * piece.m[i];
    }
    u = Orthogonalized(optim_.muon, piece.rows, piece.cols, std::move(u));
    const double scale = 0.2 * std::sqrt(static_cast<double>(std::max(piece.rows, piece.cols)));
    for (size_t i = 0; i < g.size(); ++i) {
      piece.p[i] -= rate * (scale * u[i] + decay * piece.p[i]);
    }
  }

  void Adam(PlainPiece& piece, const Values& g, int64_t t, double rate, double decay) {
    const double b1 = optim_.adam.beta1;
    const double b2 = optim_.adam.beta2;
    for (size_t i = 0; i < g.size(); ++i) {
      piece.m[i] = b1 * piece.m[i] + (1 - b1) * g[i];
      piece.v[i] = b2 * piece.v[i] + (1 - b2) * g[i] * g[i];
      const double m = piece.m[i] / (1 - std::pow(b1, static_cast<double>(t)));
      const double v = piece.v[i] / (1 - std::pow(b2, static_cast<double>(t)));
      piece.p[i] -= rate * (m / (std::sqrt(v) + optim_.adam.eps) + decay * piece.p[i]);
    }
  }

  OptimConfig optim_;
};

// A model on one rank of a world, with its optimizer.
struct Rig {
  Rig(World& world, const RunConfig& config, int64_t muon_batch_bytes = Optimizer::kMuonBatchBytes)
      : machine(world, *MakeLayout(config.parallel, world.size()), DType::kF64),
        model(*BuildModel(world, machine, config, SmallVocabulary())),
        optimizer(machine.context, config.optim, config.model, config.train.skip, model->store,
                  *model->stack, muon_batch_bytes) {}

  template <class F>
  void ForEachPiece(F f) {
    for (const auto& parameter : model->store.parameters()) {
      for (const Piece& piece : parameter->pieces) f(*parameter, piece);
    }
  }

  Machine machine;
  std::unique_ptr<Model> model;
  Optimizer optimizer;
};

void TakePieces(Rig& rig, bool muon, PlainOptimizer& plain) {
  rig.ForEachPiece([&](Parameter& parameter, const Piece& piece) {
    const double* p = parameter.value.data<double>() + piece.offset;
    const size_t n = static_cast<size_t>(piece.elements());
    plain.pieces[piece.name] = {
        piece.rows,   piece.cols,       muon && parameter.kind == UpdateKind::kMuon,
        piece.decays, Values(p, p + n), Values(n),
        Values(n)};
  });
}

// Each rank's share of the whole gradient: uneven, and summing to 1 over the group that shares the
// piece.
void SetGradients(Rig& rig, uint64_t seed) {
  const Mesh& mesh = rig.machine.mesh;
  rig.ForEachPiece([&](Parameter& parameter, const Piece& piece) {
    const Comm& group = parameter.view == View::kDense ? *mesh.world : *mesh.expert_replicas;
    const double n = group.size();
    const double share = 2.0 * (group.rank() + 1) / (n * (n + 1));
    const Values g = Normals(piece.name, seed, piece.elements());
    double* out = parameter.grad.data<double>() + piece.offset;
    for (size_t i = 0; i < g.size(); ++i) out[i] = share * g[i];
  });
}

void ExpectEqualPieces(Rig& rig, const PlainOptimizer& plain, const std::string& where) {
  rig.ForEachPiece([&](Parameter& parameter, const Piece& piece) {
    const Values& want = plain.pieces.at(piece.name).p;
    const double* got = parameter.value.data<double>() + piece.offset;
    double worst = 0;
    for (size_t i = 0; i < want.size(); ++i) worst = std::max(worst, std::abs(got[i] - want[i]));
    EXPECT_LT(worst, 1e-12) << where << ": " << piece.name;
  });
}

// Padding stands between parameters, and updates run over it.
void ExpectPaddingOfZeros(Rig& rig) {
  for (const Region* region : rig.model->store.regions()) {
    std::vector<bool> used(static_cast<size_t>(region->master.elements()));
    for (const Region::Slice& slice : region->Slices(region->owned)) {
      const int64_t count = (slice.row_end - slice.row_begin) * slice.piece->cols;
      const auto first = used.begin() + (slice.region_begin - region->owned.begin);
      std::fill(first, first + count, true);
    }
    for (size_t i = 0; i < used.size(); ++i) {
      if (used[i]) continue;
      EXPECT_EQ(region->master.data<double>()[i], 0.0) << i;
    }
  }
}

void CompareOn(int ranks, int expert, const std::string& matrices,
               int64_t muon_batch_bytes = Optimizer::kMuonBatchBytes) {
  RunConfig config = SmallConfig();
  config.optim.matrices = matrices;
  PlainOptimizer plain(config.optim);
  std::vector<PlainOptimizer> after;
  std::vector<double> norms;
  ThreadWorld::Run(1, [&](World& world) {
    Rig rig(world, config);
    TakePieces(rig, matrices == "muon", plain);
  });
  for (uint64_t step = 1; step <= 3; ++step) {
    std::map<std::string, Values> gradients;
    for (const auto& [name, piece] : plain.pieces) {
      gradients[name] = Normals(name, step, piece.rows * piece.cols);
    }
    norms.push_back(plain.Step(gradients, static_cast<int64_t>(step), 0.01));
    after.push_back(plain);
  }
  config.parallel.expert = expert;
  ThreadWorld::Run(ranks, [&](World& world) {
    Rig rig(world, config, muon_batch_bytes);
    for (uint64_t step = 1; step <= 3; ++step) {
      SetGradients(rig, step);
      const test::UpdateReport report =
          test::HostStep(rig.optimizer, rig.machine.context, static_cast<int64_t>(step), 0.01);
      EXPECT_FALSE(report.skipped);
      EXPECT_NEAR(report.grad_norm, norms[step - 1], 1e-12 * norms[step - 1]);
      ExpectEqualPieces(rig, after[step - 1],
                        std::to_string(ranks) + " ranks, expert axis " + std::to_string(expert));
    }
    ExpectPaddingOfZeros(rig);
  });
}

TEST(Optimizer, FollowsThePlainFormulasOnOneRank) { CompareOn(1, 1, "muon"); }

TEST(Optimizer, FollowsThePlainFormulasOnEveryLayout) {
  CompareOn(2, 1, "muon");
  CompareOn(2, 2, "muon");
  CompareOn(3, 1, "muon");
  CompareOn(3, 3, "muon");
  CompareOn(4, 2, "muon");
  CompareOn(4, 4, "muon");
}

// More matrices of a shape than are orthogonalised at once, also where one of them is more.
TEST(Optimizer, FollowsThePlainFormulasInSmallBatches) {
  for (const int64_t bytes : {1, 7'000, 20'000}) CompareOn(1, 1, "muon", bytes);
  CompareOn(2, 2, "muon", 7'000);
}

TEST(Optimizer, AdamWMayTakeTheMatricesToo) {
  CompareOn(1, 1, "adamw");
  CompareOn(4, 2, "adamw");
}

// Everything that a skipped step must leave alone, as bits.
Values AllState(Rig& rig) {
  Values all;
  const auto append = [&](const Tensor& t) {
    if (!t.defined() || t.elements() == 0) return;
    all.insert(all.end(), t.data<double>(), t.data<double>() + t.elements());
  };
  for (RegionState& state : rig.optimizer.state()) {
    append(state.region->read);
    append(state.first);
    append(state.second);
  }
  for (RouterState& router : rig.model->stack->routers()) append(router.bias);
  return all;
}

Tensor IdTensor(Stream& stream, const std::vector<int64_t>& ids) {
  Tensor t = Tensor::Empty(stream, DType::kI64, {static_cast<int64_t>(ids.size())});
  Upload(stream, ids.data(), t.bytes(), t);
  return t;
}

void PushRows(Rig& rig, const std::vector<int64_t>& ids, double gradient) {
  Stream& stream = rig.machine.stream;
  RowExchange& table = *rig.model->stack->tables().front();
  const FetchedRows rows = table.Fetch(stream, IdTensor(stream, ids), DType::kF64).Wait(stream);
  const int64_t width = table.store().spec().width;
  Tensor d = Tensor::Empty(stream, DType::kF64, {static_cast<int64_t>(ids.size()), width});
  std::fill_n(d.data<double>(), d.elements(), gradient);
  table.PushGradient(stream, rows, d);
}

Values ReadRow(Rig& rig, int64_t id) {
  RowStore& store = rig.model->stack->tables().front()->store();
  Tensor out = Tensor::Empty(rig.machine.stream, DType::kF64, {1, store.spec().width});
  store.Read(rig.machine.stream, IdTensor(rig.machine.stream, {id}), out);
  return Values(out.data<double>(), out.data<double>() + out.elements());
}

void SetLoads(Rig& rig, const std::vector<int64_t>& load) {
  for (RouterState& router : rig.model->stack->routers()) {
    Upload(rig.machine.stream, load.data(), router.load.bytes(), router.load);
  }
}

TEST(Optimizer, ASkippedStepTouchesNothing) {
  ThreadWorld::Run(1, [&](World& world) {
    Rig rig(world, SmallConfig());
    Context& context = rig.machine.context;
    SetGradients(rig, 1);
    test::HostStep(rig.optimizer, context, 1, 0.01);
    const Values before = AllState(rig);
    const auto expect_skip = [&](bool loss_ok) {
      SetLoads(rig, {9, 1, 1, 1});
      PushRows(rig, {3, 5}, 1.0);
      EXPECT_TRUE(test::HostStep(rig.optimizer, context, 2, 0.01, loss_ok).skipped);
      EXPECT_EQ(AllState(rig), before);
      EXPECT_EQ(rig.model->stack->tables().front()->store().materialised(false), 0);
    };
    SetGradients(rig, 2);
    expect_skip(false);
    SetGradients(rig, 2);
    rig.model->store.parameters().front()->grad.data<double>()[0] =
        std::numeric_limits<double>::quiet_NaN();
    expect_skip(true);
    // And nothing of a skipped step is left for the next: loads and table gradients are gone.
    test::HostStep(rig.optimizer, context, 2, 0.0);
    EXPECT_EQ(rig.model->stack->tables().front()->store().materialised(false), 0);
    for (RouterState& router : rig.model->stack->routers()) {
      for (int64_t e = 0; e < 4; ++e) EXPECT_EQ(router.bias.data<double>()[e], 0.0);
    }
  });
}

TEST(Optimizer, RouterBiasFollowsTheLoadOfAllRanks) {
  ThreadWorld::Run(2, [&](World& world) {
    Rig rig(world, SmallConfig());
    SetLoads(rig, world.rank() == 0 ? std::vector<int64_t>{4, 0, 1, 3}
                                    : std::vector<int64_t>{0, 2, 3, 1});
    const test::UpdateReport report = test::HostStep(rig.optimizer, rig.machine.context, 1, 0.01);
    EXPECT_DOUBLE_EQ(report.load_imbalance, 4.0 / 3.5);  // loads 4, 2, 4, 4 of mean 3.5
    for (RouterState& router : rig.model->stack->routers()) {
      const double* b = router.bias.data<double>();
      EXPECT_EQ(Values(b, b + 4), (Values{-0.001, 0.001, -0.001, -0.001}));
    }
  });
}

// Tables: their own rate and bias corrections, inside the clip norm, dense semantics by default.
TEST(Optimizer, TablesTakeAdamAtTheirOwnRate) {
  RunConfig config = SmallConfig();
  config.optim.clip = 0.0;
  config.model.engram.table.beta1 = 0.8;
  config.model.engram.table.beta2 = 0.9;
  ThreadWorld::Run(1, [&](World& world) {
    Rig rig(world, config);
    Context& context = rig.machine.context;
    const Values first = ReadRow(rig, 7);
    PushRows(rig, {7, 7}, 0.25);  // a row asked for twice: 0.5 in all
    const test::UpdateReport report = test::HostStep(rig.optimizer, context, 1, 0.01);
    const double width = static_cast<double>(first.size());
    EXPECT_NEAR(report.table_grad_norm, 0.5 * std::sqrt(width), 1e-14);
    EXPECT_NEAR(report.grad_norm, report.table_grad_norm, 1e-14);
    test::HostStep(rig.optimizer, context, 2, 0.01);  // no gradient: the moments still move it
    double m = 0, v = 0;
    Values want = first;
    for (int t = 1; t <= 2; ++t) {
      const double g = t == 1 ? 0.5 : 0.0;
      m = 0.8 * m + 0.2 * g;
      v = 0.9 * v + 0.1 * g * g;
      for (double& p : want) {
        p -= 0.05 * (m / (1 - std::pow(0.8, t))) / std::sqrt(v / (1 - std::pow(0.9, t)));
      }
    }
    const Values got = ReadRow(rig, 7);
    for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-14);
  });
}

TEST(Optimizer, TheClipNormCountsTablesUnlessToldNot) {
  for (const bool counts : {true, false}) {
    RunConfig config = SmallConfig();
    config.model.engram.table.in_clip_norm = counts;
    ThreadWorld::Run(1, [&](World& world) {
      Rig rig(world, config);
      PushRows(rig, {1}, 3.0);
      const test::UpdateReport report = test::HostStep(rig.optimizer, rig.machine.context, 1, 0.01);
      EXPECT_EQ(report.grad_norm, counts ? report.table_grad_norm : 0.0);
      EXPECT_GT(report.table_grad_norm, 1.0);
    });
  }
}

}  // namespace
}  // namespace mneme
