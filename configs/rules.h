// What the rule files share: a list of faults being collected.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "configs/text.h"
#include "configs/validate.h"

namespace mneme {

class Rules {
 public:
  explicit Rules(const RunConfig& config) : config_(config) {}

  void Add(std::vector<std::string> keys, const std::string& what) {
    faults_.push_back({std::move(keys), what});
  }
  void AtLeast(const std::string& key, int64_t value, int64_t least) {
    if (value < least)
      Add({key}, "is " + std::to_string(value) + "; must be at least " + std::to_string(least));
  }
  void AtLeast(const std::string& key, double value, double least) {
    if (!(value >= least))
      Add({key}, "is " + NumberText(value) + "; must be at least " + NumberText(least));
  }
  void Above(const std::string& key, double value, double bound) {
    if (!(value > bound))
      Add({key}, "is " + NumberText(value) + "; must be above " + NumberText(bound));
  }
  // A decay rate of moments: [0, 1).
  void Rate(const std::string& key, double value) {
    if (!(value >= 0.0 && value < 1.0))
      Add({key}, "is " + NumberText(value) + "; must be in [0, 1)");
  }
  void Share(const std::string& key, double value) {
    if (!(value >= 0.0 && value <= 1.0))
      Add({key}, "is " + NumberText(value) + "; must be in [0, 1]");
  }

  bool Stated(const std::string& key) const { return config_.places.count(key) > 0; }
  const RunConfig& config() const { return config_; }
  std::vector<Fault>& faults() { return faults_; }

 private:
  const RunConfig& config_;
  std::vector<Fault> faults_;
};

// validate_model.cc
void ModelRules(const ModelConfig& model, Rules& rules);

}  // namespace mneme
