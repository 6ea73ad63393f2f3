// The files of configs/devices, as they were when the program was built.
#pragma once

#include <vector>

namespace mneme {

struct DeviceFile {
  const char* name;  // without folder and ending
  const char* text;
};

const std::vector<DeviceFile>& DeviceFiles();

}  // namespace mneme
