// Which rows of which tensors go into which file: known before the first byte is written, and the
// same whenever it is asked. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/convert/element.h"
#include "engine/convert/model_tensors.h"

namespace mneme {

// Rows [begin, end) of a tensor, as one tensor or dataset of a file.
struct PlannedPart {
  const ModelTensor* tensor = nullptr;
  std::string name;  // in the file
  Element element = Element::kF32;
  int64_t begin = 0;  // of a vector: row 0 of 1
  int64_t end = 0;
  std::vector<int64_t> shape;  // in the file

  int64_t bytes() const { return (end - begin) * tensor->cols * BytesOf(element); }
};

struct PlannedFile {
  std::string name;
  std::vector<PlannedPart> parts;
  int64_t bytes() const;
};

// safetensors shards of about file_bytes: "model.safetensors", or
// "model-00001-of-00003.safetensors". A table is cut into parts "….table.0", … that no
// file is too small for; other tensors are whole. `tensors` outlive the plan.
std::vector<PlannedFile> PlanForeignFiles(const std::vector<ModelTensor>& tensors, Element element,
                                          int64_t file_bytes);
// "rank-00000.h5", …: whole pieces, tables by rows. `empty_tables`: no stored rows yet.
std::vector<PlannedFile> PlanCheckpointFiles(const std::vector<ModelTensor>& tensors,
                                             Element element, int64_t file_bytes,
                                             bool empty_tables);

}  // namespace mneme
