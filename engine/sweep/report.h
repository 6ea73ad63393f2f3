// A fit as a report: figures, and one HTML file that needs nothing beside it.
#pragma once

#include <string>
#include <vector>

#include "engine/sweep/figure.h"
#include "engine/sweep/fit.h"

namespace mneme {

// What a report says beside the fit.
struct ReportNotes {
  std::string title;                  // of the sweep
  std::string held_out;               // the set whose losses are fitted; empty: not known
  std::vector<std::string> warnings;  // stand on top
  std::vector<std::string> columns;   // of the cells' table; empty: what every file has
  std::string config;                 // the sweep's YAML; empty: none
};

// Curve, band, cells, minimum and its interval; residuals; loss over table size.
Figure CurveFigure(const Allocation& allocation, double level);
Figure ResidualFigure(const Allocation& allocation);
Figure ScalingFigure(const Scaling& scaling);

std::string ReportHtml(const SweepFit& fit, const ReportNotes& notes);

}  // namespace mneme
