// What libFuzzer calls, and the short run of it in the test suite: readers of text that comes from
// anywhere never crash, and accept nothing that is not sound.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mneme {

// Two bytes of data size, then a header or a config.json.
void FuzzWeights(const uint8_t* data, size_t size);

}  // namespace mneme
