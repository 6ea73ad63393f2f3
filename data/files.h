// Files as the world gives them: digests, whole reads, and writes that are never seen half done.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mneme {

// "<path>: cannot <deed>: <reason>" as a status: NotFound, PermissionDenied, ResourceExhausted
// (disk full, with what to do), DataLoss (the device fails), InvalidArgument (no such kind of path)
// or Unavailable. `code` is an errno.
absl::Status FileError(const std::string& path, const std::string& deed, int code);

// XXH3-64 of a file's bytes, 16 hex digits. `on_piece` is called after every MiB.
absl::StatusOr<std::string> FileDigest(const std::string& path,
                                       const std::function<void()>& on_piece = {});
std::string BytesDigest(const std::string& bytes);
uint64_t BytesHash(const void* data, size_t bytes);

// A number in a text that is digested or compared with one made before: six decimals where they
// read back to it, else the shortest text that does. So equal texts are equal numbers.
std::string ExactText(double value);

// Writes path.tmp, fsyncs, renames, fsyncs the folder: a reader sees the old file or the new one,
// never a part. On failure path.tmp is removed.
absl::Status WriteFileAtomically(const std::string& path, const std::string& bytes);
absl::StatusOr<std::string> ReadFileBytes(const std::string& path);
absl::StatusOr<int64_t> FileSize(const std::string& path);  // InvalidArgument: no regular file

// A folder's entries, in no order; an error, also one in the middle, as FileError says it. (A loop
// over a directory_iterator ends the program where the file system fails under way.)
absl::StatusOr<std::vector<std::filesystem::directory_entry>> ListFolder(const std::string& folder);

// fsync of a file or a folder: what it holds (a folder: its names) outlives a power cut.
absl::Status SyncPath(const std::string& path);

}  // namespace mneme
