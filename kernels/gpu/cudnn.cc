#include "kernels/gpu/cudnn.h"

#include <cudnn_frontend.h>

#include <map>
#include <memory>
#include <unordered_map>
#include <utility>

#include "kernels/core/tensor.h"
#include "kernels/gpu/queue.h"

namespace mneme::gpu {
namespace {

namespace fe = cudnn_frontend;
using Graph = fe::graph::Graph;

enum Uid : int64_t { kQ = 1, kK, kV, kOut, kLse, kDout, kDq, kDk, kDv };

// A plan that cuDNN does not have is remembered as null.
struct Plan {
  std::unique_ptr<Graph> graph;
  int64_t workspace = 0;
};

struct Plans {
  cudnnHandle_t handle = nullptr;
  std::map<std::pair<Sdpa, bool>, Plan> known;

  Plans() = default;
  Plans(const Plans&) = delete;
  Plans& operator=(const Plans&) = delete;
  ~Plans() {
    known.clear();
    if (handle != nullptr) cudnnDestroy(handle);
  }
};

Plans& PlansOf(Stream& stream) {
  Queue& queue = QueueOf(stream);
  if (queue.attention_plans == nullptr) {
    auto plans = std::make_shared<Plans>();
    if (cudnnCreate(&plans->handle) != CUDNN_STATUS_SUCCESS ||
        cudnnSetStream(plans->handle, queue.stream) != CUDNN_STATUS_SUCCESS) {
      plans->handle = nullptr;
    }
    queue.attention_plans = std::move(plans);
  }
  return *static_cast<Plans*>(queue.attention_plans.get());
}

using Attributes = fe::graph::Tensor_attributes;
using Dims = std::vector<int64_t>;

// [rows, heads, length, width]: heads `step` apart, tokens `stride`.
void Place(Attributes& t, Uid uid, const Sdpa& n, int64_t width, int64_t step, int64_t stride) {
  t.set_uid(uid)
      .set_dim({n.rows, n.heads, n.length, width})
      .set_stride({n.length * stride, step, stride, 1});
}

Attributes Input(Uid uid, const Sdpa& n, int64_t width, int64_t step, int64_t stride) {
  Attributes t;
  Place(t, uid, n, width, step, stride);
  t.set_data_type(fe::DataType_t::BFLOAT16);
  return t;
}

void Output(Attributes& t, Uid uid, const Sdpa& n, int64_t width, int64_t step, int64_t stride) {
  Place(t, uid, n, width, step, stride);
  t.set_output(true).set_data_type(fe::DataType_t::BFLOAT16);
}

void AddForward(Graph& graph, const Sdpa& n) {
  const auto q = graph.tensor(Input(kQ, n, n.width, n.width, n.q_stride));
  const auto k = graph.tensor(Input(kK, n, n.width, n.width, n.q_stride));
  const auto v = graph.tensor(Input(kV, n, n.value, n.v_step, n.v_stride));
  auto options = fe::graph::SDPA_attributes()
                     .set_name("attention")
                     .set_generate_stats(true)
                     .set_causal_mask(true)
                     .set_attn_scale(n.scale);
  const auto [out, lse] = graph.sdpa(q, k, v, std::move(options));
  Output(*out, kOut, n, n.value, n.value, n.out_stride);
  Place(*lse, kLse, n, 1, 1, n.lse_stride);
  lse->set_output(true).set_data_type(fe::DataType_t::FLOAT);
}

void AddBackward(Graph& graph, const Sdpa& n) {
  const auto q = graph.tensor(Input(kQ, n, n.width, n.width, n.q_stride));
  const auto k = graph.tensor(Input(kK, n, n.width, n.width, n.q_stride));
  const auto v = graph.tensor(Input(kV, n, n.value, n.v_step, n.v_stride));
  const auto out = graph.tensor(Input(kOut, n, n.value, n.value, n.out_stride));
  const auto dout = graph.tensor(Input(kDout, n, n.value, n.value, n.out_stride));
  Attributes notes;
  Place(notes, kLse, n, 1, 1, n.lse_stride);
  const auto lse = graph.tensor(notes.set_data_type(fe::DataType_t::FLOAT));
  auto options = fe::graph::SDPA_backward_attributes()
                     .set_name("attention_grad")
                     .set_causal_mask(true)
                     .set_deterministic_algorithm(true)
                     .set_attn_scale(n.scale);
  const auto [dq, dk, dv] = graph.sdpa_backward(q, k, v, out, dout, lse, std::move(options));
  Output(*dq, kDq, n, n.width, n.width, n.q_stride);
  Output(*dk, kDk, n, n.width, n.width, n.q_stride);
  Output(*dv, kDv, n, n.value, n.v_step, n.v_stride);
}

// Chosen by cuDNN's heuristics, never by timing: the same plan every run.
Plan Build(cudnnHandle_t handle, const Sdpa& n, bool backward) {
  auto graph = std::make_unique<Graph>();
  graph->set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  if (backward) {
    AddBackward(*graph, n);
  } else {
    AddForward(*graph, n);
  }
  Plan plan;
  if (graph->build(handle, {fe::HeurMode_t::A}).is_good() &&
      graph->get_workspace_size(plan.workspace).is_good()) {
    plan.graph = std::move(graph);
  }
  return plan;
}

const Plan& PlanOf(Stream& stream, const Sdpa& n, bool backward) {
  Plans& plans = PlansOf(stream);
  const auto [at, is_new] = plans.known.try_emplace({n, backward});
  if (is_new && plans.handle != nullptr) at->second = Build(plans.handle, n, backward);
  return at->second;
}

void Execute(Stream& stream, const Plan& plan, std::unordered_map<int64_t, void*> tensors) {
  CHECK(plan.graph != nullptr);
  Tensor workspace = Tensor::Empty(stream, DType::kU8, {plan.workspace}, MemoryTag::kWorkspace);
  auto status = plan.graph->execute(PlansOf(stream).handle, tensors, workspace.raw());
  if (!status.is_good()) Fatal(__FILE__, __LINE__, "cuDNN: " + status.get_message());
}

}  // namespace

bool SdpaServes(Stream& stream, const Sdpa& n, bool backward) {
  return PlanOf(stream, n, backward).graph != nullptr;
}

void SdpaForward(Stream& stream, const Sdpa& n, const void* q, const void* k, const void* v,
                 void* out, float* lse) {
  Execute(stream, PlanOf(stream, n, false),
          {{kQ, const_cast<void*>(q)},
           {kK, const_cast<void*>(k)},
           {kV, const_cast<void*>(v)},
           {kOut, out},
           {kLse, lse}});
}

void SdpaBackward(Stream& stream, const Sdpa& n, const void* q, const void* k, const void* v,
                  const void* out, const float* lse, const void* dout, void* dq, void* dk,
                  void* dv) {
  Execute(stream, PlanOf(stream, n, true),
          {{kQ, const_cast<void*>(q)},
           {kK, const_cast<void*>(k)},
           {kV, const_cast<void*>(v)},
           {kOut, const_cast<void*>(out)},
           {kLse, const_cast<float*>(lse)},
           {kDout, const_cast<void*>(dout)},
           {kDq, dq},
           {kDk, dk},
           {kDv, dv}});
}

}  // namespace mneme::gpu
