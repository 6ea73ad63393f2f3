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

// A conversion under way.
struct Conversion {
  const ConvertOptions& options;
  ModelSource& source;
  std::string architecture;  // of an export
  Element element = Element::kF32;
  std::vector<PlannedFile> files;
};

// Writes those files of the plan that `work` does not have yet.
absl::Status WriteForeignFiles(Conversion& conversion, WorkFolder& work);
absl::Status WriteCheckpointFiles(Conversion& conversion, WorkFolder& work);

// config.json, index, tokenizer files, mneme.json, vocabulary, modeling code where it is needed.
absl::Status WriteForeignSides(const Conversion& conversion, const WorkFolder& work);
// config.yaml, tokenizer.json, manifest.json.
absl::Status WriteCheckpointSides(const Conversion& conversion, const WorkFolder& work);

// certificate.json.
absl::Status WriteCertificate(const Conversion& conversion, const WorkFolder& work,
                              const std::string& logits_json);

}  // namespace mneme
