#include "data/hdf5_file.h"

#include <hdf5.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <mutex>
#include <utility>

#include "kernels/core/check.h"

namespace mneme {
namespace {

constexpr int64_t kPieceBytes = int64_t{1} << 30;

// Never destroyed: threads may still write when statics go.
std::mutex& Mutex() {
  static std::mutex& mutex = *new std::mutex;
  return mutex;
}

// An HDF5 id and the call that closes it.
class Id {
 public:
  Id(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  Id(const Id&) = delete;
  Id& operator=(const Id&) = delete;
  ~Id() {
    if (id_ >= 0) close_(id_);
  }
  hid_t get() const { return id_; }
  bool ok() const { return id_ >= 0; }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

struct TypeFacts {
  H5Type type;
  int64_t bytes;
  const char* name;
};
constexpr std::array<TypeFacts, 7> kTypes = {{{H5Type::kF32, 4, "f32"},
                                              {H5Type::kF64, 8, "f64"},
                                              {H5Type::kI32, 4, "i32"},
                                              {H5Type::kI64, 8, "i64"},
                                              {H5Type::kU8, 1, "u8"},
                                              {H5Type::kU16, 2, "u16"},
                                              {H5Type::kU32, 4, "u32"}}};

// File and memory type are one: we run on little-endian machines only. The H5T_ names are macros
// that start the library.
hid_t StoredType(H5Type type) {
  switch (type) {
    case H5Type::kF32:
      return H5T_IEEE_F32LE;
    case H5Type::kF64:
      return H5T_IEEE_F64LE;
    case H5Type::kI32:
      return H5T_STD_I32LE;
    case H5Type::kI64:
      return H5T_STD_I64LE;
    case H5Type::kU8:
      return H5T_STD_U8LE;
    case H5Type::kU16:
      return H5T_STD_U16LE;
    case H5Type::kU32:
      return H5T_STD_U32LE;
  }
  return -1;
}

// The innermost text of HDF5's error stack, which has the errno where the system refused.
herr_t KeepInnermost(unsigned number, const H5E_error2_t* error, void* out) {
  if (number == 0 && error->desc != nullptr) *static_cast<std::string*>(out) = error->desc;
  return 0;
}

// Turns the error stack into a status about `path` and clears it.
absl::Status StackError(const std::string& path, const std::string& deed) {
  std::string text;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, KeepInnermost, &text);
  H5Eclear2(H5E_DEFAULT);
  const std::string mark = "errno = ";
  const size_t at = text.find(mark);
  if (at != std::string::npos) {
    const int code = std::atoi(text.c_str() + at + mark.size());
    if (code != 0) return FileError(path, deed, code);
  }
  return absl::DataLossError(path + ": cannot " + deed + ": " +
                             (text.empty() ? "HDF5 gives no reason" : text));
}

int64_t Elements(const std::vector<int64_t>& shape, size_t first_dim) {
  int64_t count = 1;
  for (size_t i = first_dim; i < shape.size(); ++i) count *= shape[i];
  return count;
}

struct RowRange {
  int64_t begin;
  int64_t count;
};

// Bytes between memory and a dataset.
struct Transfer {
  hid_t set;
  hid_t type;
  bool write;
  char* bytes;  // read-only when writing

  bool Do(hid_t memory, hid_t stored, int64_t at) const {
    return (write ? H5Dwrite(set, type, memory, stored, H5P_DEFAULT, bytes + at)
                  : H5Dread(set, type, memory, stored, H5P_DEFAULT, bytes + at)) >= 0;
  }
};

class SerialFile final : public H5File {
 public:
  SerialFile(std::string path, hid_t file, bool writable)
      : path_(std::move(path)), file_(file), writable_(writable) {}
  ~SerialFile() override {
    const std::lock_guard<std::mutex> lock(Mutex());
    if (file_ >= 0) H5Fclose(file_);
  }

  absl::Status Write(const std::string& name, H5Type type, const std::vector<int64_t>& shape,
                     const void* data) override {
    const std::lock_guard<std::mutex> lock(Mutex());
    if (HasLink(name)) return Twice(name);
    RETURN_IF_ERROR(Make(name, type, shape));
    if (Elements(shape, 0) == 0) return absl::OkStatus();
    return Put(name, type, shape, 0, shape.empty() ? 1 : shape[0], data);
  }

  absl::Status WriteRows(const std::string& name, H5Type type,
                         const std::vector<int64_t>& full_shape, int64_t row_begin, int64_t rows,
                         const void* data) override {
    CHECK(!full_shape.empty());
    CHECK(row_begin >= 0 && rows >= 0 && row_begin + rows <= full_shape[0]);
    const std::lock_guard<std::mutex> lock(Mutex());
    if (!HasLink(name)) {
      RETURN_IF_ERROR(Make(name, type, full_shape));
    } else {
      ASSIGN_OR_RETURN(const H5DatasetInfo info, Describe(name));
      CHECK(info.type == type && info.shape == full_shape);
    }
    if (rows == 0 || Elements(full_shape, 1) == 0) return absl::OkStatus();
    return Put(name, type, full_shape, row_begin, rows, data);
  }

  absl::Status WriteText(const std::string& name, const std::string& text) override;
  absl::StatusOr<H5DatasetInfo> Info(const std::string& name) const override {
    const std::lock_guard<std::mutex> lock(Mutex());
    return Describe(name);
  }
  absl::Status Read(const std::string& name, H5Type type, void* data,
                    int64_t bytes) const override {
    const std::lock_guard<std::mutex> lock(Mutex());
    return Get(name, type, nullptr, data, bytes);
  }
  absl::Status ReadRows(const std::string& name, H5Type type, int64_t row_begin, int64_t rows,
                        void* data, int64_t bytes) const override {
    const std::lock_guard<std::mutex> lock(Mutex());
    const RowRange range = {row_begin, rows};
    return Get(name, type, &range, data, bytes);
  }
  absl::StatusOr<std::string> ReadText(const std::string& name) const override;
  bool Has(const std::string& name) const override {
    const std::lock_guard<std::mutex> lock(Mutex());
    return HasLink(name);
  }
  std::vector<std::string> Datasets() const override;
  absl::Status Close() override;

 private:
  std::string Deed(const std::string& deed, const std::string& name) const {
    return deed + " dataset '" + name + "'";
  }
  absl::Status Twice(const std::string& name) const {
    return absl::AlreadyExistsError(path_ + ": dataset '" + name + "' is written twice");
  }
  bool HasLink(const std::string& name) const;
  absl::Status MakeGroups(const std::string& name);
  absl::Status Make(const std::string& name, H5Type type, const std::vector<int64_t>& shape);
  absl::Status Put(const std::string& name, H5Type type, const std::vector<int64_t>& shape,
                   int64_t row_begin, int64_t rows, const void* data);
  absl::Status Move(const std::string& name, const Transfer& transfer, H5Type type,
                    const std::vector<int64_t>& shape, int64_t row_begin, int64_t rows) const;
  absl::Status Get(const std::string& name, H5Type type, const RowRange* range, void* data,
                   int64_t bytes) const;  // range: null for all
  absl::StatusOr<H5DatasetInfo> Describe(const std::string& name) const;

  const std::string path_;
  hid_t file_;
  const bool writable_;
};

// H5Lexists wants every group on the way to exist.
bool SerialFile::HasLink(const std::string& name) const {
  for (size_t slash = name.find('/', 1);; slash = name.find('/', slash + 1)) {
    if (H5Lexists(file_, name.substr(0, slash).c_str(), H5P_DEFAULT) <= 0) return false;
    if (slash == std::string::npos) return true;
  }
}

// Groups and datasets keep no times: the same content gives the same bytes.
absl::Status SerialFile::MakeGroups(const std::string& name) {
  const Id properties(H5Pcreate(H5P_GROUP_CREATE), H5Pclose);
  H5Pset_obj_track_times(properties.get(), 0);
  for (size_t slash = name.find('/', 1); slash != std::string::npos;
       slash = name.find('/', slash + 1)) {
    const std::string group = name.substr(0, slash);
    if (HasLink(group)) continue;
    const Id made(H5Gcreate2(file_, group.c_str(), H5P_DEFAULT, properties.get(), H5P_DEFAULT),
                  H5Gclose);
    if (!made.ok()) return StackError(path_, "make group '" + group + "'");
  }
  return absl::OkStatus();
}

absl::Status SerialFile::Make(const std::string& name, H5Type type,
                              const std::vector<int64_t>& shape) {
  CHECK(writable_);
  const std::vector<hsize_t> dims(shape.begin(), shape.end());
  const Id space(shape.empty()
                     ? H5Screate(H5S_SCALAR)
                     : H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr),
                 H5Sclose);
  RETURN_IF_ERROR(MakeGroups(name));
  const Id layout(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_layout(layout.get(), H5D_CONTIGUOUS);
  H5Pset_fill_time(layout.get(), H5D_FILL_TIME_NEVER);
  H5Pset_obj_track_times(layout.get(), 0);
  const Id set(H5Dcreate2(file_, name.c_str(), StoredType(type), space.get(), H5P_DEFAULT,
                          layout.get(), H5P_DEFAULT),
               H5Dclose);
  if (!set.ok()) return StackError(path_, Deed("make", name));
  return absl::OkStatus();
}

// Rows [row_begin, row_begin + rows) of a dataset, in pieces. An error is read off HDF5's stack
// before any other call of the library, a close even, can clear it.
absl::Status SerialFile::Move(const std::string& name, const Transfer& transfer, H5Type type,
                              const std::vector<int64_t>& shape, int64_t row_begin,
                              int64_t rows) const {
  const std::string deed = Deed(transfer.write ? "write" : "read", name);
  if (shape.empty()) {
    return transfer.Do(H5S_ALL, H5S_ALL, 0) ? absl::OkStatus() : StackError(path_, deed);
  }
  const Id space(H5Dget_space(transfer.set), H5Sclose);
  const int64_t row_bytes = Elements(shape, 1) * H5TypeBytes(type);
  const int64_t step = std::max<int64_t>(1, kPieceBytes / row_bytes);
  std::vector<hsize_t> start(shape.size(), 0);
  std::vector<hsize_t> count(shape.begin(), shape.end());
  for (int64_t row = 0; row < rows; row += step) {
    start[0] = static_cast<hsize_t>(row_begin + row);
    count[0] = static_cast<hsize_t>(std::min(step, rows - row));
    const Id memory(H5Screate_simple(static_cast<int>(count.size()), count.data(), nullptr),
                    H5Sclose);
    if (!memory.ok() ||
        H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, start.data(), nullptr, count.data(),
                            nullptr) < 0 ||
        !transfer.Do(memory.get(), space.get(), row * row_bytes)) {
      return StackError(path_, deed);
    }
  }
  return absl::OkStatus();
}

absl::Status SerialFile::Put(const std::string& name, H5Type type,
                             const std::vector<int64_t>& shape, int64_t row_begin, int64_t rows,
                             const void* data) {
  const Id set(H5Dopen2(file_, name.c_str(), H5P_DEFAULT), H5Dclose);
  if (!set.ok()) return StackError(path_, Deed("open", name));
  const Transfer transfer = {.set = set.get(),
                             .type = StoredType(type),
                             .write = true,
                             .bytes = static_cast<char*>(const_cast<void*>(data))};
  return Move(name, transfer, type, shape, row_begin, rows);
}

absl::Status SerialFile::Get(const std::string& name, H5Type type, const RowRange* range,
                             void* data, int64_t bytes) const {
  ASSIGN_OR_RETURN(const H5DatasetInfo info, Describe(name));
  if (info.type != type) {
    return absl::DataLossError(path_ + ": dataset '" + name + "' holds " + H5TypeName(info.type) +
                               ", expected " + H5TypeName(type));
  }
  const int64_t all_rows = info.shape.empty() ? 1 : info.shape[0];
  const RowRange rows = range != nullptr ? *range : RowRange{0, all_rows};
  const int64_t row_elements = Elements(info.shape, 1);
  if (rows.begin < 0 || rows.count < 0 || rows.begin > all_rows - rows.count ||
      rows.count * row_elements * H5TypeBytes(type) != bytes) {
    return absl::DataLossError(path_ + ": dataset '" + name + "' has " + std::to_string(all_rows) +
                               " rows of " + std::to_string(row_elements) +
                               " values, expected rows " + std::to_string(rows.begin) + " to " +
                               std::to_string(rows.begin + rows.count) + " in " +
                               std::to_string(bytes) + " bytes");
  }
  if (bytes == 0) return absl::OkStatus();
  const Id set(H5Dopen2(file_, name.c_str(), H5P_DEFAULT), H5Dclose);
  if (!set.ok()) return StackError(path_, Deed("open", name));
  const Transfer transfer = {.set = set.get(),
                             .type = StoredType(type),
                             .write = false,
                             .bytes = static_cast<char*>(data)};
  return Move(name, transfer, type, info.shape, rows.begin, rows.count);
}

absl::StatusOr<H5DatasetInfo> SerialFile::Describe(const std::string& name) const {
  if (!HasLink(name)) {
    H5Eclear2(H5E_DEFAULT);
    return absl::NotFoundError(path_ + ": has no dataset '" + name + "'");
  }
  const Id set(H5Dopen2(file_, name.c_str(), H5P_DEFAULT), H5Dclose);
  if (!set.ok()) return StackError(path_, Deed("open", name));
  const Id type(H5Dget_type(set.get()), H5Tclose);
  const Id space(H5Dget_space(set.get()), H5Sclose);
  H5DatasetInfo info;
  const auto found = std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeFacts& facts) {
    return H5Tequal(type.get(), StoredType(facts.type)) > 0;
  });
  if (found == kTypes.end()) {
    return absl::DataLossError(path_ + ": dataset '" + name + "' has a type that is not used here");
  }
  info.type = found->type;
  std::vector<hsize_t> dims(
      static_cast<size_t>(std::max(0, H5Sget_simple_extent_ndims(space.get()))));
  H5Sget_simple_extent_dims(space.get(), dims.data(), nullptr);
  info.shape.assign(dims.begin(), dims.end());
  const haddr_t offset = H5Dget_offset(set.get());
  H5Eclear2(H5E_DEFAULT);  // chunked or empty data has no offset, which HDF5 calls an error
  info.offset = offset == HADDR_UNDEF ? -1 : static_cast<int64_t>(offset);
  return info;
}

absl::Status SerialFile::WriteText(const std::string& name, const std::string& text) {
  const std::lock_guard<std::mutex> lock(Mutex());
  CHECK(writable_);
  if (HasLink(name)) return Twice(name);
  const Id type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type.get(), std::max<size_t>(1, text.size()));
  H5Tset_strpad(type.get(), H5T_STR_NULLPAD);
  H5Tset_cset(type.get(), H5T_CSET_UTF8);
  const Id space(H5Screate(text.empty() ? H5S_NULL : H5S_SCALAR), H5Sclose);
  RETURN_IF_ERROR(MakeGroups(name));
  const Id layout(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_obj_track_times(layout.get(), 0);
  const Id set(H5Dcreate2(file_, name.c_str(), type.get(), space.get(), H5P_DEFAULT, layout.get(),
                          H5P_DEFAULT),
               H5Dclose);
  if (!set.ok()) return StackError(path_, Deed("make", name));
  if (text.empty()) return absl::OkStatus();
  if (H5Dwrite(set.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, text.data()) < 0) {
    return StackError(path_, Deed("write", name));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> SerialFile::ReadText(const std::string& name) const {
  const std::lock_guard<std::mutex> lock(Mutex());
  if (!HasLink(name)) {
    H5Eclear2(H5E_DEFAULT);
    return absl::NotFoundError(path_ + ": has no dataset '" + name + "'");
  }
  const Id set(H5Dopen2(file_, name.c_str(), H5P_DEFAULT), H5Dclose);
  if (!set.ok()) return StackError(path_, Deed("open", name));
  const Id type(H5Dget_type(set.get()), H5Tclose);
  const Id space(H5Dget_space(set.get()), H5Sclose);
  if (H5Tget_class(type.get()) != H5T_STRING || H5Tis_variable_str(type.get()) != 0) {
    return absl::DataLossError(path_ + ": dataset '" + name + "' is not a text");
  }
  if (H5Sget_simple_extent_type(space.get()) == H5S_NULL) return std::string();
  if (H5Sget_simple_extent_npoints(space.get()) != 1) {
    return absl::DataLossError(path_ + ": dataset '" + name + "' is not one text");
  }
  std::string text(H5Tget_size(type.get()), '\0');
  if (H5Dread(set.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, text.data()) < 0) {
    return StackError(path_, Deed("read", name));
  }
  return text;
}

herr_t AddDataset(hid_t, const char* name, const H5O_info_t* info, void* out) {
  if (info->type == H5O_TYPE_DATASET) static_cast<std::vector<std::string>*>(out)->push_back(name);
  return 0;
}

std::vector<std::string> SerialFile::Datasets() const {
  const std::lock_guard<std::mutex> lock(Mutex());
  std::vector<std::string> names;
  H5Ovisit2(file_, H5_INDEX_NAME, H5_ITER_INC, AddDataset, &names, H5O_INFO_BASIC);
  H5Eclear2(H5E_DEFAULT);
  std::sort(names.begin(), names.end());
  return names;
}

absl::Status SerialFile::Close() {
  {
    const std::lock_guard<std::mutex> lock(Mutex());
    CHECK(file_ >= 0);
    const bool flushed = !writable_ || H5Fflush(file_, H5F_SCOPE_GLOBAL) >= 0;
    const absl::Status status = flushed ? absl::OkStatus() : StackError(path_, "write");
    const bool closed = H5Fclose(std::exchange(file_, -1)) >= 0;
    if (!status.ok() || closed) H5Eclear2(H5E_DEFAULT);
    RETURN_IF_ERROR(status);
    if (!closed) return StackError(path_, "write");
  }
  return writable_ ? SyncPath(path_) : absl::OkStatus();
}

// How every file is opened: no locks (network file systems, readers beside readers), the format of
// HDF5 1.8 with checksummed metadata, and data at multiples of 64 bytes so that a map of it is
// aligned.
hid_t Access() {
  // Before any other call: HDF5 1.10 crashes at exit over a file that a full disk kept from
  // closing. We close ours.
  H5dont_atexit();
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  H5Pset_file_locking(access, 0, 1);
  H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18);
  H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
  H5Pset_alignment(access, 1, 64);
  return access;
}

}  // namespace

int64_t H5TypeBytes(H5Type type) { return kTypes[static_cast<size_t>(type)].bytes; }
const char* H5TypeName(H5Type type) { return kTypes[static_cast<size_t>(type)].name; }

absl::StatusOr<std::unique_ptr<H5File>> H5File::Create(const std::string& path) {
  const std::lock_guard<std::mutex> lock(Mutex());
  const Id access(Access(), H5Pclose);
  const Id creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
  H5Pset_obj_track_times(creation.get(), 0);
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.get(), access.get());
  if (file < 0) return StackError(path, "create");
  return std::make_unique<SerialFile>(path, file, true);
}

absl::StatusOr<std::unique_ptr<H5File>> H5File::Open(const std::string& path) {
  RETURN_IF_ERROR(FileSize(path).status());
  const std::lock_guard<std::mutex> lock(Mutex());
  const Id access(Access(), H5Pclose);
  const htri_t is_hdf5 = H5Fis_hdf5(path.c_str());
  if (is_hdf5 == 0) return absl::DataLossError(path + ": is not an HDF5 file");
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get());
  if (file < 0) return StackError(path, "open");
  return std::make_unique<SerialFile>(path, file, false);
}

}  // namespace mneme
