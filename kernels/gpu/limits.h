// The largest sizes that the GPU's kernels are written for: what a table of ops promises
// (kernels/kernels.h, Limits), and what its files check.
#pragma once

namespace mneme::gpu {

inline constexpr int kMostStreams = 8;   // of mHC
inline constexpr int kMaxExperts = 512;  // of a router
inline constexpr int kMostChosen = 32;   // experts of a token: a lane each
inline constexpr int kMostBack = 64;     // tokens of an n-gram

}  // namespace mneme::gpu
