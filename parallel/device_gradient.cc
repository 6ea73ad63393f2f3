#include "parallel/device_gradient.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "kernels/core/check.h"

namespace mneme {
namespace {

// Parts of one shape and no more than `most`: as they are, or all in one.
std::vector<Tensor> Regular(Stream& stream, const Kernels& kernels, std::vector<Tensor> parts,
                            size_t most) {
  int64_t rows = 0;
  bool regular = parts.size() <= most;
  for (const Tensor& part : parts) {
    rows += part.dim(0);
    regular = regular && part.dim(0) == parts[0].dim(0);
  }
  if (regular) return parts;
  const Tensor& first = parts[0];
  const Shape shape = first.shape().rank() == 1 ? Shape{rows} : Shape{rows, first.dim(1)};
  Tensor all = Tensor::Empty(stream, first.dtype(), shape, MemoryTag::kExchange);
  int64_t begin = 0;
  for (const Tensor& part : parts) {
    Tensor to = all.Rows(begin, begin + part.dim(0));
    if (part.dim(0) > 0) kernels.copy(stream, part, to);
    begin += part.dim(0);
  }
  return {all};
}

// A part of every replica, on all, in order of replicas.
Tensor OfAll(Stream& stream, Comm& replicas, const Tensor& part) {
  const auto n = static_cast<size_t>(replicas.size());
  const int64_t rows = part.dim(0) * replicas.size();
  const Shape shape = part.shape().rank() == 1 ? Shape{rows} : Shape{rows, part.dim(1)};
  const Tensor all = Tensor::Empty(stream, part.dtype(), shape, MemoryTag::kExchange);
  Tensor flat = all.Reshape({all.elements()});
  replicas.AllGather(stream, part.Reshape({part.elements()}),
                     std::vector<int64_t>(n, part.elements()), flat);
  return all;
}

// Such parts in order of replicas, then of micro-batches, as one rank that does all their work has
// them.
std::vector<Tensor> ByReplica(const std::vector<Tensor>& parts, int replicas) {
  std::vector<Tensor> all;
  for (int64_t r = 0; r < replicas; ++r) {
    for (const Tensor& part : parts) {
      const int64_t rows = part.dim(0) / replicas;
      all.push_back(part.Rows(r * rows, (r + 1) * rows));
    }
  }
  return all;
}

// OfAll where the parts differ: of each replica one, all of them in one, in order of replicas.
// counts: rows of each.
std::vector<Tensor> OfAllCounted(Stream& stream, Comm& replicas, const std::vector<Tensor>& parts,
                                 const std::vector<int64_t>& counts, DType dtype, int64_t width) {
  const int64_t rows = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  std::vector<int64_t> elements = counts;
  for (int64_t& n : elements) n *= width;
  const Tensor own = parts.empty() ? Tensor::Empty(stream, dtype, {0}, MemoryTag::kExchange)
                                   : parts[0].Reshape({parts[0].elements()});
  const Shape shape = dtype == DType::kI64 ? Shape{rows} : Shape{rows, width};
  const Tensor all = Tensor::Empty(stream, dtype, shape, MemoryTag::kExchange);
  Tensor flat = all.Reshape({all.elements()});
  replicas.AllGather(stream, own, elements, flat);
  return {all};
}

}  // namespace

void DeviceGradient::Add(Stream& stream, const Tensor& ids, const Tensor& grads) {
  const int64_t width = store_.spec().width;
  CHECK_EQ(grads.elements(), ids.elements() * width);
  if (equal() && replicas_.size() > 1) {
    gathering_ = SideJob::Run(stream, {ids, grads}, [&](Stream& side) {
      ids_.push_back(OfAll(side, replicas_, ids));
      grads_.push_back(OfAll(side, replicas_, grads));
    });
    return;
  }
  Settle(stream);
  ids_.push_back(ids);
  grads_.push_back(grads);
  fresh_ += ids.elements();
  if (!equal() && fresh_ >= MergeAt(merged_, merge_from_)) BeginMerge(stream);
}

void DeviceGradient::BeginMerge(Stream& stream) {
  ids_ = Regular(stream, kernels_, std::move(ids_), 1);
  const int64_t n = ids_[0].elements();
  unique_ = Tensor::Empty(stream, DType::kI64, {n}, MemoryTag::kExchange);
  inverse_ = Tensor::Empty(stream, DType::kI32, {n}, MemoryTag::kExchange);
  Tensor count = Tensor::Empty(stream, DType::kI64, {1}, MemoryTag::kExchange);
  Tensor unordered;
  kernels_.unique_ids(stream, ids_[0], store_.rows(), unique_, inverse_, unordered, count);
  distinct_ = Arrival(stream, count);
}

void DeviceGradient::Settle(Stream& stream) {
  if (!unique_.defined()) return;
  distinct_.Wait({&merged_, 1});
  Tensor sums = Tensor::Zeros(stream, grads_[0].dtype(), {merged_, store_.spec().width},
                              MemoryTag::kExchange);
  int64_t begin = 0;
  for (const Tensor& part : grads_) {
    const int64_t end = begin + part.dim(0);
    if (end > begin) kernels_.scatter_add_rows(stream, part, inverse_.Rows(begin, end), sums);
    begin = end;
  }
  // A copy, so that the room of all that came goes back.
  Tensor ids = Tensor::Empty(stream, DType::kI64, {merged_}, MemoryTag::kExchange);
  kernels_.copy(stream, unique_.Rows(0, merged_), ids);
  ids_ = {ids};
  grads_ = {sums};
  unique_ = inverse_ = Tensor();
  fresh_ = 0;
}

void DeviceGradient::Reduce(Stream& stream, Tensor& seen) {
  const RowTableSpec& spec = store_.spec();
  Settle(stream);
  gathering_.Join();
  if (equal()) {
    ids_ = Regular(stream, kernels_, ByReplica(ids_, replicas_.size()), kMostParts);
    grads_ = Regular(stream, kernels_, ByReplica(grads_, replicas_.size()), kMostParts);
  } else if (ids_.size() > 1) {
    BeginMerge(stream);
    Settle(stream);
  }
  if (replicas_.size() > 1) {
    const DType dtype = grads_.empty() ? spec.dtype : grads_[0].dtype();
    request_bytes_ = SizeOf(DType::kI64) + spec.width * SizeOf(dtype);
    if (!equal()) {
      const int64_t own = ids_.empty() ? 0 : ids_[0].dim(0);
      const std::vector<int64_t> counts = replicas_.ExchangeCounts(
          std::vector<int64_t>(static_cast<size_t>(replicas_.size()), own));
      ids_ = OfAllCounted(stream, replicas_, ids_, counts, DType::kI64, 1);
      grads_ = OfAllCounted(stream, replicas_, grads_, counts, dtype, spec.width);
    }
  }
  kernels_.group_rows(stream, ids_, store_.rows(), groups_, seen);
  ids_.clear();
  merged_ = fresh_ = 0;
  summed_ = false;
}

void DeviceGradient::SumSquares(Stream& stream, Tensor& sum) {
  CHECK(groups_.keys.defined());
  if (store_.first()) {
    kernels_.sum_groups(stream, grads_, groups_, sum);
  } else {  // every replica has the whole sum; it counts once
    Tensor unused = Tensor::Zeros(stream, DType::kF64, {1}, MemoryTag::kWorkspace);
    kernels_.sum_groups(stream, grads_, groups_, unused);
  }
  summed_ = true;
}

void DeviceGradient::Update(Stream& stream, const Tensor& step) {
  CHECK(groups_.keys.defined());
  if (!summed_) {
    Tensor unused = Tensor::Zeros(stream, DType::kF64, {1}, MemoryTag::kWorkspace);
    SumSquares(stream, unused);
  }
  store_.Move(stream, step, grads_, groups_);
  groups_ = {};
  grads_.clear();
}

}  // namespace mneme
