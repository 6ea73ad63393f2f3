// mneme inspect PATH [OTHER]: what it holds, or how the two differ.
#include "engine/convert/inspect.h"

#include <cstdio>
#include <memory>

#include "kernels/core/check.h"
#include "launch/verbs.h"

namespace mneme {

absl::StatusOr<int> InspectVerb(const InspectArguments& arguments) {
  const InspectOptions& options = arguments.options;
  ASSIGN_OR_RETURN(const std::unique_ptr<TensorSet> first, OpenTensorSet(arguments.path));
  std::string text;
  if (arguments.other.empty()) {
    ASSIGN_OR_RETURN(const Inspection inspection, Inspect(*first, options));
    if (arguments.config && !arguments.json) text = inspection.config;
    text += arguments.json ? InspectionJson(inspection, options.statistics)
                           : InspectionText(inspection, options.statistics);
  } else {
    ASSIGN_OR_RETURN(const std::unique_ptr<TensorSet> second, OpenTensorSet(arguments.other));
    ASSIGN_OR_RETURN(const Comparison comparison, Compare(*first, *second, options));
    text = arguments.json ? ComparisonJson(comparison) : ComparisonText(comparison);
  }
  std::printf("%s", text.c_str());
  return 0;
}

}  // namespace mneme
