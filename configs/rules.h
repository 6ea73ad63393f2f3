// What the rule files share: a list of faults being collected.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "configs/text.h"
#include "configs/validate.h"

namespace mneme {

// Every method adds a fault where its rule is broken, and nothing where it holds. A key is dotted
// ("model.mla.heads"), the value is what the config has there. NaN breaks every rule. Borrows the
// config; used by one thread.
class Rules {
 public:
  explicit Rules(const RunConfig& config) : config_(config) {}

  // keys: those that the rule speaks of, the one to change first; what: goes on after "key: ".
  void Add(std::vector<std::string> keys, const std::string& what) {
    faults_.push_back({std::move(keys), what});
  }
  // value >= least; below that, value > bound.
  void AtLeast(const std::string& key, int64_t value, int64_t least) {
    if (value < least)
      Add({key}, "is " + std::to_string(value) + "; must be at least " + std::to_string(least));
  }
  // Whole numbers that sizes are computed from: none may come near the 64 bits in which these are
  // counted.
  void Within(const std::string& key, int64_t value, int64_t least, int64_t most) {
    AtLeast(key, value, least);
    if (value > most)
      Add({key}, "is " + std::to_string(value) + "; must be at most " + std::to_string(most));
  }
  // The same for their products, in doubles; a factor below 1 has a fault of its own.
  struct Factor {
    std::string key;
    double value;
  };
  void ProductAtMost(double most, const std::string& what, std::initializer_list<Factor> factors) {
    double product = 1.0;
    std::vector<std::string> keys;
    for (const Factor& factor : factors) {
      if (!(factor.value >= 1.0)) return;
      product *= factor.value;
      keys.push_back(factor.key);
    }
    if (product <= most) return;
    Add(keys, "makes " + NumberText(product) + " " + what + " of " + Join(keys, " x ") +
                  "; must be at most " + NumberText(most));
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
  // [0, 1].
  void Share(const std::string& key, double value) {
    if (!(value >= 0.0 && value <= 1.0))
      Add({key}, "is " + NumberText(value) + "; must be in [0, 1]");
  }

  // Whether a file or an override names the key, or for a section anything in it.
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
