// What a library that is compared with ours is handed: the C interface between tools/bench/peer.py, the
// module that it loads, and a stand-in for tests.
#pragma once

extern "C" {
/// What a call has. `op`, `dtype`: their numbers in mixcomm; counts in elements, of each DP rank's block.
struct PeerCall {
  int op;
  int dtype;
  int tp;
  int dp;
  int rank;
  void* in;
  void* out;
  const int* counts;
};
/// Makes the call; returns where its result is, null if it failed. Runs in the calling thread.
using PeerRun = void* (*)(const PeerCall* call);
}
