// Held-out loss by document: what a paired comparison of two models rests on.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mneme {

// A held-out document as one model scored it.
struct DocumentScore {
  int64_t tokens = 0;  // counted
  double nats = 0.0;   // their sum
};

// {"documents": [[tokens, nats], ...]}: documents.json of a run folder.
std::string DocumentsJson(const std::vector<DocumentScore>& documents);

}  // namespace mneme
