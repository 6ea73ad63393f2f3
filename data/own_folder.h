// What may be taken away of a folder: what its maker is known to have put there, by name. All else
// is somebody's: it is named, and stays.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"

namespace mneme {

// Whether the maker of a folder gives this path, relative to it ("train/shard-00000.h5"), to a
// folder (`is_folder`) or to a regular file. Files in a folder that is not its own are not asked
// for.
using OwnPaths = std::function<bool(const std::string& path, bool is_folder)>;

// OK where `folder` is a folder and holds nothing but what `own` knows. FailedPrecondition naming
// what is foreign: another path below it, a link or a device even under a known name, or `folder`
// itself where it is a link or no folder. `maker` stands in the message: "mneme prepare".
absl::Status CheckOwn(const std::string& folder, const OwnPaths& own, const std::string& maker);

// CheckOwn, then removes what is there but for the file `keep` ("": for nothing), one by one.
// Nothing is removed where something is foreign, and nothing foreign that comes in meanwhile.
absl::Status EmptyOwn(const std::string& folder, const OwnPaths& own, const std::string& maker,
                      const std::string& keep);
// The same, and the folder itself; OK where there is none.
absl::Status RemoveOwn(const std::string& folder, const OwnPaths& own, const std::string& maker);

// OK where an output may be written to `path`, which a person typed: nothing is there, or a file
// that begins like one (`begins`, as "<svg") or is empty. FailedPrecondition otherwise: it would be
// lost.
absl::Status CheckMayWrite(const std::string& path, const std::string& begins);

}  // namespace mneme
