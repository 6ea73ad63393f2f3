// print_logits CHECKPOINT IDS OUT: logits [tokens, V] (raw float, little-endian) of a checkpoint on
// a file of ids (raw int32). What the live oracle compares with (live_oracle.py).
#include <cstdio>
#include <vector>

#include "data/files.h"
#include "engine/convert/logits.h"

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const auto text = mneme::ReadFileBytes(argv[2]);
  if (!text.ok()) return 3;
  std::vector<int32_t> ids(text->size() / sizeof(int32_t));
  text->copy(reinterpret_cast<char*>(ids.data()), ids.size() * sizeof(int32_t));
  const auto logits = mneme::CheckpointLogits(argv[1], ids);
  if (!logits.ok()) {
    std::fprintf(stderr, "%s\n", std::string(logits.status().message()).c_str());
    return 1;
  }
  const std::vector<float> rounded(logits->begin(), logits->end());
  const std::string bytes(reinterpret_cast<const char*>(rounded.data()),
                          rounded.size() * sizeof(float));
  return mneme::WriteFileAtomically(argv[3], bytes).ok() ? 0 : 1;
}
