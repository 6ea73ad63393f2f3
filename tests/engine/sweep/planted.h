// Sweeps with a known truth.
#pragma once

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "engine/sweep/cells.h"
#include "kernels/core/random.h"

namespace mneme {

// Independent normals, the same in every run.
class Noise {
 public:
  explicit Noise(uint64_t seed) : key_(MakeKey(seed, "planted")) {}
  double operator()(double deviation) { return deviation * RandomNormal(key_, index_++); }

 private:
  RandomKey key_;
  uint64_t index_ = 0;
};

inline CellResult PlantedCell(double rho, int64_t seed, double loss) {
  CellResult cell;
  cell.key = "rho " + std::to_string(rho) + " seed " + std::to_string(seed);
  cell.rho = rho;
  cell.seed = seed;
  cell.table = std::nan("");
  cell.validation_loss = loss;
  cell.columns = {{"rho", std::to_string(rho)}, {"seed", std::to_string(seed)}};
  return cell;
}

// A cell for each rho and seed: truth(rho), a level of each seed's own, and noise of the cell.
inline CellTable PlantedTable(const std::vector<double>& rhos, int64_t seeds, double deviation,
                              Noise& noise, const std::function<double(double)>& truth) {
  CellTable table;
  table.source = "planted";
  std::vector<double> levels;
  for (int64_t s = 0; s < seeds; ++s) levels.push_back(noise(0.004));
  for (const double rho : rhos) {
    for (int64_t s = 0; s < seeds; ++s) {
      table.cells.push_back(
          PlantedCell(rho, s, truth(rho) + levels[static_cast<size_t>(s)] + noise(deviation)));
    }
  }
  return table;
}

inline const std::vector<double> kPaperRho = {0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0};

}  // namespace mneme
