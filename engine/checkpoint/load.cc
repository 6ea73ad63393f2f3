// The reading half of engine/checkpoint/checkpoint.h: every slice of the target layout, by row
// ranges of whatever files hold it.
#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <set>
#include <utility>

#include "data/hdf5_file.h"
#include "data/vocabulary_file.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/manifest.h"
#include "engine/checkpoint/source.h"
#include "kernels/core/check.h"
#include "parallel/reduce.h"

namespace mneme {
namespace {

constexpr int64_t kChunkBytes = int64_t{16} << 20;

// Rows [begin, end) of a piece into a tensor, wherever it lies.
absl::Status ReadInto(Stream& stream, CheckpointSource& source, const char* kind,
                      const std::string& name, int64_t rows, int64_t cols, int64_t begin,
                      int64_t end, Tensor& to) {
  std::vector<char> staged(to.device().is_cpu() ? 0 : static_cast<size_t>(to.bytes()));
  void* host = to.device().is_cpu() ? to.raw() : staged.data();
  RETURN_IF_ERROR(source.Read(kind, name, rows, cols, begin, end, to.dtype(), host));
  if (!staged.empty()) Upload(stream, staged.data(), to.bytes(), to);
  return absl::OkStatus();
}

// The owned range of a region: values always, moments where an optimizer wants them.
absl::Status ReadRegion(Stream& stream, CheckpointSource& source, Region& region,
                        RegionState* state) {
  for (const Region::Slice& slice : region.Slices(region.owned)) {
    const Piece& piece = *slice.piece;
    const int64_t begin = slice.region_begin;
    const int64_t end = begin + (slice.row_end - slice.row_begin) * piece.cols;
    const auto read = [&](const char* kind, Tensor to) {
      return ReadInto(stream, source, kind, piece.name, piece.rows, piece.cols, slice.row_begin,
                      slice.row_end, to);
    };
    const int64_t base = region.owned.begin;
    RETURN_IF_ERROR(read("value", region.master.Flat(begin - base, end - base)));
    if (state == nullptr) continue;
    RETURN_IF_ERROR(read(state->muon ? "muon_momentum" : "adam_m",
                         state->first.Flat(begin - base, end - base)));
    if (state->muon) continue;
    RETURN_IF_ERROR(read("adam_v", state->second.Flat(begin - base, end - base)));
  }
  return absl::OkStatus();
}

// Rows of one chunk of a table's file, in host memory.
struct RowChunk {
  std::vector<int64_t> ids;
  std::vector<char> values, m, v;

  // Moves row `from` to place `to` <= from.
  void Move(size_t from, size_t to, size_t row_bytes) {
    if (from == to) return;
    ids[to] = ids[from];
    for (std::vector<char>* column : {&values, &m, &v}) {
      if (column->empty()) continue;
      std::copy_n(column->data() + from * row_bytes, row_bytes, column->data() + to * row_bytes);
    }
  }
};

absl::StatusOr<RowChunk> ReadChunk(const H5File& file, const StoredTable& part, DType dtype,
                                   int64_t begin, int64_t end, bool with_state) {
  RowChunk chunk;
  const int64_t rows = end - begin;
  chunk.ids.resize(static_cast<size_t>(rows));
  RETURN_IF_ERROR(file.ReadRows(part.group + "/ids", H5Type::kI64, begin, rows, chunk.ids.data(),
                                rows * static_cast<int64_t>(sizeof(int64_t))));
  const int64_t bytes = rows * part.width * SizeOf(dtype);
  const auto read = [&](const char* dataset, std::vector<char>& to) {
    to.resize(static_cast<size_t>(bytes));
    return file.ReadRows(part.group + "/" + dataset, StoredType(dtype), begin, rows, to.data(),
                         bytes);
  };
  RETURN_IF_ERROR(read("values", chunk.values));
  if (!with_state) return chunk;
  RETURN_IF_ERROR(read("m", chunk.m));
  RETURN_IF_ERROR(read("v", chunk.v));
  return chunk;
}

// Those rows of a chunk that `keep` wants, in order, into the store.
template <class Keep>
void ImportRows(Stream& stream, RowStore& store, RowChunk chunk, bool with_state, Keep keep) {
  const RowTableSpec& spec = store.spec();
  const size_t row_bytes = static_cast<size_t>(spec.width * SizeOf(spec.dtype));
  size_t kept = 0;
  for (size_t i = 0; i < chunk.ids.size(); ++i) {
    if (keep(chunk.ids[i])) chunk.Move(i, kept++, row_bytes);
  }
  if (kept == 0) return;
  const int64_t n = static_cast<int64_t>(kept);
  const auto wrap = [&](std::vector<char>& x) {
    return Tensor::Wrap(x.data(), spec.dtype, {n, spec.width});
  };
  const Tensor ids = Tensor::Wrap(chunk.ids.data(), DType::kI64, {n});
  if (with_state) {
    store.Import(stream, ids, wrap(chunk.values), wrap(chunk.m), wrap(chunk.v), true);
  } else {
    store.Import(stream, ids, wrap(chunk.values), Tensor(), Tensor(), false);
  }
}

absl::Status ReadTablePart(Pulse& pulse, Context& context, CheckpointSource& source,
                           const StoredTable& part, RowStore& store, bool optimizer) {
  const RowTableSpec& spec = store.spec();
  const Layout& layout = context.mesh.layout;
  const int coordinate = context.mesh.memory->rank();
  // Ids of the file are phase modulo stride: none can be ours where the two residues never meet.
  const int64_t common = std::gcd(part.stride, static_cast<int64_t>(layout.memory));
  if (part.count == 0 || part.phase % common != coordinate % common) return absl::OkStatus();
  ASSIGN_OR_RETURN(const H5File* file, source.File(part.file));
  const int64_t chunk_rows = std::max<int64_t>(1, kChunkBytes / (spec.width * SizeOf(spec.dtype)));
  for (int64_t begin = 0; begin < part.count; begin += chunk_rows) {
    const int64_t end = std::min(part.count, begin + chunk_rows);
    ASSIGN_OR_RETURN(RowChunk chunk, ReadChunk(*file, part, spec.dtype, begin, end, optimizer));
    pulse.Progress();
    const auto here = [&](int64_t id) { return layout.row_coordinate(id) == coordinate; };
    if (!optimizer) {
      ImportRows(context.stream, store, std::move(chunk), false, here);
      continue;
    }
    const RowShare& share = store.share();
    const auto state_here = [&](int64_t id) { return here(id) && share.keeps_state(id); };
    const auto state_elsewhere = [&](int64_t id) { return here(id) && !share.keeps_state(id); };
    if (share.replicas > 1) {
      ImportRows(context.stream, store, chunk, false, state_elsewhere);
    }
    ImportRows(context.stream, store, std::move(chunk), true, state_here);
  }
  return absl::OkStatus();
}

absl::Status ReadTables(Pulse& pulse, Context& context, CheckpointSource& source, Stack& stack,
                        bool optimizer) {
  std::map<std::string, RowStore*> stores;
  for (RowExchange* table : stack.tables()) stores[table->store().spec().name] = &table->store();
  std::set<std::string> seen;
  for (const StoredTable& part : source.manifest().tables) {
    const auto it = stores.find(part.name);
    if (it == stores.end()) return ForeignCheckpoint(source.path(), "holds a table " + part.name);
    const RowTableSpec& spec = it->second->spec();
    if (spec.rows != part.rows || spec.width != part.width) {
      return ForeignCheckpoint(source.path(), part.name + " is " + std::to_string(part.rows) +
                                                  " x " + std::to_string(part.width) +
                                                  " there and " + std::to_string(spec.rows) +
                                                  " x " + std::to_string(spec.width) + " here");
    }
    RETURN_IF_ERROR(ReadTablePart(pulse, context, source, part, *it->second, optimizer));
    seen.insert(part.name);
  }
  for (const auto& [name, store] : stores) {
    if (!seen.contains(name)) return ForeignCheckpoint(source.path(), "holds no table " + name);
  }
  return absl::OkStatus();
}

absl::Status ReadEverything(Pulse& pulse, Context& context, CheckpointSource& source,
                            const CheckpointPart& part) {
  source.OnRead([&pulse] { pulse.Progress(); });
  if (source.manifest().dtype != Name(Accurate(context.dtype))) {
    return ForeignCheckpoint(source.path(), "is in " + source.manifest().dtype + ", the run in " +
                                                Name(Accurate(context.dtype)) +
                                                " (train.precision)");
  }
  const bool moments = part.optimizer != nullptr && source.manifest().moments;
  if (moments) {
    for (RegionState& state : part.optimizer->state()) {
      RETURN_IF_ERROR(ReadRegion(context.stream, source, *state.region, &state));
    }
  } else {
    for (Region* region : part.store->regions()) {
      RETURN_IF_ERROR(ReadRegion(context.stream, source, *region, nullptr));
    }
  }
  for (RouterState& router : part.stack->routers()) {
    RETURN_IF_ERROR(ReadInto(context.stream, source, "router_bias", router.name, 1,
                             router.bias.elements(), 0, 1, router.bias));
  }
  return ReadTables(pulse, context, source, *part.stack, moments);
}

// Everything in the checkpoint has a place in the model, too. Collective.
absl::Status CheckNothingLeft(World& world, const CheckpointSource& source, ParameterStore& store) {
  int64_t wanted = 0;
  for (const Region* region : store.regions()) {  // slices: a region also has gaps between them
    for (const Region::Slice& slice : region->Slices(region->owned)) {
      wanted += (slice.row_end - slice.row_begin) * slice.piece->cols;
    }
  }
  wanted = world.Sum(wanted);
  int64_t held = 0;
  for (const StoredSlice& slice : source.manifest().slices) {
    if (slice.kind == "value") held += (slice.end - slice.begin) * slice.cols;
  }
  if (held == wanted) return absl::OkStatus();
  return ForeignCheckpoint(source.path(), "holds " + std::to_string(held) +
                                              " values, the model has " + std::to_string(wanted));
}

}  // namespace

absl::Status VerifyCheckpoint(World& world, const std::string& path) {
  const absl::StatusOr<CheckpointManifest> manifest = ReadCheckpointManifest(path);
  RETURN_IF_ERROR(world.Agree(manifest.status()));
  return world.Agree(
      VerifyFiles(path, *manifest, world.rank(), world.size(), [&] { world.pulse().Progress(); }));
}

absl::StatusOr<RunPosition> LoadCheckpoint(World& world, Context& context, const std::string& path,
                                           const CheckpointPart& part) {
  absl::StatusOr<CheckpointManifest> manifest = ReadCheckpointManifest(path);
  RETURN_IF_ERROR(world.Agree(manifest.status()));
  CheckpointSource source(path, std::move(manifest).value());
  RETURN_IF_ERROR(CheckNothingLeft(world, source, *part.store));
  RETURN_IF_ERROR(world.Agree(ReadEverything(world.pulse(), context, source, part)));
  // Each rank read what it owns; the rest comes from its owners, as after an update.
  part.store->RoundMasters(context.stream, context.kernels);
  for (Region* region : part.store->regions()) GatherRead(context.stream, context.mesh, *region);
  return source.manifest().position;
}

absl::StatusOr<RunPosition> ReadCheckpointPosition(const std::string& path) {
  ASSIGN_OR_RETURN(const CheckpointManifest manifest, ReadCheckpointManifest(path));
  return manifest.position;
}

absl::StatusOr<CheckpointMeta> ReadCheckpointMeta(const std::string& path) {
  ASSIGN_OR_RETURN(CheckpointManifest manifest, ReadCheckpointManifest(path));
  CheckpointMeta meta;
  meta.data_digest = manifest.data_digest;
  meta.vocabulary = std::move(manifest.vocabulary);
  ASSIGN_OR_RETURN(meta.config, ReadFileBytes(path + "/config.yaml"));
  if (manifest.files.contains("tokenizer.json")) {
    ASSIGN_OR_RETURN(meta.vocabulary.tokenizer_json, ReadFileBytes(path + "/tokenizer.json"));
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<H5File> file, H5File::Open(path + "/rank-00000.h5"));
  std::vector<int32_t>& canonical = meta.vocabulary.canonical;
  ASSIGN_OR_RETURN(const H5DatasetInfo info, file->Info("vocabulary/canonical"));
  if (info.shape.size() != 1 || info.shape[0] != meta.vocabulary.size) {
    return absl::DataLossError(path + ": its canonical map has not one entry an id");
  }
  canonical.resize(static_cast<size_t>(info.shape[0]));
  RETURN_IF_ERROR(file->Read("vocabulary/canonical", H5Type::kI32, canonical.data(),
                             info.shape[0] * static_cast<int64_t>(sizeof(int32_t))));
  if (!VocabularyFits(meta.vocabulary)) {
    return absl::DataLossError(path + ": states ids that lie outside its vocabulary");
  }
  return meta;
}

}  // namespace mneme
