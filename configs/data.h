// What is read, and in which order.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mneme {

struct DataConfig {
  std::vector<std::string> train;
  std::vector<double> weights;
  std::string doc_boundary = "reset";
  bool bos = false;
  int64_t seed = 0;

  template <class V>
  void Visit(V& v) {
    v.Path("train", train,
           "prepared corpora (folders made by `mneme prepare`): one, or a list to mix");
    v("weights", weights, "share of each corpus in the mixture; [] takes their token counts");
    v("doc_boundary", doc_boundary,
      "reset: look-back, convolution and attention stop at a document's first token; ignore: they "
      "cross",
      {"reset", "ignore"});
    v("bos", bos, "each document begins with the beginning-of-document id, if the corpus has one");
    v("seed", seed, "of the order of samples");
  }
};

// A held-out set, scored by name.
struct HeldOutConfig {
  std::string name;
  std::string data;
  int64_t sequences = 0;

  template <class V>
  void Visit(V& v) {
    v("name", name, "as it stands in metrics and results");
    v.Path("data", data, "a prepared corpus");
    v("sequences", sequences, "sequences scored, spread evenly; 0 scores all");
  }
};

struct EvaluateConfig {
  int64_t every = 0;
  std::vector<HeldOutConfig> sets;

  template <class V>
  void Visit(V& v) {
    v("every", every, "steps between evaluations; 0 scores at the end of each stage only");
    v("sets", sets, "held-out sets; the first gives validation_loss");
  }
};

}  // namespace mneme
