// What a run says of itself before its first step.
#pragma once

#include <string>
#include <vector>

#include "configs/run.h"
#include "engine/forecast/footprint.h"
#include "engine/run_folder.h"
#include "engine/stage.h"
#include "models/count.h"

namespace mneme {

// Several lines: model, data, device, ranks, batch arithmetic of each stage, memory, where things
// are written.
std::string Banner(const RunConfig& config, const Counts& counts, const Layout& layout,
                   const std::vector<Stage>& stages, const Footprint& footprint,
                   const RunFolder& folder, const std::string& device);

}  // namespace mneme
