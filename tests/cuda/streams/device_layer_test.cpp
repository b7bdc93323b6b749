// The device layer as its users have it: kernels of their own beside the library's operations, to the bit, in
// graphs, over a pause, and when a rank does not come.
#include <chrono>
#include <cstdint>
#include <optional>
#include <sstream>

#include "cuda/graph.hpp"
#include "cuda/scaled_rank.hpp"
#include "cuda/support.hpp"
#include "support/error_of.hpp"
#include "verify/numbers.hpp"

namespace mixcomm::test {
namespace {

using device::Wire;
using Kind = ScaledKind;

verify::Case operation(std::uint64_t seed) {
  return {.op = static_cast<Op>(seed % 5),
          .algorithm = static_cast<Algorithm>(seed % 3),
          .dtype = DType::bf16,
          .buffers = verify::Buffers::plain,
          .values = verify::Values::floats,
          .rows = {2, seed % 4},
          .hidden = 512,
          .seed = seed};
}

class DeviceLanesCuda : public CudaTest {};
class DeviceLayerCuda : public CudaTest, public testing::WithParamInterface<Kind> {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped() || GetParam().wire != Wire::lines) return;
    if (const std::string why = why_no_lines(4); !why.empty()) GTEST_SKIP() << why;
  }
};
INSTANTIATE_TEST_SUITE_P(Kinds, DeviceLayerCuda,
                         testing::Values(Kind{Wire::packets, DType::fp32}, Kind{Wire::packets, DType::bf16},
                                         Kind{Wire::packets, DType::fp16}, Kind{Wire::lines, DType::fp32},
                                         Kind{Wire::lines, DType::bf16}, Kind{Wire::lines, DType::fp16}),
                         [](const auto& instance) {
                           std::ostringstream text;
                           text << instance.param;
                           return text.str();
                         });

TEST_P(DeviceLayerCuda, AKernelOfOnesOwnIsExactBesideOperations) {
  const Kind kind = GetParam();
  const auto results = spawn_cuda(Ranks::threads, 4, [&](Bootstrap& bootstrap) -> std::string {
    Communicator communicator(bootstrap, cuda_options(2, 2));
    const DeviceLanes lanes =
        communicator.device_lanes({.lanes = 4, .bytes = std::size_t{64} << 10U});  // several passes
    verify::Verifier verifier(communicator, 1 << 13);
    load_device_kernels();
    ScaledRank rank(verifier.device(), kind, communicator.grid().world);
    const Departure departure(bootstrap);
    all_are_ready(bootstrap);
    std::uint64_t round = 0;
    for (const std::size_t count : {0, 1, 7, 30, 61, 1000, 4096, 9999, 20'000}) {
      for (const bool in_place : {false, true}) {
        rank.prepare(count, ++round);
        rank.launch(lanes, count, in_place);
        if (auto wrong = verifier.run(operation(round)); !wrong.empty()) return wrong;
        communicator.check();
        if (auto wrong = rank.check(count, round, in_place); !wrong.empty()) return wrong;
      }
    }
    return "";
  });
  EXPECT_EQ(failures(results), "");
}

TEST_P(DeviceLayerCuda, TeamsLaunchAsOftenAsTheyLike) {
  const Kind kind = GetParam();
  const auto results = spawn_cuda(Ranks::threads, 4, [&](Bootstrap& bootstrap) -> std::string {
    Communicator communicator(bootstrap, cuda_options(2, 2));
    const Grid& grid = communicator.grid();
    const DeviceLanes tp = communicator.device_lanes({.team = TeamKind::tp, .lanes = 2});
    const DeviceLanes dp = communicator.device_lanes({.team = TeamKind::dp, .lanes = 3});
    verify::Verifier verifier(communicator, 1 << 13);
    load_device_kernels();
    ScaledRank over_tp(verifier.device(), kind, grid.tp);
    ScaledRank over_dp(verifier.device(), kind, grid.dp);
    const Departure departure(bootstrap);
    all_are_ready(bootstrap);
    for (std::uint64_t round = 1; round < 20; ++round) {
      const std::size_t times = grid.dp.member == 0 ? 1 : 3;
      over_tp.prepare(500, round);
      for (std::size_t i = 0; i < times; ++i) over_tp.launch(tp, 500);
      over_dp.prepare(777, round);
      over_dp.launch(dp, 777);
      if (auto wrong = verifier.run(operation(round)); !wrong.empty()) return wrong;
      if (auto wrong = over_tp.check(500, round); !wrong.empty()) return "tp: " + wrong;
      if (auto wrong = over_dp.check(777, round); !wrong.empty()) return "dp: " + wrong;
    }
    return "";
  });
  EXPECT_EQ(failures(results), "");
}

TEST_P(DeviceLayerCuda, AGraphIsReplayedAlsoAfterAPause) {
  const Kind kind = GetParam();
  const auto results = spawn_cuda(Ranks::threads, 2, [&](Bootstrap& bootstrap) -> std::string {
    constexpr std::size_t count = 3000;
    Communicator communicator(bootstrap, cuda_options(2, 1));
    const DeviceLanes lanes = communicator.device_lanes({.lanes = 4});
    const auto device = verify::make_device(BackendKind::cuda);
    load_device_kernels();
    ScaledRank rank(*device, kind, communicator.grid().world);
    const auto beside = device->allocate(4096);
    const Tensor tensor{beside.get(), 1, 1024, DType::fp32};
    const Departure departure(bootstrap);
    const Graph graph(device->stream(), [&] {
      communicator.all_reduce(tensor, tensor, {.stream = device->stream()});
      rank.launch(lanes, count);
    });
    all_are_ready(bootstrap);
    for (std::uint64_t round = 1; round < 30; ++round) {
      if (round == 15) {
        communicator.pause();
        communicator.resume();
      }
      rank.prepare(count, round);
      graph.launch();
      if (auto wrong = rank.check(count, round); !wrong.empty()) return wrong;
    }
    communicator.check();
    return "";
  });
  EXPECT_EQ(failures(results), "");
}

/// Runs `launch` and returns the Timeout that it, or what it leaves on the stream, ends in.
template <class Launch>
std::optional<Timeout> timeout_of(Communicator& communicator, verify::Device& device, const Launch& launch) {
  try {
    launch();
    device.synchronize();
    communicator.check();
  } catch (const Timeout& error) {
    return error;
  }
  return std::nullopt;
}

TEST_P(DeviceLayerCuda, ARankThatDoesNotLaunchIsNamedByEveryOther) {
  const Kind kind = GetParam();
  constexpr int absent = 2;
  const auto results = spawn_cuda(Ranks::threads, 4, [&](Bootstrap& bootstrap) -> std::string {
    auto options = cuda_options(2, 2);
    options.timeout = Milliseconds(500);
    Communicator communicator(bootstrap, options);
    const DeviceLanes lanes = communicator.device_lanes({.lanes = 4});
    verify::Verifier verifier(communicator, 1 << 13);
    load_device_kernels();
    ScaledRank rank(verifier.device(), kind, communicator.grid().world);
    const Departure departure(bootstrap);
    all_are_ready(bootstrap);
    rank.prepare(1000, 1);
    rank.launch(lanes, 1000);
    if (auto wrong = rank.check(1000, 1); !wrong.empty()) return wrong;
    if (bootstrap.rank() == absent) return "";
    const auto first = timeout_of(communicator, verifier.device(), [&] { rank.launch(lanes, 1000); });
    if (!first) return "no error";
    if (first->missing() != std::vector{absent})
      return std::string("other ranks were named: ") + first->what();
    if (!contains(first->what(), "a kernel on lanes of device_lanes(), its call 1")) return first->what();
    // Neither operations nor kernels of one's own wait any more.
    const auto begin = std::chrono::steady_clock::now();
    const auto again = timeout_of(communicator, verifier.device(), [&] { rank.launch(lanes, 1000); });
    if (!again || again->what() != std::string(first->what())) return "the failed lanes worked";
    verifier.prepare(operation(3));
    const auto operation = timeout_of(communicator, verifier.device(), [&] { verifier.launch(); });
    if (!operation || operation->what() != std::string(first->what())) return "an operation went on";
    if (std::chrono::steady_clock::now() - begin > std::chrono::milliseconds(400)) return "waited once more";
    return "";
  });
  EXPECT_EQ(failures(results), "");
}

TEST_F(DeviceLanesCuda, KernelsOfOnesOwnLeaveWhereAnOperationHasFailed) {
  constexpr int absent = 1;
  const auto results = spawn_cuda(Ranks::threads, 2, [&](Bootstrap& bootstrap) -> std::string {
    auto options = cuda_options(2, 1);
    options.timeout = Milliseconds(500);
    Communicator communicator(bootstrap, options);
    const DeviceLanes lanes = communicator.device_lanes({.lanes = 4});
    const auto device = verify::make_device(BackendKind::cuda);
    load_device_kernels();
    ScaledRank rank(*device, {Wire::packets, DType::fp32}, communicator.grid().world);
    const auto memory = device->allocate(4096);
    const Tensor tensor{memory.get(), 1, 1024, DType::fp32};
    const Departure departure(bootstrap);
    all_are_ready(bootstrap);
    if (bootstrap.rank() == absent) return "";
    const auto error = timeout_of(communicator, *device, [&] {
      communicator.all_reduce(tensor, tensor, {.stream = device->stream()});
      rank.launch(lanes, 1000);
    });
    if (!error) return "no error";
    return contains(error->what(), "all_reduce") ? "" : error->what();
  });
  EXPECT_EQ(failures(results), "");
}

TEST_F(DeviceLanesCuda, PlainDataBetweenBarriersOfOnesOwnAreExact) {
  const auto results = spawn_cuda(Ranks::threads, 4, [](Bootstrap& bootstrap) -> std::string {
    constexpr std::size_t count = 1000;
    auto options = cuda_options(4, 1);
    options.timeout = std::min(options.timeout, Milliseconds(2000));
    Communicator communicator(bootstrap, options);
    const DeviceLanes lanes = communicator.device_lanes({.lanes = 4});
    const auto device = verify::make_device(BackendKind::cuda);
    load_device_kernels();
    const auto in = device->allocate(count * 4);
    const auto out = device->allocate(4 * count * 4);
    const Departure departure(bootstrap);
    all_are_ready(bootstrap);
    const auto word = [](int rank, std::size_t i, std::uint64_t round) {
      return static_cast<std::uint32_t>(
          verify::mix((round * 8 + static_cast<std::uint64_t>(rank)) << 32U | i));
    };
    const auto run = [&](std::uint64_t round) {
      launch({&lanes, 4, round, device->stream()},
             Gathered{reinterpret_cast<const std::uint32_t*>(in.get()),
                      reinterpret_cast<std::uint32_t*>(out.get()), count});
    };
    for (std::uint64_t round = 1; round < 50; ++round) {
      std::vector<std::uint32_t> words(count);
      for (std::size_t i = 0; i < count; ++i) words[i] = word(bootstrap.rank(), i, round);
      device->write(in.get(), reinterpret_cast<const std::byte*>(words.data()), count * 4);
      run(round);
      words.resize(4 * count);
      device->read(reinterpret_cast<std::byte*>(words.data()), out.get(), 4 * count * 4);
      communicator.check();
      for (std::size_t i = 0; i < 4 * count; ++i)
        if (words[i] != word(static_cast<int>(i / count), i % count, round))
          return "round " + std::to_string(round) + ": word " + std::to_string(i) + " is wrong";
    }
    if (bootstrap.rank() == 3) return "";
    const auto error = timeout_of(communicator, *device, [&] { run(50); });
    if (!error) return "no error";
    return error->missing() == std::vector{3} ? "" : error->what();
  });
  EXPECT_EQ(failures(results), "");
}

TEST_F(DeviceLanesCuda, LanesThatCannotBeAreRefusedOnEveryRank) {
  const auto results = spawn_cuda(Ranks::threads, 2, [](Bootstrap& bootstrap) -> std::string {
    Communicator communicator(bootstrap, cuda_options(2, 1));
    const Departure departure(bootstrap);
    const std::string many = error_of<Error>([&] { (void)communicator.device_lanes({.lanes = 129}); });
    if (!contains(many, "lanes is 129") || !contains(many, "0 for all")) return "many: " + many;
    const std::string few = error_of<Error>([&] { (void)communicator.device_lanes({.lanes = -1}); });
    if (!contains(few, "lanes is -1")) return "few: " + few;
    const std::string small = error_of<Error>([&] { (void)communicator.device_lanes({.bytes = 1000}); });
    if (!contains(small, "bytes is 1000")) return "small: " + small;
    const std::string other =
        error_of<Error>([&] { (void)communicator.device_lanes({.lanes = 1 + bootstrap.rank()}); });
    return contains(other, "all ranks must pass the same") ? "" : "other: " + other;
  });
  EXPECT_EQ(failures(results), "");
}

}  // namespace
}  // namespace mixcomm::test
