// GPU memory that all ranks reach, on one GPU (and on all, where there are several): ranks as threads and as
// processes.
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "cuda/driver.hpp"
#include "cuda/support.hpp"
#include "cuda/symmetric_memory.hpp"
#include "mixcomm/error.hpp"
#include "support/spawn.hpp"

namespace mixcomm::test {
namespace {

using cuda::check;
using cuda::MemoryProvider;
using cuda::Slices;

constexpr std::size_t mebi = std::size_t{1} << 20U;
const std::string skipped = "skipped: ";

/// A process that has used CUDA must not fork, so this one never does: where ranks are threads, it is those
/// of a child.
std::vector<std::string> spawn_on_gpu(Ranks kind, int world, const std::function<std::string(Bootstrap&)>& fn,
                                      Milliseconds timeout = default_timeout) {
  const auto guarded = [&fn](Bootstrap& b) -> std::string {
    int devices = 0;
    const cudaError_t status = cudaGetDeviceCount(&devices);
    return devices > 0 ? fn(b) : skipped + "there is no CUDA device: " + cudaGetErrorString(status);
  };
  if (kind == Ranks::processes) return spawn(kind, world, guarded, timeout);
  return spawn(Ranks::processes, 1, [&](Bootstrap&) -> std::string {
    const auto results = spawn(kind, world, guarded, timeout);
    return results[0].starts_with(skipped) ? results[0] : failures(results);
  });
}

/// Why the test was skipped, if all ranks say so.
std::optional<std::string> reason_to_skip(const std::vector<std::string>& results) {
  const bool all = std::ranges::all_of(results, [](const auto& text) { return text.starts_with(skipped); });
  return all ? std::optional(results[0].substr(skipped.size())) : std::nullopt;
}

void expect_all_well(const std::vector<std::string>& results) {
  if (const auto reason = reason_to_skip(results)) GTEST_SKIP() << *reason;
  EXPECT_EQ(failures(results), "");
}

std::unique_ptr<MemoryProvider> provider_of(Bootstrap& b, int device = 0, const CudaOptions& options = {}) {
  return cuda::make_memory_provider(b, device, options, default_timeout);
}

std::vector<std::uint8_t> read(const std::byte* from, std::size_t bytes) {
  std::vector<std::uint8_t> data(bytes);
  check(cudaMemcpy(data.data(), from, bytes, cudaMemcpyDeviceToHost), "reading");
  return data;
}

void write(std::byte* to, const std::vector<std::uint8_t>& data) {
  check(cudaMemcpy(to, data.data(), data.size(), cudaMemcpyHostToDevice), "writing");
  check(cudaDeviceSynchronize(), "writing");
}

std::vector<std::uint8_t> pattern(int rank, int round, std::size_t bytes) {
  std::vector<std::uint8_t> data(bytes);
  std::uint32_t x = static_cast<std::uint32_t>(rank * 1000 + round + 1);
  for (auto& byte : data) {
    x = x * 1664525U + 1013904223U;
    byte = static_cast<std::uint8_t>(x >> 24U);
  }
  return data;
}

/// Collective: "" if every rank sees what each has written, into its own slice and then into the next rank's.
std::string use(Bootstrap& b, const Slices& slices, std::size_t bytes, int round) {
  if (reinterpret_cast<std::uintptr_t>(slices.first) % 4096 != 0 || slices.stride < bytes)
    return "laid out wrongly";
  const auto look = [&](int writer, const char* what) -> std::string {
    b.exchange("writing", "");
    for (int r = 0; r < b.world(); ++r)
      if (read(slices.of(r), bytes) != pattern((r + writer) % b.world(), round, bytes))
        return fmt::format("round {}: rank {}'s slice, {}, is wrong", round, r, what);
    b.exchange("reading", "");
    return "";
  };
  for (int r = 0; r < b.world(); ++r)
    if (std::ranges::any_of(read(slices.of(r), bytes), [](std::uint8_t x) { return x != 0; }))
      return fmt::format("round {}: rank {}'s slice is not zeroed", round, r);
  b.exchange("looking", "");
  write(slices.of(b.rank()), pattern(b.rank(), round, bytes));
  if (const auto problem = look(0, "which it has written"); !problem.empty()) return problem;
  round += 100;
  write(slices.of((b.rank() + 1) % b.world()), pattern(b.rank(), round, bytes));
  return look(b.world() - 1, "which the one before has written");
}

class SymmetricMemory : public testing::TestWithParam<Ranks> {};
INSTANTIATE_TEST_SUITE_P(Ranks, SymmetricMemory, testing::Values(Ranks::threads, Ranks::processes),
                         [](const auto& instance) {
                           return instance.param == Ranks::threads ? "threads" : "processes";
                         });

TEST_P(SymmetricMemory, IsZeroedAndSeenByAllRanks) {
  for (const int world : {1, 3, 8}) {
    SCOPED_TRACE(world);
    const auto results = spawn_on_gpu(GetParam(), world, [](Bootstrap& b) -> std::string {
      const auto provider = provider_of(b);
      std::vector<Slices> kept;  // several at a time
      int round = 0;
      for (const std::size_t bytes : {std::size_t{1}, std::size_t{4096}, 2 * mebi, 3 * mebi + 5}) {
        kept.push_back(provider->allocate(bytes));
        if (const auto problem = use(b, kept.back(), bytes, ++round); !problem.empty()) return problem;
      }
      return "";
    });
    expect_all_well(results);
  }
}

TEST_P(SymmetricMemory, IsSeenOnAllDevices) {
  const auto results = spawn_on_gpu(GetParam(), 4, [](Bootstrap& b) -> std::string {
    int devices = 0;
    check(cudaGetDeviceCount(&devices), "counting");
    if (devices == 1) return skipped + "there is one CUDA device only";
    try {
      const int device = b.rank() % devices;
      const auto provider = provider_of(b, device);
      const cuda::UseDevice used(device);
      return use(b, provider->allocate(mebi), mebi, 1);
    } catch (const Unsupported& error) {
      return skipped + error.what();
    }
  });
  expect_all_well(results);
}

TEST_P(SymmetricMemory, ComesBackWhenReleased) {
  const auto results = spawn_on_gpu(GetParam(), 4, [](Bootstrap& b) -> std::string {
    constexpr std::size_t bytes = 64 * mebi;
    const auto provider = provider_of(b);
    const auto free_bytes = [&] {
      b.exchange("releasing", "");
      std::size_t free = 0;
      std::size_t total = 0;
      check(cudaMemGetInfo(&free, &total), "asking for free memory");
      b.exchange("looking", "");
      return free;
    };
    if (const auto problem = use(b, provider->allocate(bytes), bytes, 1); !problem.empty()) return problem;
    const std::size_t before = free_bytes();
    for (int i = 0; i < 20; ++i) {
      const Slices slices = provider->allocate(bytes);
      write(slices.of(b.rank()), pattern(b.rank(), i, 4096));  // the next must be zeroed again
      if (i % 5 != 0) continue;
      b.exchange("writing", "");
      for (int r = 0; r < b.world(); ++r)
        if (read(slices.of(r), 4096) != pattern(r, i, 4096)) return fmt::format("round {}: wrong", i);
      b.exchange("reading", "");
    }
    const std::size_t after = free_bytes();
    if (after + bytes / 2 < before) return fmt::format("{} bytes are gone", before - after);
    const Slices slices = provider->allocate(bytes);
    return use(b, slices, 4096, 2);
  });
  expect_all_well(results);
}

TEST_P(SymmetricMemory, LivesAsLongAsOneRankHoldsIt) {
  const auto results = spawn_on_gpu(GetParam(), 3, [](Bootstrap& b) -> std::string {
    auto provider = provider_of(b);
    Slices slices = provider->allocate(mebi);
    provider.reset();
    write(slices.of(b.rank()), pattern(b.rank(), 1, mebi));
    b.exchange("writing", "");
    if (b.rank() != 2) slices = {};
    b.exchange("releasing", "");
    if (b.rank() != 2) return "";
    for (int r = 0; r < 3; ++r)
      if (read(slices.of(r), mebi) != pattern(r, 1, mebi)) return fmt::format("rank {}'s slice is gone", r);
    std::thread([last = std::move(slices)]() mutable { last = {}; }).join();  // any thread may be the last
    check(cudaDeviceSynchronize(), "releasing");
    return "";
  });
  expect_all_well(results);
}

TEST_P(SymmetricMemory, SaysHowItIsShared) {
  const auto results = spawn_on_gpu(GetParam(), 2, [](Bootstrap& b) -> std::string {
    const std::string name = provider_of(b)->name();
    return name == (GetParam() == Ranks::threads ? "ranks in one process"
                                                 : "file descriptors over Unix sockets")
               ? ""
               : name;
  });
  expect_all_well(results);
}

TEST_P(SymmetricMemory, TooMuchIsSaidOnEveryRankAndLeavesNothing) {
  const auto results = spawn_on_gpu(GetParam(), 3, [](Bootstrap& b) -> std::string {
    const auto provider = provider_of(b);
    try {
      (void)provider->allocate(std::size_t{1} << 43U);
    } catch (const CudaError& error) {
      if (std::string(error.what()).find("ask for less") == std::string::npos) return error.what();
      return use(b, provider->allocate(mebi), mebi, 1);
    }
    return "no error";
  });
  expect_all_well(results);
}

TEST_P(SymmetricMemory, DifferentSizesAreADisagreement) {
  const auto results = spawn_on_gpu(GetParam(), 3, [](Bootstrap& b) -> std::string {
    const auto provider = provider_of(b);
    try {
      (void)provider->allocate(b.rank() == 1 ? 8192 : 4096);
    } catch (const Disagreement& error) {
      return std::string(error.what()).find("rank 1 shares 8192 bytes") == std::string::npos ? error.what()
                                                                                             : "";
    }
    return "no error";
  });
  expect_all_well(results);
}

TEST_P(SymmetricMemory, ADeviceThatIsNotThereIsSaidOnEveryRank) {
  const auto results = spawn_on_gpu(GetParam(), 3, [](Bootstrap& b) -> std::string {
    try {
      (void)provider_of(b, b.rank() == 1 ? 1000 : 0);
    } catch (const InvalidArgument& error) {
      return std::string(error.what()).find("rank 1, describing its GPU: CUDA device 1000") ==
                     std::string::npos
                 ? error.what()
                 : "";
    }
    return "no error";
  });
  expect_all_well(results);
}

TEST_P(SymmetricMemory, MulticastOfOneGpuIsRefused) {
  if (const std::string why = why_no_multicast(); !why.empty()) GTEST_SKIP() << why;
  const auto results = spawn_on_gpu(GetParam(), 2, [](Bootstrap& b) -> std::string {
    CudaOptions options;
    options.multicast = true;
    try {
      (void)provider_of(b, 0, options);
    } catch (const Unsupported& error) {
      return std::string(error.what()).find("multicast was asked for, but") == std::string::npos
                 ? error.what()
                 : "";
    }
    return "no error";
  });
  expect_all_well(results);
}

TEST_P(SymmetricMemory, ARankThatDoesNotComeIsNamed) {
  const auto results = spawn_on_gpu(
      GetParam(), 3,
      [](Bootstrap& b) -> std::string {
        const auto provider = provider_of(b);
        if (b.rank() == 1) {
          std::this_thread::sleep_for(Milliseconds(9000));
          return "";
        }
        try {
          (void)provider->allocate(4096);
        } catch (const Timeout& error) {
          return error.missing() == std::vector{1} ? "" : error.what();
        }
        return "no error";
      },
      Milliseconds(6000));
  expect_all_well(results);
}

TEST(SymmetricMemoryOfProcesses, AKilledRankIsNamed) {
  auto results = spawn_on_gpu(Ranks::processes, 3, [](Bootstrap& b) -> std::string {
    const auto provider = provider_of(b);
    if (b.rank() == 1) (void)raise(SIGKILL);
    try {
      (void)provider->allocate(4096);
    } catch (const Timeout& error) {
      return error.missing() == std::vector{1} ? "" : error.what();
    }
    return "no error";
  });
  if (results[1] == "killed by signal 9") results[1] = "";
  expect_all_well(results);
}

}  // namespace
}  // namespace mixcomm::test
