// The texts beside exported weights: config.json, tokenizer files, the index. Pure.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "configs/run.h"
#include "data/corpus.h"
#include "engine/convert/conversion_plan.h"

namespace mneme {

// config.json with DeepSeek's keys; of a "mneme" architecture also what modeling_mneme.py reads.
// `config` has vocab_size stated, `stage` is the one the model stands in.
std::string ForeignConfigJson(const RunConfig& config, const StageConfig& stage,
                              const VocabularyInfo& vocabulary, const std::string& architecture,
                              Element element, const std::vector<PlannedFile>& files);

// model.safetensors.index.json; the row ranges of tables that are cut stand in its metadata.
std::string WeightIndexJson(const std::vector<PlannedFile>& files);

// name -> text. The tokenizer of the data where it brought one, or one of the byte vocabulary; none
// where ids were made elsewhere and no file was given.
std::vector<std::pair<std::string, std::string>> TokenizerFiles(const VocabularyInfo& vocabulary);

// configuration_mneme.py and modeling_mneme.py.
std::vector<std::pair<std::string, std::string>> ModelingFiles();

}  // namespace mneme
