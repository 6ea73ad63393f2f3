// Pure arithmetic: what a resident table takes, and whether a host has it.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "parallel/host_memory.h"
#include "parallel/row_store.h"

namespace mneme {

// Rows of a share: those whose state it keeps, and those whose state another replica keeps.
struct RowsHeld {
  int64_t kept = 0;
  int64_t mirrored = 0;
};
// Of a table of spec.rows rows; the sum over all shares is the table, once a replica.
RowsHeld ResidentRows(const RowTableSpec& spec, const RowShare& share);

// Values, moments and bitmap, in bytes; in double, since a table may exceed int64.
double ResidentBytes(const RowTableSpec& spec, const RowShare& share);

// ResourceExhausted, with what is needed and what is there, where `ranks_on_host` shares like this
// one do not fit.
absl::Status CheckResidentFits(const RowTableSpec& spec, const RowShare& share, int ranks_on_host,
                               const HostMemory& memory);

}  // namespace mneme
