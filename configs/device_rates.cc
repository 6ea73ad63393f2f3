#include "configs/device_rates.h"

#include <filesystem>
#include <map>

#include "configs/device_files.h"
#include "configs/read.h"
#include "configs/source.h"
#include "configs/text.h"

namespace mneme {
namespace {

absl::StatusOr<DeviceRates> ReadRates(const Tree& tree, std::vector<Complaint> complaints) {
  DeviceRates rates;
  std::map<std::string, std::string> places;
  if (tree.kind == Tree::Kind::kMap) {
    ReadSection(Reflector::Of(rates), tree, "", "", places, complaints);
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
