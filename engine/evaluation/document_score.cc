#include "engine/evaluation/document_score.h"

#include "configs/json_text.h"

namespace mneme {

std::string DocumentsJson(const std::vector<DocumentScore>& documents) {
  std::vector<std::string> pairs;
  for (const DocumentScore& document : documents) {
    pairs.push_back("[" + std::to_string(document.tokens) + ", " + JsonNumber(document.nats) + "]");
  }
  return JsonObject().AddRaw("documents", JsonArray(pairs)).Text();
}

}  // namespace mneme
