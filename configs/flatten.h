// A config as dotted keys and value texts.
#pragma once

#include <map>
#include <string>

#include "configs/fields.h"

namespace mneme {

// Every leaf: "stages.0.lr" -> "0.0004". Equal maps are equal configs.
std::map<std::string, std::string> Flatten(const Section& section, const std::string& prefix);

}  // namespace mneme
