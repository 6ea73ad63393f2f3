// The writing half of engine/checkpoint/checkpoint.h.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>

#include "data/hdf5_file.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/manifest.h"
#include "kernels/core/check.h"

namespace mneme {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kChunkBytes = int64_t{16} << 20;  // of Engram rows on their way to the file
constexpr int64_t kSyncBytes = int64_t{1} << 30;    // that may be written and not yet on the disk

H5Type FileType(DType dtype) { return dtype == DType::kF64 ? H5Type::kF64 : H5Type::kF32; }

std::string RankFile(int rank) {
  char name[32];
  std::snprintf(name, sizeof name, "rank-%05d.h5", rank);
  return name;
}

// A tensor's bytes on the host: its own memory, or a copy made once a call.
class HostView {
 public:
  const void* Of(Stream& stream, const Tensor& x) {
    if (x.device().is_cpu()) return x.raw();
    bytes_.resize(static_cast<size_t>(x.bytes()));
    Download(stream, x, bytes_.data(), x.bytes());
    return bytes_.data();
  }

 private:
  std::vector<char> bytes_;
};

// One rank's file while it is written, and its entries of the manifest.
struct PartWriter {
  Stream& stream;
  Pulse& pulse;
  std::string folder;
  std::string name;
  std::unique_ptr<H5File> file;
  CheckpointManifest part;
  HostView host;
  int64_t unsynced = 0;

  // Tells others that it gets on: a large file takes long. Pieces go to the disk now, since one
  // fsync of all of them could take longer than anyone waits.
  absl::Status Wrote(int64_t bytes) {
    pulse.Progress();
    unsynced += bytes;
    if (unsynced < kSyncBytes) return absl::OkStatus();
    unsynced = 0;
    return SyncPath(folder + "/" + name);
  }

  absl::Status WriteSlice(const Region::Slice& slice, const char* kind, const Tensor& values) {
    const Piece& piece = *slice.piece;
    const std::string dataset = std::string(kind) + "/" + piece.name;
    const int64_t rows = slice.row_end - slice.row_begin;
    RETURN_IF_ERROR(file->Write(dataset, FileType(values.dtype()), {rows, piece.cols},
                                host.Of(stream, values)));
    RETURN_IF_ERROR(Wrote(values.bytes()));
    part.slices.push_back(
        {piece.name, kind, name, dataset, slice.row_begin, slice.row_end, piece.rows, piece.cols});
    return absl::OkStatus();
  }
};

// Values and moments of the owned range: over all ranks, each piece once.
absl::Status WriteRegion(const RegionState& state, PartWriter& out) {
  const Region& region = *state.region;
  const int64_t base = region.owned.begin;
  for (const Region::Slice& slice : region.Slices(region.owned)) {
    const int64_t begin = slice.region_begin;
    const int64_t end = begin + (slice.row_end - slice.row_begin) * slice.piece->cols;
    const Tensor value = region.master.Flat(begin - base, end - base);
    RETURN_IF_ERROR(out.WriteSlice(slice, "value", value));
    const Tensor first = state.first.Flat(begin - base, end - base);
    RETURN_IF_ERROR(out.WriteSlice(slice, state.muon ? "muon_momentum" : "adam_m", first));
    if (state.muon) continue;
    const Tensor second = state.second.Flat(begin - base, end - base);
    RETURN_IF_ERROR(out.WriteSlice(slice, "adam_v", second));
  }
  return absl::OkStatus();
}

// Rows with state, streamed: the file is the only second copy.
absl::Status WriteTable(Context& context, RowExchange& table, PartWriter& out) {
  RowStore& store = table.store();
  const RowTableSpec& spec = store.spec();
  const H5Type type = FileType(spec.dtype);
  const int64_t count = store.materialised(/*with_state=*/true);
  const std::string group = "tables/" + spec.name;
  const int64_t chunk = std::max<int64_t>(1, kChunkBytes / (spec.width * SizeOf(spec.dtype)));
  int64_t begin = 0;
  do {  // once at least: an empty table has its datasets too
    const int64_t end = std::min(count, begin + chunk);
    const auto rows = [&] {
      return Tensor::Empty(context.stream, spec.dtype, {end - begin, spec.width},
                           MemoryTag::kExchange);
    };
    Tensor ids = Tensor::Empty(context.stream, DType::kI64, {end - begin}, MemoryTag::kExchange);
    Tensor values = rows();
    Tensor m = rows();
    Tensor v = rows();
    if (end > begin) store.Export(context.stream, begin, end, ids, values, m, v);
    const auto write = [&](const char* dataset, H5Type t, bool wide, const Tensor& x) {
      std::vector<int64_t> shape = {count};
      if (wide) shape.push_back(spec.width);
      return out.file->WriteRows(group + "/" + dataset, t, shape, begin, end - begin,
                                 out.host.Of(context.stream, x));
    };
    RETURN_IF_ERROR(write("ids", H5Type::kI64, false, ids));
    RETURN_IF_ERROR(write("values", type, true, values));
    RETURN_IF_ERROR(write("m", type, true, m));
    RETURN_IF_ERROR(write("v", type, true, v));
    RETURN_IF_ERROR(out.Wrote(ids.bytes() + values.bytes() + m.bytes() + v.bytes()));
    begin = end;
  } while (begin < count);
  const Layout& layout = context.mesh.layout;
  out.part.tables.push_back({spec.name, out.name, group, count, spec.rows, spec.width,
                             context.mesh.memory->rank(), layout.memory});
  return absl::OkStatus();
}

// What every rank holds alike is written by rank 0.
absl::Status WriteShared(const CheckpointMeta& meta, Stack& stack, PartWriter& out) {
  const auto& canonical = meta.vocabulary.canonical;
  RETURN_IF_ERROR(out.file->Write("vocabulary/canonical", H5Type::kI32,
                                  {static_cast<int64_t>(canonical.size())}, canonical.data()));
  for (const RouterState& router : stack.routers()) {
    const std::string dataset = "router_bias/" + router.name;
    const int64_t n = router.bias.elements();
    RETURN_IF_ERROR(out.file->Write(dataset, FileType(router.bias.dtype()), {1, n},
                                    out.host.Of(out.stream, router.bias)));
    out.part.slices.push_back({router.name, "router_bias", out.name, dataset, 0, 1, 1, n});
  }
  return absl::OkStatus();
}

absl::Status AddFile(Pulse& pulse, const std::string& folder, const std::string& name,
                     CheckpointManifest& part) {
  StoredFile entry;
  ASSIGN_OR_RETURN(entry.bytes, FileSize(folder + "/" + name));
  ASSIGN_OR_RETURN(entry.digest, FileDigest(folder + "/" + name, [&] { pulse.Progress(); }));
  part.files[name] = std::move(entry);
  return absl::OkStatus();
}

absl::StatusOr<CheckpointManifest> WriteOwnFile(World& world, Context& context,
                                                const std::string& folder,
                                                const CheckpointMeta& meta,
                                                const CheckpointPart& part) {
  PartWriter out{context.stream, world.pulse(), folder, RankFile(world.rank()), {}, {}, {}};
  ASSIGN_OR_RETURN(out.file, H5File::Create(folder + "/" + out.name));
  for (const RegionState& state : part.optimizer->state()) {
    RETURN_IF_ERROR(WriteRegion(state, out));
  }
  for (RowExchange* table : part.stack->tables()) {
    RETURN_IF_ERROR(WriteTable(context, *table, out));
  }
  if (world.rank() == 0) RETURN_IF_ERROR(WriteShared(meta, *part.stack, out));
  RETURN_IF_ERROR(out.file->Close());
  RETURN_IF_ERROR(AddFile(world.pulse(), folder, out.name, out.part));
  return std::move(out.part);
}

absl::Status WriteText(Pulse& pulse, const std::string& folder, const std::string& name,
                       const std::string& text, CheckpointManifest& whole) {
  RETURN_IF_ERROR(WriteFileAtomically(folder + "/" + name, text));
  return AddFile(pulse, folder, name, whole);
}

// Everything is on disk under a hidden name: the manifest makes it whole, the rename makes it seen.
absl::Status Publish(Pulse& pulse, const std::string& hidden, const std::string& final_path,
                     const CheckpointMeta& meta, CheckpointManifest& whole) {
  RETURN_IF_ERROR(WriteText(pulse, hidden, "config.yaml", meta.config, whole));
  if (!meta.vocabulary.tokenizer_json.empty()) {
    RETURN_IF_ERROR(
        WriteText(pulse, hidden, "tokenizer.json", meta.vocabulary.tokenizer_json, whole));
  }
  RETURN_IF_ERROR(WriteFileAtomically(hidden + "/manifest.json", DumpCheckpointManifest(whole)));
  RETURN_IF_ERROR(SyncPath(hidden));
  std::error_code error;
  const fs::path parent = fs::path(final_path).parent_path();
  if (fs::exists(final_path, error)) {  // torn, or its run was cut off before it counted
    const fs::path aside = parent / (".old-" + fs::path(final_path).filename().string());
    fs::remove_all(aside, error);
    fs::rename(final_path, aside, error);
    if (error) return FileError(final_path, "move aside", error.value());
  }
  fs::rename(hidden, final_path, error);
  if (error) return FileError(final_path, "publish", error.value());
  return SyncPath(parent.string());
}

absl::Status MakeHiddenFolder(const std::string& hidden) {
  std::error_code error;
  fs::remove_all(hidden, error);
  fs::create_directories(hidden, error);
  return error ? FileError(hidden, "make the folder", error.value()) : absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> SaveCheckpoint(World& world, Context& context,
                                           const std::string& folder, const RunPosition& position,
                                           const CheckpointMeta& meta, const CheckpointPart& part) {
  CHECK(part.store != nullptr && part.optimizer != nullptr && part.stack != nullptr);
  const std::string name = "step-" + std::to_string(position.step);
  const std::string hidden = folder + "/.saving-" + name;
  const std::string final_path = folder + "/" + name;
  const bool first = world.rank() == 0;
  const auto give_up = [&](const absl::Status& status) {
    world.Barrier();
    std::error_code ignored;
    if (first) fs::remove_all(hidden, ignored);
    return status;
  };

  absl::Status status = world.Agree(first ? MakeHiddenFolder(hidden) : absl::OkStatus());
  if (!status.ok()) return status;
  absl::StatusOr<CheckpointManifest> mine = WriteOwnFile(world, context, hidden, meta, part);
  status = world.Agree(mine.status());
  if (!status.ok()) return give_up(status);

  const std::vector<std::string> parts = world.AllGather(DumpPart(*mine));
  if (first) {
    CheckpointManifest whole;
    whole.position = position;
    whole.dtype = Name(Accurate(context.dtype));
    whole.ranks = world.size();
    whole.data_digest = meta.data_digest;
    whole.vocabulary = meta.vocabulary;
    for (const std::string& text : parts) MergePart(text, whole);
    status = Publish(world.pulse(), hidden, final_path, meta, whole);
  }
  status = world.Agree(status);
  if (!status.ok()) return give_up(status);
  return final_path;
}

}  // namespace mneme
