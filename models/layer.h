// The contract of a layer, and the wrapper that computes one again on the way back.
#pragma once

#include <concepts>
#include <utility>

#include "models/context.h"

namespace mneme {

// A layer is a pair of functions and the note that the first leaves for the second. It declares its
// parameters when it is built and owns none of their memory.
//
//   Forward(c, pass, x, skip, saved)    y of x, + skip. `saved` may be null: evaluation, nothing is
//                                       kept and no state moves.
//   Backward(c, pass, dy, skip, saved)  consumes the note; returns dx + skip (assigned) and adds to
//                                       the parameters' gradients.
//   Saved::x                            the only handle of the input in the note. Who can make the
//                                       input again may drop it after Forward and put it back
//                                       before Backward.
//   Saved::ForEachTensor(f)             f(tensor) for every tensor kept.
//
// `skip`, of the shape of what is returned, is what goes round the layer: its last op adds it in
// passing, which a pass of its own over both would cost memory's time for. Undefined: nothing.
template <class L>
concept Layer = requires(const L layer, Context& c, const Pass& pass, const Tensor& x,
                         typename L::Saved* kept, typename L::Saved note) {
  { layer.Forward(c, pass, x, x, kept) } -> std::same_as<Tensor>;
  { layer.Backward(c, pass, x, x, std::move(note)) } -> std::same_as<Tensor>;
  { note.x } -> std::convertible_to<Tensor>;
  note.ForEachTensor([](const Tensor&) {});
};

// Which parts are computed again on the way back.
struct RecomputePlan {
  bool attention = false;
  bool ffn = false;       // dense ones, shared and routed experts
  bool mhc = false;       // mixes and the inner layers' inputs
  bool exchange = false;  // tokens travel to their experts once more
  bool engram = false;    // what follows from the rows and the gate's query
};

// Where `on`, keeps only the input and runs the inner forward again on the way back: the same
// numbers, less memory. Around layers that do not communicate and count nothing.
template <Layer Inner>
struct Recomputed {
  struct Saved {
    Tensor x;                     // the input; the inner note's own handle of it is empty
    typename Inner::Saved inner;  // empty where `on`

    template <class F>
    void ForEachTensor(F&& f) const {
      f(x);
      inner.ForEachTensor(f);
    }
  };

  Inner inner;
  bool on = false;

  Tensor Forward(Context& c, const Pass& pass, const Tensor& x, const Tensor& skip,
                 Saved* saved) const {
    if (saved == nullptr) return inner.Forward(c, pass, x, skip, nullptr);
    saved->x = x;
    if (on) return inner.Forward(c, pass, x, skip, nullptr);
    Tensor y = inner.Forward(c, pass, x, skip, &saved->inner);
    saved->inner.x = Tensor();
    return y;
  }

  Tensor Backward(Context& c, const Pass& pass, const Tensor& dy, const Tensor& skip,
                  Saved saved) const {
    if (on) {
      inner.Forward(c, pass, saved.x, {}, &saved.inner);
    } else {
      saved.inner.x = std::move(saved.x);
    }
    return inner.Backward(c, pass, dy, skip, std::move(saved.inner));
  }
};

// Bytes that a note keeps alive, counting a shared tensor once a handle.
template <class Saved>
int64_t KeptBytes(const Saved& saved) {
  int64_t bytes = 0;
  saved.ForEachTensor([&](const Tensor& t) { bytes += t.defined() ? t.bytes() : 0; });
  return bytes;
}

}  // namespace mneme
