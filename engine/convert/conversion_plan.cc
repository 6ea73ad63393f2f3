#include "engine/convert/conversion_plan.h"

#include <algorithm>
#include <cstdio>

namespace mneme {
namespace {

std::string Numbered(const char* format, size_t i, size_t n) {
  char text[64];
  std::snprintf(text, sizeof text, format, i, n);
  return text;
}

// Rows of a table in one part.
int64_t RowsAtOnce(const ModelTensor& tensor, Element element, int64_t file_bytes) {
  return std::max<int64_t>(1, file_bytes / (tensor.cols * BytesOf(element)));
}

// Closes a file where the next part would make it too long.
void Deal(std::vector<PlannedFile>& files, PlannedPart part, int64_t file_bytes) {
  if (files.empty() ||
      (!files.back().parts.empty() && files.back().bytes() + part.bytes() > file_bytes)) {
    files.emplace_back();
  }
  files.back().parts.push_back(std::move(part));
}

}  // namespace

int64_t PlannedFile::bytes() const {
  int64_t sum = 0;
  for (const PlannedPart& part : parts) sum += part.bytes();
  return sum;
}

std::vector<PlannedFile> PlanForeignFiles(const std::vector<ModelTensor>& tensors, Element element,
                                          int64_t file_bytes) {
  std::vector<PlannedFile> files;
  for (const ModelTensor& tensor : tensors) {
    const Element stored = tensor.accurate ? Element::kF32 : element;
    if (tensor.kind != "rows") {
      Deal(files, {&tensor, tensor.foreign, stored, 0, tensor.rows, tensor.shape()}, file_bytes);
      continue;
    }
    const int64_t at_once = RowsAtOnce(tensor, stored, file_bytes);
    int64_t part = 0;
    for (int64_t begin = 0; begin < tensor.rows; begin += at_once, ++part) {
      const int64_t end = std::min(tensor.rows, begin + at_once);
      Deal(files,
           {&tensor,
            tensor.foreign + "." + std::to_string(part),
            stored,
            begin,
            end,
            {end - begin, tensor.cols}},
           file_bytes);
    }
  }
  for (size_t i = 0; i < files.size(); ++i) {
    files[i].name = files.size() == 1
                        ? "model.safetensors"
                        : Numbered("model-%05zu-of-%05zu.safetensors", i + 1, files.size());
    // Wide elements first: each begins at a multiple of its size.
    std::stable_sort(files[i].parts.begin(), files[i].parts.end(),
                     [](const PlannedPart& a, const PlannedPart& b) {
                       return BytesOf(a.element) > BytesOf(b.element);
                     });
  }
  return files;
}

std::vector<PlannedFile> PlanCheckpointFiles(const std::vector<ModelTensor>& tensors,
                                             Element element, int64_t file_bytes,
                                             bool empty_tables) {
  std::vector<PlannedFile> files(1);
  for (const ModelTensor& tensor : tensors) {
    if (tensor.kind != "rows") {
      Deal(files,
           {&tensor,
            tensor.kind + "/" + tensor.piece,
            element,
            0,
            tensor.rows,
            {tensor.rows, tensor.cols}},
           file_bytes);
      continue;
    }
    const int64_t rows = empty_tables ? 0 : tensor.rows;
    const int64_t at_once = RowsAtOnce(tensor, element, file_bytes);
    int64_t begin = 0;
    do {
      const int64_t end = std::min(rows, begin + at_once);
      Deal(files,
           {&tensor, "tables/" + tensor.piece, element, begin, end, {end - begin, tensor.cols}},
           file_bytes);
      begin = end;
    } while (begin < rows);
  }
  for (size_t i = 0; i < files.size(); ++i) files[i].name = Numbered("rank-%05zu.h5", i, 0);
  return files;
}

}  // namespace mneme
