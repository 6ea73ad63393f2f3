// Manifold-constrained hyper-connections around any inner layer, and the read-out of the streams
// (docs/mathematics.md). With one stream: the plain residual x + F(x), no parameters.
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "configs/model.h"
#include "models/layer.h"
#include "parallel/parameter.h"

namespace mneme {

// What the ops of mHC are told of a model.
HyperOptions HyperOptionsOf(const ModelConfig& model);

// The residual streams between two sub-layers. The way out of the last one may still be to go: the
// next one's way in then makes both in one pass.
struct ResidualStreams {
  Tensor x;             // [T, n, C]
  Tensor res, post, y;  // of the way out that is to go; undefined: none

  ResidualStreams(Tensor streams) : x(std::move(streams)) {}
  // x behind the way out, [T, n, C]; x itself where none is to go.
  Tensor Settle(Context& c) const;
};

// The three mixes of one sub-layer.
struct HyperMixes {
  struct Saved {
    // All accurate; as kernels/ops/hyper.h names them.
    Tensor r;          // [T]
    Tensor m;          // [T, n² + 2n]
    Tensor pre, post;  // [T, n] weights of h, of y
    Tensor res;        // [T, n, n] row i: the weights of output stream i

    template <class F>
    void ForEachTensor(F&& f) const {
      for (const Tensor* t : {&r, &m, &pre, &post, &res}) f(*t);
    }
  };

  HyperOptions options;
  Parameter* phi = nullptr;    // [n C, n² + 2n]
  Parameter* alpha = nullptr;  // [3]
  Parameter* bias = nullptr;   // [n² + 2n]

  // Pieces prefix.phi, .alpha, .bias; phi is Muon's, the others AdamW's without decay. All are read
  // accurately. REQUIRES: more than one stream.
  static HyperMixes Declare(ParameterStore& store, const std::string& prefix,
                            const ModelConfig& model);

  // Settles the streams into x [T, n, C]; fills in the note; returns the inner layer's input h
  // [T, C].
  Tensor Enter(Context& c, const ResidualStreams& streams, Tensor& x, Saved& note) const;

  // Gradients of the way out, but that of x: dres [T, n, n], dpost [T, n], dy [T, C].
  struct LeaveGrad {
    Tensor dres, dpost, dy;
  };
  LeaveGrad BackwardLeave(Context& c, const Tensor& dout, const Tensor& x, const Saved& note,
                          const Tensor& y) const;
  // The gradient of x, through the way out and through Enter; adds to those of the parameters. dout
  // [T, n, C], dh [T, C].
  Tensor BackwardEnter(Context& c, const Tensor& dout, const Tensor& dh, const Tensor& x,
                       const Saved& note, const LeaveGrad& grad) const;
};

// Activations are [T, n, C] outside and [T, C] inside.
template <Layer Inner>
struct HyperConnected {
  struct Saved {
    Tensor x;                 // [T, n, C]; undefined with one stream
    Tensor y;                 // [T, C] the inner layer's output; likewise
    HyperMixes::Saved mixes;  // empty under `recompute`
    typename Inner::Saved inner;

    template <class F>
    void ForEachTensor(F&& f) const {
      f(x);
      f(y);
      mixes.ForEachTensor(f);
      inner.ForEachTensor(f);
    }
  };

  Inner inner;
  std::optional<HyperMixes> mixes;  // none with one stream
  // The mixes and the inner layer's input are made again, and so may be the streams.
  bool recompute = false;

  // Returns the streams with this sub-layer's way out still to go. saved may be null.
  ResidualStreams Forward(Context& c, const Pass& pass, const ResidualStreams& streams,
                          Saved* saved) const {
    const InPart part(c.parts, Part::kStreams);
    Tensor x = streams.x;
    if (!mixes.has_value()) {
      const Tensor in = x.Reshape({x.dim(0), x.dim(1) * x.dim(2)});
      return inner.Forward(c, pass, in, in, saved ? &saved->inner : nullptr).Reshape(x.shape());
    }
    HyperMixes::Saved note;
    const Tensor h = mixes->Enter(c, streams, x, note);
    ResidualStreams out = x;
    out.y = inner.Forward(c, pass, h, {}, saved ? &saved->inner : nullptr);
    out.res = note.res;
    out.post = note.post;
    if (saved == nullptr) return out;
    saved->x = x;
    saved->y = out.y;
    if (recompute) {
      saved->inner.x = Tensor();
    } else {
      saved->mixes = std::move(note);
    }
    return out;
  }

  // Whether Remake has anything to make.
  bool remakes() const { return recompute && mixes.has_value(); }
  // Where it remakes, before Backward: what it does not keep, from what came in as in Forward.
  // Returns what it handed on.
  ResidualStreams Remake(Context& c, const ResidualStreams& streams, Saved& saved) const {
    const InPart part(c.parts, Part::kStreams);
    saved.inner.x = mixes->Enter(c, streams, saved.x, saved.mixes);
    ResidualStreams out = saved.x;
    out.res = saved.mixes.res;
    out.post = saved.mixes.post;
    out.y = saved.y;
    return out;
  }

  // dout [T, n, C] -> dx of the same shape. Consumes the note; makes again what it lacks, where the
  // caller has not.
  Tensor Backward(Context& c, const Pass& pass, const Tensor& dout, Saved saved) const {
    const InPart part(c.parts, Part::kStreams);
    if (!mixes.has_value()) {
      const Shape flat = {dout.dim(0), dout.dim(1) * dout.dim(2)};
      const Tensor dy = dout.Reshape(flat);
      return inner.Backward(c, pass, dy, dy, std::move(saved.inner)).Reshape(dout.shape());
    }
    if (recompute && !saved.inner.x.defined()) Remake(c, saved.x, saved);
    const auto grad = mixes->BackwardLeave(c, dout, saved.x, saved.mixes, saved.y);
    saved.y = Tensor();
    const Tensor dh = inner.Backward(c, pass, grad.dy, {}, std::move(saved.inner));
    return mixes->BackwardEnter(c, dout, dh, saved.x, saved.mixes, grad);
  }
};

// Streams to one vector before the last norm: learned, mean or sum.
struct Readout {
  struct Saved {
    Tensor x;         // [T, n, C]
    Tensor r;         // [T]; these three of the learned read-out only
    Tensor logit, w;  // [T, n]

    template <class F>
    void ForEachTensor(F&& f) const {
      for (const Tensor* t : {&x, &r, &logit, &w}) f(*t);
    }
  };

  HyperOptions options;
  double factor = 1.0;         // of the plain sum: 1, or 1/n for the mean
  Parameter* fn = nullptr;     // [n, n C]; these three of the learned read-out only
  Parameter* scale = nullptr;  // [1]
  Parameter* base = nullptr;   // [n]

  // Pieces readout.fn, .scale, .base where learned.
  static Readout Declare(ParameterStore& store, const ModelConfig& model);

  // x [T, n, C] -> [T, C], a view of x with one stream. saved may be null; it is left empty where
  // the read-out is not learned.
  Tensor Forward(Context& c, const Tensor& x, Saved* saved) const;
  // dh [T, C] -> dx [T, n, C].
  Tensor Backward(Context& c, const Tensor& dh, Saved saved) const;
};

}  // namespace mneme
