// A tree onto a struct, by its fields.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "configs/fields.h"
#include "configs/yaml_tree.h"

namespace mneme {

// Reads `tree` onto the struct behind `section`; what the tree does not state stays. Unknown keys,
// wrong types and wrong choices become complaints; `places` gets "file:line" of every stated key,
// by dotted name. `skip` names a key of this section that is left alone (the caller reads it).
void ReadSection(const Section& section, const Tree& tree, const std::string& prefix,
                 const std::string& skip, std::map<std::string, std::string>& places,
                 std::vector<Complaint>& complaints);

}  // namespace mneme
