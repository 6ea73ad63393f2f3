// Rows of a spread table: from the text of a micro-batch to the rows that a layer reads, and their
// gradients back, beside grouped ncclSend and ncclRecv of the same bytes. Latencies are those of
// the slowest rank by its GPU's clock, medians of rounds.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "kernels/core/arrival.h"
#include "kernels/core/random.h"
#include "parallel/carry.h"
#include "parallel/row_exchange.h"
#include "tests/bench/gpu_ranks.h"

namespace mneme::bench {
namespace {

constexpr int64_t kTokens = 8192;  // of a micro-batch
constexpr int64_t kLength = 4096;
constexpr int64_t kVocabulary = 129280;
constexpr int64_t kHeads = 8;  // for each of two orders
constexpr int64_t kHeadRows = 2'262'400;
constexpr int64_t kWidth = 80;
constexpr int kTexts = 4;
constexpr int kRounds = 15;
constexpr int kInARow = 20;

// Words of a text: u⁴ of a uniform u, of which hardly an n-gram comes twice; or as words of a
// language come, the k-th most frequent by a share of k^-1.1.
enum class Words { kRare, kZipf };

std::vector<int32_t> DrawText(Words words, RandomKey key, int64_t first) {
  std::vector<double> below;
  double sum = 0;
  for (int64_t k = 1; words == Words::kZipf && k <= kVocabulary; ++k) {
    below.push_back(sum += std::pow(static_cast<double>(k), -1.1));
  }
  std::vector<int32_t> text;
  for (int64_t t = 0; t < kTokens; ++t) {
    const double u = RandomUniform(key, static_cast<uint64_t>(first + t));
    const auto at = std::lower_bound(below.begin(), below.end(), u * sum) - below.begin();
    text.push_back(words == Words::kZipf ? static_cast<int32_t>(at)
                                         : static_cast<int32_t>(u * u * u * u * kVocabulary));
  }
  return text;
}

Tensor Put(Machine& m, const std::vector<int32_t>& host) {
  Tensor x = Tensor::Empty(m.stream, DType::kI32, {static_cast<int64_t>(host.size())});
  Upload(m.stream, host.data(), x.bytes(), x);
  return x;
}

// A table as large as one of Engram-27B's, and the texts of micro-batches.
struct Table {
  explicit Table(Machine& m) : machine(m) {
    hash.orders = {2, 3};
    hash.heads = kHeads;
    hash.multipliers = {0x3243f6a8885a309, 0x13198a2e0370735, 0x243f6a8885a308d};
    for (int64_t i = 0; i < 2 * kHeads; ++i) {
      hash.primes.push_back(kHeadRows - 2 * i - 1);
      hash.offsets.push_back(i * kHeadRows);
    }
    std::vector<int32_t> same(kVocabulary);
    std::iota(same.begin(), same.end(), 0);
    canonical = Put(m, same);
    doc_start = Put(m, std::vector<int32_t>(kTokens, 0));
    RowTableSpec spec;
    spec.name = "table";
    spec.rows = 2 * kHeads * kHeadRows;
    spec.width = kWidth;
    spec.init = {MakeKey(1, spec.name), 0.02};
    auto made = DeviceStore::Make(m.stream, *GpuKernels(), spec, true, m.mesh.memory->rank(),
                                  m.mesh.memory->size());
    if (!made.ok()) Fatal(__FILE__, __LINE__, std::string(made.status().message()));
    store = made->get();
    rows = MakeSpreadExchange(*m.mesh.memory, *m.mesh.memory_replicas, *GpuKernels(),
                              *std::move(made));
  }
  void Take(Words words) {
    texts.clear();
    const RandomKey key = MakeKey(static_cast<uint64_t>(machine.world.rank()), "text");
    for (int b = 0; b < kTexts; ++b) {
      texts.push_back(Put(machine, DrawText(words, key, b * kTokens)));
    }
  }
  RowQuery Query(int i) const {
    return {hash, texts[static_cast<size_t>(i % kTexts)], canonical, kLength, doc_start};
  }
  // A step of the micro-batches that were pushed, which moves nothing.
  void EndStep() {
    rows->ReduceGradients(machine.stream);
    Tensor squares = Tensor::Zeros(machine.stream, DType::kF64, {1});
    rows->SumSquares(machine.stream, squares);
    const Tensor still = Tensor::Zeros(machine.stream, DType::kF64, {kStepScalars});
    rows->Update(machine.stream, still);
  }

  Machine& machine;
  NgramHash hash;
  Tensor canonical, doc_start;
  std::vector<Tensor> texts;
  DeviceStore* store = nullptr;  // of `rows`
  std::unique_ptr<RowExchange> rows;
};

double MedianLatency(Machine& m, const std::function<void()>& call) {
  std::vector<double> seconds;
  m.Latency(call);
  for (int i = 0; i < kRounds; ++i) seconds.push_back(m.Latency(call));
  return Median(seconds);
}

double WireOf(Machine& m, RawNccl& raw, double bytes) {
  const int64_t others = m.world.size() - 1;
  const int64_t part = static_cast<int64_t>(bytes) / others / 16 * 16;
  const Tensor in = m.Random(DType::kU8, {part * others, 1});
  Tensor out = Tensor::Empty(m.stream, DType::kU8, {part * others, 1});
  return MedianLatency(m, [&] { raw.AllToAll(m.stream, in, out, part); });
}

// Each stage of an exchange on its own: the calls of parallel/spread_exchange.cc.
void TellStages(Table& table, const FetchedRows& fetched, const Tensor& drows) {
  Machine& m = table.machine;
  Stream& s = m.stream;
  Comm& axis = *m.mesh.memory;
  const Kernels& k = *GpuKernels();
  const int64_t n = fetched.inverse.elements();
  const auto me = static_cast<size_t>(axis.rank());
  const auto tell = [&](const char* what, const std::function<void()>& call) {
    const double seconds = MedianLatency(m, call);
    if (m.world.rank() == 0) std::printf("    %-42s %7.1f us\n", what, seconds * 1e6);
  };
  Tensor ids = Tensor::Empty(s, DType::kI64, {kTokens, n / kTokens});
  const RowQuery query = table.Query(0);
  tell("hash", [&] {
    k.ngram_rows(s, query.hash, query.tokens, query.canonical, kLength, query.doc_start, ids);
  });
  const Tensor flat = ids.Reshape({n});
  Tensor unique = Tensor::Empty(s, DType::kI64, {n});
  Tensor inverse = Tensor::Empty(s, DType::kI32, {n}), order = Tensor::Empty(s, DType::kI32, {n});
  Tensor counts = Tensor::Empty(s, DType::kI64, {2 * axis.size()});
  Tensor asked = counts.Flat(0, axis.size());
  Tensor asked_here = counts.Flat(axis.size(), 2 * axis.size());
  tell("distinct ids by owner",
       [&] { k.unique_ids(s, flat, table.store->spec().rows, unique, inverse, order, asked); });
  const std::vector<int64_t> one_each(static_cast<size_t>(axis.size()), 1);
  tell("counts to the owners", [&] { axis.AllToAll(s, asked, one_each, asked_here, one_each); });
  tell("counts to the owners and to the host", [&] {
    axis.AllToAll(s, asked, one_each, asked_here, one_each);
    Arrival arrival(s, counts);
    ReadCounts(axis, arrival, 1);
  });
  tell("numbers to the owners", [&] { Carry(s, axis, fetched.ids, fetched.send, fetched.recv); });
  std::vector<int64_t> leaving = fetched.recv, coming = fetched.send;
  const int64_t own = leaving[me];
  leaving[me] = coming[me] = 0;
  const Tensor others = Tensor::Empty(s, DType::kI64, {Total(leaving)});
  const int64_t before =
      std::accumulate(leaving.begin(), leaving.begin() + axis.rank(), int64_t{0});
  const auto copy = [&](int64_t begin, int64_t end, int64_t to) {
    Tensor part = others.Rows(to, to + end - begin);
    if (end > begin) k.copy(s, fetched.asked.Rows(begin, end), part);
  };
  copy(0, before, 0);
  copy(before + own, fetched.asked.elements(), before);
  Tensor found = Tensor::Empty(s, DType::kBf16, {others.elements(), kWidth});
  tell("rows gathered for others", [&] { k.gather_rows(s, table.store->values(), others, found); });
  tell("rows on the wire", [&] { Carry(s, axis, found, leaving, coming); });
  const Tensor came = Carry(s, axis, found, leaving, coming);
  const int64_t first = std::accumulate(coming.begin(), coming.begin() + axis.rank(), int64_t{0});
  Tensor rows = Tensor::Empty(s, DType::kBf16, {n, kWidth});
  tell("rows to their requests", [&] {
    k.deal_rows(s, table.store->values(), fetched.ids.Rows(first, first + own), first, came,
                fetched.inverse, rows);
  });
  Tensor summed = Tensor::Empty(s, DType::kF32, {fetched.ids.elements(), kWidth});
  tell("gradients summed by row",
       [&] { k.sum_unique(s, drows, fetched.inverse, fetched.order, summed); });
  tell("gradients on the wire", [&] { Carry(s, axis, summed, fetched.send, fetched.recv); });
}

// Announced with the gradients of the micro-batch before, as in a step.
double AnnouncedLatency(Table& table, const Tensor& drows) {
  Machine& m = table.machine;
  std::vector<double> seconds;
  FetchedRows fetched = table.rows->Fetch(m.stream, table.Query(0), DType::kBf16).Wait(m.stream);
  for (int i = 1; i <= kRounds + 1; ++i) {
    table.rows->Announce(m.stream, table.Query(i));
    table.rows->PushGradient(m.stream, fetched, drows);
    seconds.push_back(m.Latency([&] {
      fetched = table.rows->Fetch(m.stream, table.Query(i), DType::kBf16).Wait(m.stream);
    }));
    table.EndStep();
  }
  seconds.erase(seconds.begin());
  return Median(seconds);
}

void MeasureTexts(Table& table, RawNccl& raw, Words words) {
  Machine& m = table.machine;
  RowExchange& rows = *table.rows;
  table.Take(words);
  int asked = 0;
  FetchedRows fetched;
  const auto fetch = [&] {
    fetched = rows.Fetch(m.stream, table.Query(asked++), DType::kBf16).Wait(m.stream);
  };
  fetch();
  rows.ResetTraffic();
  fetch();
  const RowTraffic traffic = rows.traffic();
  const auto mean = [&](int64_t x) {
    return static_cast<double>(m.world.Sum(x)) / static_cast<double>(m.world.size());
  };
  const double remote = mean(traffic.remote), sent = mean(traffic.bytes);
  const double distinct = mean(traffic.unique), requested = mean(traffic.requested);
  const bool speaks = m.world.rank() == 0;
  if (speaks) {
    std::printf("rows, %s: %.0f requests, %.0f distinct (%.3f), %.0f of them elsewhere\n",
                words == Words::kZipf ? "words by Zipf 1.1" : "rare words", requested, distinct,
                distinct / requested, remote);
  }
  const double wire = WireOf(m, raw, sent);
  const double row_wire =
      WireOf(m, raw, remote * static_cast<double>(kWidth * SizeOf(DType::kBf16)));
  const Tensor drows = m.Random(DType::kBf16, {table.Query(0).requests(), kWidth});
  const auto tell = [&](const char* what, double seconds) {
    if (!speaks) return;
    std::printf("  %-44s %7.1f us, %.2f of the wire's\n", what, seconds * 1e6, seconds / wire);
    std::fflush(stdout);
  };
  tell("wire: counts, numbers, rows", wire);
  tell("wire: rows alone", row_wire);
  tell("ids to rows, nothing announced", MedianLatency(m, fetch));
  tell("ids to rows, announced", AnnouncedLatency(table, drows));
  rows.Announce(m.stream, table.Query(asked));
  const auto ahead = [&] {
    rows.Announce(m.stream, table.Query(asked + 1));
    fetch();
  };
  std::vector<double> seconds;
  for (int i = 0; i < kRounds; ++i) seconds.push_back(m.Time(kInARow, ahead));
  tell("announced and fetched, one after another", Median(seconds));
  fetch();
  TellStages(table, fetched, drows);
}

}  // namespace

void MeasureRows(Machine& m, RawNccl& raw) {
  Table table(m);
  for (const Words words : {Words::kRare, Words::kZipf}) MeasureTexts(table, raw, words);
}

}  // namespace mneme::bench
