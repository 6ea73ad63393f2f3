// Pulses between hosts, as small files in a folder that all of them see.
#pragma once

#include <string>

#include "parallel/pulse_board.h"

namespace mneme {

// One a rank; of a host one acts at a time. Only where a job has several hosts: one host's ranks
// share memory.
class PulseCourier {
 public:
  // Borrows the board. `folder` is made where it is missing.
  PulseCourier(PulseBoard& board, std::string folder, int rank);

  // Takes away what a job left that was killed. By one rank, before any begins its rounds.
  void Clear() const;
  // Writes what this host's ranks show, and takes over what the other hosts' files say. A file that
  // cannot be written or read is passed over: its ranks then seem silent.
  void Round();
  // True for the first host that asks, once; also where the folder does not answer.
  bool Claim() const;
  // Takes this host's file away, and the folder when it was the last.
  void Remove() const;

 private:
  std::string FileOf(int leader) const;
  void Write() const;
  void Read(int leader);

  PulseBoard& board_;
  const std::string folder_;
  const int leader_;
};

}  // namespace mneme
