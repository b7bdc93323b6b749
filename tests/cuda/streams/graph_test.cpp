// Operations captured in CUDA graphs: replayed with changed inputs and changed counts, every replay checked.
#include "cuda/graph.hpp"
#include "cuda/support.hpp"
#include "verify/numbers.hpp"

namespace mixcomm::test {
namespace {

constexpr int replays = 200;
constexpr std::size_t most_elements = 1 << 14;
constexpr int slots = 8;

/// A communicator and memory for several calls.
struct Rig {
  Rig(Bootstrap& bootstrap, const CommunicatorOptions& options, const std::shared_ptr<verify::Device>& device)
      : communicator(bootstrap, options), verifier(communicator, device, most_elements, slots) {}

  PreparedCall call(int slot, const verify::Case& c) { return {&verifier, slot, c}; }

  Communicator communicator;
  verify::Verifier verifier;
};

/// Rows 1 .. 3, 0 now and then.
std::vector<std::size_t> some_rows(int dp, std::uint64_t seed) {
  std::vector<std::size_t> rows;
  for (int d = 0; d < dp; ++d) rows.push_back(verify::mix(seed * 16 + static_cast<std::uint64_t>(d)) % 4);
  return rows;
}

/// Six calls of different kinds that follow each other.
std::vector<PreparedCall> calls_of(Rig& rig, int first_slot, int count, std::uint64_t seed) {
  using verify::Buffers;
  const verify::Case kinds[] = {
      {Op::all_reduce_all_gather,
       Algorithm::one_shot,
       DType::bf16,
       Buffers::plain,
       verify::Values::floats,
       {},
       130,
       0},
      {Op::reduce_scatter_all_reduce,
       Algorithm::two_shot,
       DType::bf16,
       Buffers::symmetric,
       verify::Values::floats,
       {},
       256,
       0},
      {Op::all_reduce,
       Algorithm::two_shot,
       DType::fp32,
       Buffers::symmetric_in_place,
       verify::Values::floats,
       {},
       96,
       0},
      {Op::all_gather,
       Algorithm::one_shot,
       DType::fp16,
       Buffers::symmetric,
       verify::Values::floats,
       {},
       7,
       0},
      {Op::reduce_scatter,
       Algorithm::automatic,
       DType::fp32,
       Buffers::mixed,
       verify::Values::floats,
       {},
       512,
       0},
      {Op::all_reduce_all_gather,
       Algorithm::composed,
       DType::bf16,
       Buffers::symmetric,
       verify::Values::floats,
       {},
       64,
       0},
  };
  std::vector<PreparedCall> calls;
  for (int i = 0; i < count; ++i) {
    verify::Case c = kinds[i % 6];
    c.seed = seed * 1'000'000 + static_cast<std::uint64_t>(i) * 100'001;
    c.rows = some_rows(rig.communicator.options().dp, c.seed);
    calls.push_back(rig.call(first_slot + i, c));
  }
  return calls;
}

/// Meets the other ranks: what comes before it may wait for the device, and no operation runs meanwhile.
void meet(Bootstrap& bootstrap) {
  (void)bootstrap.exchange("testing graphs", "");
}

/// Captures the calls in one graph, and replays it with fresh inputs, each time behind `change(i)`; all are
/// checked.
template <class Change>
std::string replay(Bootstrap& bootstrap, verify::Device& device, std::vector<PreparedCall>& calls,
                   const Change& change) {
  prepare(calls);
  const Graph graph(device.stream(), [&] { launch(calls, device.stream()); });
  const Departure departure(bootstrap);
  meet(bootstrap);
  for (int i = 0; i < replays; ++i) {
    change(i);
    prepare(calls);
    graph.launch();
    device.synchronize();
    if (auto wrong = check(calls); !wrong.empty()) return "replay " + std::to_string(i) + ": " + wrong;
  }
  return "";
}

class Graphs : public CudaTest, public testing::WithParamInterface<Protocol> {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped() || GetParam() != Protocol::lines) return;
    if (const std::string why = why_no_lines(8); !why.empty()) GTEST_SKIP() << why;
  }
};
INSTANTIATE_TEST_SUITE_P(Protocols, Graphs,
                         testing::Values(Protocol::packets, Protocol::lines, Protocol::barriers),
                         [](const auto& instance) { return std::string(name(instance.param)); });

TEST_P(Graphs, SeveralOperationsReplayWithChangedInputs) {
  const auto results = spawn_cuda(Ranks::threads, 8, [](Bootstrap& bootstrap) -> std::string {
    const std::shared_ptr<verify::Device> device = verify::make_device(BackendKind::cuda);
    Rig rig(bootstrap, cuda_options(4, 2, GetParam()), device);
    auto calls = calls_of(rig, 0, 6, 1);
    return replay(bootstrap, *device, calls, [](int) {});
  });
  EXPECT_EQ(failures(results), "");
}

TEST_P(Graphs, RowCountsInDeviceMemoryChangeBetweenReplays) {
  const auto results = spawn_cuda(Ranks::threads, 8, [](Bootstrap& bootstrap) -> std::string {
    const std::shared_ptr<verify::Device> device = verify::make_device(BackendKind::cuda);
    Rig rig(bootstrap, cuda_options(2, 4, GetParam()), device);
    std::vector<PreparedCall> calls;
    int slot = 0;
    for (const Op op : {Op::all_reduce_all_gather, Op::reduce_scatter_all_reduce, Op::all_gather,
                        Op::reduce_scatter, Op::all_reduce}) {
      ++slot;
      calls.push_back(
          rig.call(slot, {.op = op,
                          .algorithm = slot % 3 == 0 ? Algorithm::one_shot : Algorithm::two_shot,
                          .dtype = DType::bf16,
                          .buffers = slot % 2 == 0 ? verify::Buffers::symmetric : verify::Buffers::plain,
                          .values = verify::Values::floats,
                          .rows = some_rows(4, 5),
                          .hidden = static_cast<std::size_t>(slot) * 50,
                          .seed = static_cast<std::uint64_t>(slot) * 100'001,
                          .most = 5}));
    }
    return replay(bootstrap, *device, calls, [&](int i) {
      for (PreparedCall& call : calls) {
        call.c.rows = some_rows(4, static_cast<std::uint64_t>(i));
        if (i % 10 == 0) call.c.rows.assign(4, i % 20 == 0 ? 0 : 5);
      }
    });
  });
  EXPECT_EQ(failures(results), "");
}

TEST_P(Graphs, TwoGraphsTakeTurnsOnOneStream) {
  const auto results = spawn_cuda(Ranks::threads, 4, [](Bootstrap& bootstrap) -> std::string {
    const std::shared_ptr<verify::Device> device = verify::make_device(BackendKind::cuda);
    Rig rig(bootstrap, cuda_options(2, 2, GetParam()), device);
    auto first = calls_of(rig, 0, 3, 2);
    auto second = calls_of(rig, 3, 4, 3);
    prepare(first);
    prepare(second);
    const Graph a(device->stream(), [&] { launch(first, device->stream()); });
    const Graph b(device->stream(), [&] { launch(second, device->stream()); });
    const Departure departure(bootstrap);
    meet(bootstrap);
    for (int i = 0; i < replays; ++i) {
      prepare(first);
      prepare(second);
      const bool swap = i % 3 == 1;
      (swap ? b : a).launch();
      (swap ? a : b).launch();
      if (i % 5 == 0)
        a.launch();  // the same calls once more: same inputs, same results, unless they are in place
      device->synchronize();
      const bool repeated = i % 5 == 0;
      for (const auto* calls : {&first, &second})
        for (const PreparedCall& call : *calls) {
          if (repeated && calls == &first && call.c.buffers == verify::Buffers::symmetric_in_place) continue;
          if (auto wrong = check({call}); !wrong.empty()) return "replay " + std::to_string(i) + ": " + wrong;
        }
    }
    return "";
  });
  EXPECT_EQ(failures(results), "");
}

TEST_P(Graphs, TwoCommunicatorsInterleaveInOneGraph) {
  const auto results = spawn_cuda(Ranks::threads, 8, [](Bootstrap& bootstrap) -> std::string {
    const std::shared_ptr<verify::Device> device = verify::make_device(BackendKind::cuda);
    Rig wide(bootstrap, cuda_options(4, 2, GetParam()), device);
    Rig tall(bootstrap, cuda_options(2, 4), device);
    const auto of_wide = calls_of(wide, 0, 6, 4);
    const auto of_tall = calls_of(tall, 0, 6, 5);
    std::vector<PreparedCall> calls;
    for (std::size_t i = 0; i < of_wide.size(); ++i) {
      calls.push_back(of_wide[i]);
      calls.push_back(of_tall[i]);
    }
    return replay(bootstrap, *device, calls, [](int) {});
  });
  EXPECT_EQ(failures(results), "");
}

TEST_P(Graphs, ReplaysMixWithCallsOutsideOfGraphs) {
  const auto results = spawn_cuda(Ranks::threads, 4, [](Bootstrap& bootstrap) -> std::string {
    const std::shared_ptr<verify::Device> device = verify::make_device(BackendKind::cuda);
    Rig rig(bootstrap, cuda_options(2, 2, GetParam()), device);
    auto captured = calls_of(rig, 0, 3, 6);
    auto direct = calls_of(rig, 3, 5, 7);
    prepare(captured);
    const Graph graph(device->stream(), [&] { launch(captured, device->stream()); });
    const Departure departure(bootstrap);
    meet(bootstrap);
    for (int i = 0; i < replays; ++i) {
      prepare(captured);
      prepare(direct);
      if (i % 2 == 0) graph.launch();
      launch(direct, device->stream());
      if (i % 2 == 1) graph.launch();
      device->synchronize();
      for (const auto* calls : {&captured, &direct})
        if (auto wrong = check(*calls); !wrong.empty()) return "replay " + std::to_string(i) + ": " + wrong;
    }
    return "";
  });
  EXPECT_EQ(failures(results), "");
}

}  // namespace
}  // namespace mixcomm::test
