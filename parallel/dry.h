// Ranks and tables of a dry device (kernels/core/dry.h): one rank that acts as if the others were
// there. Nothing travels; bytes are counted, and memory is asked for as
// the real ones ask.
#pragma once

#include <memory>

#include "parallel/mesh.h"
#include "parallel/row_exchange.h"

namespace mneme {

// Rank 0 of a layout, which holds no less than any other rank.
// expert_load: pairs of (token, expert) that come from the others, as a multiple of those that this
// rank sends; of `tokens` rows a rank at most.
Mesh MakeDryMesh(const Layout& layout, double expert_load, int64_t tokens);

// Distinct rows, of `rows`, that a head of an n-gram order asks for among `tokens` neighbouring
// tokens over `vocabulary` ids: an estimate from English prose (docs/plan.md).
double DistinctNgrams(int64_t order, int64_t vocabulary, double tokens, double rows);

// A table that can be told of micro-batches without their being rehearsed.
class DryTable : public RowExchange {
 public:
  // As if `micro_batches` more, like the last, had pushed their gradients.
  virtual void Skip(Stream& stream, int64_t micro_batches) = 0;
};

// The exchange of a table that is spread (MakeSpreadExchange), or kept on the host
// (MakeHostExchange): it asks for the same memory, with the distinct rows of the estimate. It has
// no store and takes queries only.
std::unique_ptr<DryTable> MakeDryExchange(Stream& stream, Mesh& mesh, RowTableSpec spec,
                                          bool resident);

}  // namespace mneme
