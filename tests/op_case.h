// One op under test, and the questions every op answers: does it agree with another version of
// itself, is its gradient right, does it stay inside its outputs and write all of them, does it
// repeat to the bit.
//
// How to add a case, in tests/kernels/<op>_test.cc:
//
//   OpCase Norm(int64_t rows, int64_t width) {
//     OpCase c("rms_norm");
//     c.Activation("x", {rows, width});   // real input; its gradient "dx" is assigned
//     c.Weight("w", {1, width});          // real input; its gradient "dw" accumulates
//     c.Output("y", {rows, width});       // assigned by forward; backward gets its gradient "dy"
//     c.Note("rstd", {rows});             // assigned by forward, read by backward, no gradient
//     c.Accurate({"w", "rstd"});          // stay f32 where activations are bf16
//     c.forward = [](OpRun& r) {
//       r.kernels.rms_norm(r.stream, r["x"], r["w"], 1e-5, r["y"], r["rstd"]); };
//     c.backward = [](OpRun& r) {
//       r.kernels.rms_norm_grad(r.stream, r["dy"], r["x"], r["w"], r["rstd"], {}, r["dx"],
//                               r["dw"]); };
//     return c;
//   }
//   TEST(NormTest, AnswersAll) { CheckOp(Norm(7, 33)); }
//
// Fixed("b", shape) is a real input without a gradient; Integers("ids", dtype, shape, values)
// likewise. Sum("load", dtype, shape) is an output that forward adds to; Sum with a real dtype gets
// a gradient "d<name>" like Output. A note that is a struct of tensors: capture a std::shared_ptr
// to it in both functions. An op in place: let forward copy the input to an output first. Values
// default to standard normals drawn by name; pass a function of the element number to choose them,
// for inputs that must keep clear of kinks and ties.
//
// With MNEME_TEST_DEVICE=gpu CheckOp asks the GPU (CheckOpOnGpu below); the other functions take
// the table that they are given, and tests that name CpuKernels() stay on the CPU.
#pragma once

#include <functional>
#include <initializer_list>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "tests/device_under_test.h"
#include "tests/guarded.h"

namespace mneme::test {

// One run of a case: the tensors by name, all guarded.
struct OpRun {
  Stream& stream;
  const Kernels& kernels;
  std::map<std::string, Guarded> tensors;
  DType real = DType::kF32;  // of the activations
  int64_t shift = 0;  // how far all tensors are moved: in elements on the CPU, in bytes on a GPU
  Tensor& operator[](const std::string& name);
};

using ValueFn = std::function<double(int64_t element)>;

struct OpArg {
  enum class Role { kActivation, kWeight, kFixed, kOutput, kNote, kSum };
  std::string name;
  Role role;
  Shape shape;
  bool real = true;  // the run's real dtype; else `dtype`
  DType dtype = DType::kF32;
  ValueFn value;         // inputs
  bool partial = false;  // outputs: may leave elements unwritten (capacity beyond a count)
};

struct OpCase {
  explicit OpCase(std::string op_name) : name(std::move(op_name)) {}
  // `value` may be empty: standard normals keyed by the name.
  void Activation(const std::string& arg, Shape shape, ValueFn value = {});
  void Weight(const std::string& arg, Shape shape, ValueFn value = {});
  void Fixed(const std::string& arg, Shape shape, ValueFn value = {});
  void FixedF64(const std::string& arg, Shape shape, ValueFn value);  // f64 in every run
  void Integers(const std::string& arg, DType dtype, Shape shape, std::vector<int64_t> values);
  void Output(const std::string& arg, Shape shape);
  void Note(const std::string& arg, Shape shape);  // in the run's real dtype
  void NoteOf(const std::string& arg, DType dtype, Shape shape, bool partial = false);
  void Sum(const std::string& arg, Shape shape);
  void SumOf(const std::string& arg, DType dtype, Shape shape);
  // Tensors that stay f32 in a bf16 run; gradients that do are named with their "d". Gradients of
  // weights always do; another gradient has the dtype of its tensor unless named here or in
  // Rounded.
  void Accurate(std::initializer_list<const char*> names);
  // Gradients that are bf16 although their tensor stays f32.
  void Rounded(std::initializer_list<const char*> names);

  std::string name;
  std::vector<OpArg> args;
  std::set<std::string> accurate, rounded;
  std::function<void(OpRun&)> forward;
  std::function<void(OpRun&)> backward;  // may be empty

  // Relative L2 distance allowed between f32 and f64, and between two versions in f32.
  double tolerance = 1e-5;
  // Relative L2 error allowed between the gradient in double and central differences.
  double gradient_tolerance = 1e-6;
  double step = 1e-3;             // of the differences; inputs keep this clear of kinks, twice over
  int64_t elements_checked = 48;  // at most, of each input
  bool same_bits_on_teams = true;  // whether one thread and two must give the same bits

  // Of the GPU's questions.
  double gpu_tolerance = 1e-5;     // relative L2 distance between its f32 and the CPU's f64
  double bf16_tolerance = 1.5e-2;  // between its bf16 and the CPU's f64 on the same rounded inputs
  bool bf16 = true;                // whether there is a bf16 form
  // Bytes to which every tensor of the engine is aligned, so that the op may count on it. A second
  // run moves all tensors by as much; it must give the same bits, or, where a library chooses by
  // address, agree.
  int64_t gpu_alignment = 16;
  bool same_bits_moved = true;
  bool recordable = true;  // whether the functions only queue work: they are then also replayed
};

// Every question below on CpuKernels(); or those of CheckOpOnGpu where the GPU is asked.
void CheckOp(const OpCase& c);
// In f32 and in bf16: GpuKernels() agree with CpuKernels() in double, stay inside their outputs and
// write all of them, give the same bits twice, at moved addresses, and when recorded and replayed.
// Does nothing where the CPU is asked: for shapes that only a GPU answers in good time.
void CheckOpOnGpu(const OpCase& c);

// Gradients in double against fourth-order central differences of Σ ⟨d output, output⟩; accumulated
// ones from a start that is not zero.
void ExpectGradient(const OpCase& c, const Kernels& kernels);
// Every output is written whole, nothing else is; inputs keep their bits.
void ExpectBounds(const OpCase& c, const Kernels& kernels, DType dtype);
// Two runs give the same bits: on teams of one, two and three threads, at addresses of another
// alignment.
void ExpectRepeats(const OpCase& c, const Kernels& kernels, DType dtype);
// All outputs and gradients of two tables in the given dtypes: equal integers, relative L2 distance
// of reals.
void ExpectAgrees(const OpCase& c, const Kernels& a, DType dtype_a, const Kernels& b, DType dtype_b,
                  double tolerance);

// ‖a − b‖ / ‖b‖ (‖a‖ where b is 0).
double RelativeDistance(const std::vector<double>& a, const std::vector<double>& b);
// Elements of any tensor, of either device, as double.
std::vector<double> Values(const Tensor& t);

}  // namespace mneme::test
