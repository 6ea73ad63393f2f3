// Files, includes and overrides -> one tree. Later wins: includes in order, then the file's own
// keys, then overrides.
#pragma once

#include <string>
#include <vector>

#include "configs/yaml_tree.h"

namespace mneme {

// `from` over `to`: maps are merged key by key, everything else is replaced.
void MergeTree(Tree& to, Tree from);

// Reads a file and what it includes. Faults become complaints; what could be read is returned.
Tree ReadSources(const std::string& path, std::vector<Complaint>& complaints);

// "a.b=c" or "--a.b=c" onto the tree; numbers in a key pick elements of lists ("stages.1.lr=1e-4").
void ApplyOverrides(Tree& root, const std::vector<std::string>& overrides,
                    std::vector<Complaint>& complaints);

// The folder that paths of the command line and of defaults start from.
std::string CurrentFolder();

}  // namespace mneme
