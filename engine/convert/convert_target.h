// The two formats on their way out: the files of a plan, then what stands beside them.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/convert/conversion_plan.h"
#include "engine/convert/convert.h"
#include "engine/convert/model_source.h"
#include "engine/convert/work_folder.h"

namespace mneme {

// A conversion under way: what Convert has made out, handed to the writers. Borrows.
struct Conversion {
  const ConvertOptions& options;
  ModelSource& source;
  std::string architecture;         // of an export (ArchitectureOf); else empty
  Element element = Element::kF32;  // of weights that need not be accurate
  std::vector<PlannedFile> files;   // of weights, in order
};

// Writes those files of the plan that `work` does not have yet, one after another, each under its
// name once it is whole; tells of each by options.say. Errors: of reading the source; files.
absl::Status WriteForeignFiles(Conversion& conversion, WorkFolder& work);
absl::Status WriteCheckpointFiles(Conversion& conversion, WorkFolder& work);

// After the files of weights. config.json, index, tokenizer files, mneme.json, vocabulary, modeling
// code where it is needed.
absl::Status WriteForeignSides(const Conversion& conversion, const WorkFolder& work);
// config.yaml, tokenizer.json, manifest.json: weights without moments, which an optimizer begins
// anew.
absl::Status WriteCheckpointSides(const Conversion& conversion, const WorkFolder& work);

// certificate.json: every tensor by both names with dtype and rows, every file with its digest,
// what was left out or made. The last file. logits_json: a JSON value.
absl::Status WriteCertificate(const Conversion& conversion, const WorkFolder& work,
                              const std::string& logits_json);

}  // namespace mneme
