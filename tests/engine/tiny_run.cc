#include "tests/engine/tiny_run.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "configs/load.h"
#include "data/hdf5_file.h"
#include "data/prepare.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/manifest.h"
#include "engine/machine/machine.h"
#include "engine/update/optimizer.h"
#include "kernels/core/random.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRunFile = R"(
model:
  layers: 2
  hidden: 24
  dense_width: 48
  leading_dense: 1
  init_std: 0.05
  mla: {heads: 2, kv_lora_rank: 16, qk_nope: 8, qk_rope: 4, v_head: 8}
  mhc: {streams: 2, sinkhorn_iterations: 5}
  moe: {experts: 16, shared: 1, top_k: 2, expert_width: 12}
  engram: {blocks: [1], orders: [2, 3], heads: 2, d_mem: 16, vocab_size: 500}
data: {train: train}
train:
  steps: 20
  sequence_length: 384
  batch_sequences: 12
  precision: f64
  log_every: 1000
optim: {lr: 4e-3, schedule: {shape: constant, warmup: 5}}
device: cpu
)";

void Write(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::string Bytes(const void* data, size_t n) {
  return std::string(static_cast<const char*>(data), n);
}

H5Type RealType(const CheckpointManifest& m) {
  return m.dtype == "f64" ? H5Type::kF64 : H5Type::kF32;
}

std::string ReadAll(const H5File& file, const std::string& dataset, H5Type type, int64_t count) {
  std::string bytes(static_cast<size_t>(count * H5TypeBytes(type)), '\0');
  EXPECT_TRUE(file.Read(dataset, type, bytes.data(), static_cast<int64_t>(bytes.size())).ok());
  return bytes;
}

// Rows of all parts of a table by id: "id, value, m, v" whoever wrote them.
void AddTables(const std::string& path, const CheckpointManifest& manifest,
               std::map<std::string, std::string>& state) {
  const H5Type type = RealType(manifest);
  std::map<std::string, std::map<int64_t, std::string>> tables;
  for (const StoredTable& part : manifest.tables) {
    auto file = H5File::Open(path + "/" + part.file).value();
    const std::string ids = ReadAll(*file, part.group + "/ids", H5Type::kI64, part.count);
    const size_t row = static_cast<size_t>(part.width * H5TypeBytes(type));
    std::array<std::string, 3> columns;
    for (size_t c = 0; c < 3; ++c) {
      const char* names[] = {"/values", "/m", "/v"};
      columns[c] = ReadAll(*file, part.group + names[c], type, part.count * part.width);
    }
    for (size_t i = 0; i < static_cast<size_t>(part.count); ++i) {
      int64_t id;
      std::memcpy(&id, ids.data() + i * sizeof id, sizeof id);
      std::string& bytes = tables[part.name][id];
      EXPECT_TRUE(bytes.empty()) << part.name << " has row " << id << " twice";
      for (const std::string& column : columns) bytes += column.substr(i * row, row);
    }
  }
  for (const auto& [name, rows] : tables) {
    for (const auto& [id, bytes] : rows) state[name + "/" + std::to_string(id)] = bytes;
  }
}

}  // namespace

TempFolder::TempFolder() {
  std::string pattern = (fs::temp_directory_path() / "mneme_test_XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) std::abort();
  path_ = pattern;
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

std::string MakeText(uint64_t seed, int64_t bytes) {
  static constexpr const char* kWords[] = {"the",  "old",   "river",  "runs",   "under", "a",
                                           "tall", "stone", "bridge", "and",    "small", "boats",
                                           "wait", "there", "until",  "morning"};
  const RandomKey key = MakeKey(seed, "test text");
  std::string text;
  int64_t word = 0;
  for (uint64_t i = 0; static_cast<int64_t>(text.size()) < bytes; ++i) {
    text += kWords[word];
    const int64_t draw = RandomInt(key, i, 16);
    word = draw < 12 ? (word * 5 + 1) % 16 : draw;
    text += draw == 15 ? (RandomInt(key, i + (1u << 30), 3) == 0 ? ".\n\n" : ". ") : " ";
  }
  return text;
}

void PrepareText(const std::string& text, const std::string& folder) {
  const std::string input = folder + ".txt";
  Write(input, text);
  PrepareOptions options;
  options.inputs = {input};
  options.output = folder;
  options.blank_lines = 1;
  const auto report = Prepare(options);
  ASSERT_TRUE(report.ok()) << report.status();
}

RunConfig TinyRun(const std::string& folder, const std::vector<std::string>& overrides) {
  if (!fs::exists(folder + "/train")) {
    PrepareText(MakeText(1, 200'000), folder + "/train");
    PrepareText(MakeText(2, 20'000), folder + "/held_out");
    Write(folder + "/tiny.yaml", kRunFile);
  }
  std::vector<std::string> all = {"run.dir=" + folder + "/run"};
  all.insert(all.end(), overrides.begin(), overrides.end());
  absl::StatusOr<RunConfig> config = LoadConfig(folder + "/tiny.yaml", all);
  EXPECT_TRUE(config.ok()) << config.status();
  return config.value_or(RunConfig());
}

Outcome TrainOn(World& world, const RunConfig& config, int64_t stop_at_step) {
  Outcome outcome;
  TrainHooks hooks;
  hooks.say = [&](const std::string& line) { outcome.said.push_back(line); };
  hooks.stop_at_step = stop_at_step;
  hooks.on_step = [&](const StepReport& report) { outcome.steps.push_back(report); };
  const absl::StatusOr<TrainResult> result = Train(world, config, hooks);
  outcome.status = result.status();
  if (result.ok()) {
    outcome.exit_code = result->exit_code;
    outcome.message = result->message;
  } else {
    outcome.exit_code = ExitCode(result.status());
    outcome.message = std::string(result.status().message());
  }
  return outcome;
}

Outcome TrainThreads(int ranks, const RunConfig& config, int64_t stop_at_step) {
  Outcome first;
  ThreadWorld::Run(ranks, [&](World& world) {
    Outcome mine = TrainOn(world, config, stop_at_step);
    if (world.rank() == 0) first = std::move(mine);
  });
  return first;
}

std::vector<double> Told(const Outcome& outcome, const std::string& name) {
  std::vector<double> values;
  for (const StepReport& step : outcome.steps)
    for (const auto& [key, value] : step.more)
      if (key == name) values.push_back(value);
  return values;
}

std::vector<double> Losses(const Outcome& outcome) {
  std::vector<double> losses;
  for (const StepReport& step : outcome.steps) losses.push_back(step.loss);
  return losses;
}

std::vector<std::pair<std::string, std::string>> CheckpointState(const std::string& path) {
  const absl::StatusOr<CheckpointManifest> manifest = ReadCheckpointManifest(path);
  EXPECT_TRUE(manifest.ok()) << manifest.status();
  if (!manifest.ok()) return {};
  std::map<std::string, std::string> state;
  const RunPosition& p = manifest->position;
  const int64_t numbers[] = {p.step,         p.updates, p.stage,           p.stage_step,
                             p.stage_sample, p.tokens,  p.skipped_in_a_row};
  state["position"] = Bytes(numbers, sizeof numbers) +
                      Bytes(p.recent_losses.data(), p.recent_losses.size() * sizeof(double));
  const H5Type type = RealType(*manifest);
  // A piece cut between owners comes together in order of rows.
  std::map<std::string, std::map<int64_t, std::string>> pieces;
  for (const StoredSlice& slice : manifest->slices) {
    auto file = H5File::Open(path + "/" + slice.file).value();
    std::string& bytes = pieces[slice.kind + "/" + slice.name][slice.begin];
    EXPECT_TRUE(bytes.empty()) << slice.name << " is written twice";
    bytes = ReadAll(*file, slice.dataset, type, (slice.end - slice.begin) * slice.cols);
  }
  for (const auto& [name, parts] : pieces) {
    for (const auto& [begin, bytes] : parts) state[name] += bytes;
  }
  AddTables(path, *manifest, state);
  return {state.begin(), state.end()};
}

std::map<std::string, std::string> LoadAndSave(World& world, const Kernels& kernels, Device device,
                                               const RunConfig& config, const std::string& from,
                                               const std::string& to) {
  std::map<std::string, std::string> reads;
  const CheckpointMeta meta = ReadCheckpointMeta(from).value();
  const Layout layout = MakeLayout(config.parallel, world.size()).value();
  Machine machine(world, layout, PrecisionOf(config), device);
  Context context{kernels, machine.stream, machine.mesh, PrecisionOf(config)};
  ModelConfig model = config.model;
  model.vocab_size = meta.vocabulary.size;
  ParameterStore store;
  const auto stack =
      Stack::Make(context, model, MakeVocabulary(model, meta.vocabulary), {}, 0, store).value();
  store.Allocate(machine.stream, context.dtype, layout, world.rank());
  Optimizer optimizer(context, config.optim, model, config.train.skip, store, *stack);
  const CheckpointPart part = {&store, &optimizer, stack.get()};
  const auto position = LoadCheckpoint(world, context, from, part);
  EXPECT_TRUE(position.ok()) << position.status();
  if (!position.ok()) return reads;
  for (const auto& parameter : store.parameters()) {
    for (const Piece& piece : parameter->pieces) {
      const Tensor value = parameter->value.Flat(piece.offset, piece.offset + piece.elements());
      std::string& bytes = reads[piece.name];
      bytes.resize(static_cast<size_t>(value.bytes()));
      Download(machine.stream, value, bytes.data(), value.bytes());
    }
  }
  const auto saved = SaveCheckpoint(world, context, to, *position, meta, part);
  EXPECT_TRUE(saved.ok()) << saved.status();
  return reads;
}

void ExpectRoundedFrom(const std::vector<std::pair<std::string, std::string>>& state,
                       const std::map<std::string, std::string>& reads) {
  const std::map<std::string, std::string> stored(state.begin(), state.end());
  size_t rounded = 0;
  for (const auto& [name, bytes] : reads) {
    const std::string& exact = stored.at("value/" + name);
    if (bytes.size() == exact.size()) {
      EXPECT_EQ(bytes, exact) << name;
      continue;
    }
    ++rounded;
    ASSERT_EQ(2 * bytes.size(), exact.size()) << name;
    for (size_t i = 0; 2 * i < bytes.size(); ++i) {
      float value;
      uint16_t bits;
      std::memcpy(&value, exact.data() + 4 * i, sizeof value);
      std::memcpy(&bits, bytes.data() + 2 * i, sizeof bits);
      ASSERT_EQ(bits, BFloat16(value).bits) << name << " element " << i;
    }
  }
  EXPECT_GT(rounded, 0u);
  EXPECT_LT(rounded, reads.size());
}

std::vector<std::string> MetricsState(const std::string& path) {
  std::vector<std::string> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const nlohmann::json j = nlohmann::json::parse(line);
    nlohmann::json kept;
    for (const char* key : {"step", "loss", "grad_norm", "tokens", "learning_rate"}) {
      kept[key] = j.at(key);
    }
    lines.push_back(kept.dump());
  }
  return lines;
}

}  // namespace mneme
