// Every tensor of a model by our name and by the one it has in the Hugging Face layout
// (docs/conversion.md). Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "configs/model.h"

namespace mneme {

struct ModelTensor {
  std::string piece;    // "blocks.3.moe.experts.17.up" (models/README.md)
  std::string kind;     // "value", "router_bias", or "rows" of a table
  std::string foreign;  // "model.layers.3.mlp.experts.17.up_proj.weight"
  int64_t rows = 0;     // as a matrix; a vector is 1 x n
  int64_t cols = 0;
  bool vector = false;    // one dim in the Hugging Face layout
  bool accurate = false;  // F32 there, whatever the dtype of the others
  bool neutral = false;   // what add-engram starts at zero
  double init = -1.0;     // first values: N(0, init) by name where it is > 0, else -init

  std::vector<int64_t> shape() const {
    return vector ? std::vector<int64_t>{cols} : std::vector<int64_t>{rows, cols};
  }
  int64_t elements() const { return rows * cols; }
};

// All of them, once each, in the order of a forward pass. REQUIRES: vocab_size > 0, a valid config.
std::vector<ModelTensor> ModelTensors(const ModelConfig& model);

// What is needed to run it elsewhere: "deepseek_v3" or "deepseek_v2" where transformers' own class
// computes the same function, else "mneme" (the modeling_mneme.py that is written beside the
// weights). `router_bias`: some bias of a router is not 0.
std::string ArchitectureOf(const ModelConfig& model, bool router_bias);

}  // namespace mneme
