// What the tests on a GPU have in common.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "mixcomm/mixcomm.hpp"
#include "support/spawn.hpp"
#include "verify/verify.hpp"

namespace mixcomm::test {

/// How many GPUs there are. Starts CUDA in this process, which must not fork behind that.
[[nodiscard]] int gpu_count();

/// Skips the tests of a suite, with the reason, where there is no GPU.
class CudaTest : public testing::Test {
 protected:
  void SetUp() override;
};

/// The same for ranks as processes: they are forked, so this process itself must not touch CUDA.
class CudaProcessTest : public testing::Test {
 protected:
  /// Also skips unless `with_mps` is what it is now: whether processes run on a GPU at the same time.
  void SetUp() override { set_up(true); }
  static void set_up(bool with_mps);
};

/// For waits that are not meant to end in a timeout: MIXCOMM_TIMEOUT_MS, or 30 s.
[[nodiscard]] Milliseconds patience();

/// A communicator's options for the tests: a small workspace, so that messages pass in chunks.
[[nodiscard]] CommunicatorOptions cuda_options(int tp, int dp, Protocol protocol = Protocol::automatic);

/// Why tests of NVLink multicast are not run: "" with MIXCOMM_TEST_MULTICAST=1. What multicast needs of a
/// machine is more than its devices say, and what goes wrong there is not for this process alone to mend.
[[nodiscard]] std::string why_no_multicast();

/// Whether data may travel in lines between the GPUs of these ranks; where it may not, rank 0 prints that it
/// does not. Collective.
[[nodiscard]] bool has_lines(Bootstrap& bootstrap);

/// Why `world` ranks have no lines, for tests of nothing else; "" if they have. Starts CUDA in this process.
[[nodiscard]] std::string why_no_lines(int world);

/// How many GPUs the ranks of a test take turns on: MIXCOMM_TEST_GPUS, or 1.
[[nodiscard]] int gpus_for_tests();

/// spawn(), with a rendezvous that outlasts waits in kernels. All ranks run on GPU 0; with
/// MIXCOMM_TEST_GPUS=N they take turns on the first N, so that with N of them or fewer each has its own. The
/// rank's GPU is its thread's current one, which make_device() and cuda_options() stand for.
std::vector<std::string> spawn_cuda(Ranks kind, int world, const std::function<std::string(Bootstrap&)>& fn);

/// Declared last by a rank, so that it is destroyed first: no rank frees memory while the kernels of others
/// run.
class Departure {
 public:
  explicit Departure(Bootstrap& bootstrap) : bootstrap_(bootstrap) {}
  ~Departure();
  Departure(const Departure&) = delete;
  Departure& operator=(const Departure&) = delete;

 private:
  Bootstrap& bootstrap_;
};

/// Prepared calls in the slots of verifiers: launched one after the other, then all checked.
struct PreparedCall {
  verify::Verifier* verifier;
  int slot;
  verify::Case c;
};
/// Writes fresh inputs: each case's seed moves on.
void prepare(std::vector<PreparedCall>& calls);
void launch(const std::vector<PreparedCall>& calls, void* stream);
/// What is wrong with the first wrong one, or "".
[[nodiscard]] std::string check(const std::vector<PreparedCall>& calls);

[[nodiscard]] bool contains(const std::string& text, std::string_view part);

/// "4x2"
struct GridSize {
  int tp;
  int dp;
  [[nodiscard]] int world() const { return tp * dp; }
};
std::ostream& operator<<(std::ostream& out, const GridSize& grid);

}  // namespace mixcomm::test

namespace mixcomm {
/// For the names of tests.
// NOLINTNEXTLINE(readability-identifier-naming): GoogleTest looks for this name
inline void PrintTo(Protocol protocol, std::ostream* out) {
  *out << name(protocol);
}
}  // namespace mixcomm
