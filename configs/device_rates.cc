#include "configs/device_rates.h"

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <map>
#include <utility>

#include "configs/device_files.h"
#include "configs/read.h"
#include "configs/source.h"
#include "configs/text.h"

namespace mneme {
namespace {

// What no forecast can do without; a file of one's own may begin as a copy of a shipped one.
void CheckRates(const DeviceRates& device, const Place& place, std::vector<Complaint>& complaints) {
  if (device.name.empty())
    complaints.push_back({place, "name", "is empty; it stands above every plan"});
  const double numbers[] = {device.memory,       device.reserved,       device.peak_flops,
                            device.call_seconds, device.launch_seconds, device.link,
                            device.link_sums,    device.link_values,    device.link_seconds,
                            device.beside,       device.disk,           device.price};
  if (!std::all_of(std::begin(numbers), std::end(numbers), [](double n) { return n >= 0.0; }))
    complaints.push_back({place, "", "has a negative number; all are seconds, bytes or rates"});
  const WorkRates& r = device.rates;
  const std::pair<const char*, const WorkRate&> kinds[] = {
      {"matmul", r.matmul},       {"experts", r.experts},
      {"attention", r.attention}, {"attention_grad", r.attention_grad},
      {"head", r.head},           {"streams", r.streams},
      {"norms", r.norms},         {"routing", r.routing},
      {"memory", r.memory},       {"tables", r.tables},
      {"optimizer", r.optimizer}, {"orthogonal", r.orthogonal}};
  for (const auto& [kind, rate] : kinds) {
    const bool none = rate.flops == 0.0 && rate.bytes == 0.0 && rate.exps == 0.0;
    if (!none && rate.flops >= 0.0 && rate.bytes >= 0.0 && rate.exps >= 0.0) continue;
    complaints.push_back({place, std::string("rates.") + kind,
                          none ? "has no rate; give flops, bytes or exps a second (a shipped "
                                 "device's are in configs/devices)"
                               : "has a negative rate"});
  }
}

absl::StatusOr<DeviceRates> ReadRates(const Tree& tree, std::vector<Complaint> complaints) {
  DeviceRates rates;
  std::map<std::string, std::string> places;
  if (tree.kind == Tree::Kind::kMap) {
    ReadSection(Reflector::Of(rates), tree, "", "", places, complaints);
    if (complaints.empty()) CheckRates(rates, tree.place, complaints);
  } else if (complaints.empty()) {
    complaints.push_back({tree.place, "", "a device is keys and values"});
  }
  if (complaints.empty()) return rates;
  std::vector<std::string> lines;
  for (const Complaint& complaint : complaints) lines.push_back(complaint.Text());
  return absl::InvalidArgumentError(Join(lines, "\n"));
}

absl::StatusOr<DeviceRates> ReadShipped(const DeviceFile& file) {
  std::vector<Complaint> complaints;
  const std::string name = std::string("configs/devices/") + file.name + ".yaml";
  const Tree tree = ParseYaml(file.text, {name, 0, CurrentFolder()}, complaints);
  return ReadRates(tree, std::move(complaints));
}

}  // namespace

std::vector<std::string> ShippedDevices() {
  std::vector<std::string> names;
  for (const DeviceFile& file : DeviceFiles()) names.emplace_back(file.name);
  return names;
}

absl::StatusOr<DeviceRates> LoadDeviceRates(const std::string& name_or_file) {
  for (const DeviceFile& file : DeviceFiles()) {
    if (name_or_file == file.name) return ReadShipped(file);
  }
  std::error_code error;
  if (!std::filesystem::is_regular_file(name_or_file, error)) {
    return absl::InvalidArgumentError(
        "device: '" + name_or_file + "' is neither a file nor one of " +
        Join(ShippedDevices(), ", ") + "; nearest: " + Nearest(name_or_file, ShippedDevices()));
  }
  std::vector<Complaint> complaints;
  const Tree tree = ReadSources(name_or_file, complaints);
  return ReadRates(tree, std::move(complaints));
}

absl::StatusOr<DeviceRates> MatchDeviceRates(const std::string& own_name) {
  for (const DeviceFile& file : DeviceFiles()) {
    absl::StatusOr<DeviceRates> rates = ReadShipped(file);
    if (!rates.ok()) return rates;
    for (const std::string& word : rates->matches) {
      if (own_name.find(word) != std::string::npos) return rates;
    }
  }
  return absl::NotFoundError("no rates are shipped for " + own_name);
}

}  // namespace mneme
