// Epilogues on a GPU: the residual, the norm and FP8 inside operations, with ranks as streams of one process,
// against an independent oracle, and by themselves against the CPU's.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <optional>
#include <random>

#include "cuda/graph.hpp"
#include "cuda/support.hpp"
#include "verify/numbers.hpp"

namespace mixcomm::test {
namespace {

/// Room for a row of 7168 fp32 elements from each of 16 ranks; with few lanes messages still pass in chunks.
constexpr std::size_t workspace_bytes = std::size_t{1} << 20U;

CommunicatorOptions options_of(const GridSize& grid, Protocol protocol) {
  CommunicatorOptions options = cuda_options(grid.tp, grid.dp, protocol);
  options.workspace_bytes = workspace_bytes;
  return options;
}

struct Rig {
  Rig(Bootstrap& bootstrap, const CommunicatorOptions& options, const std::shared_ptr<verify::Device>& device,
      std::size_t elements, int slots = 1)
      : communicator(bootstrap, options), verifier(communicator, device, elements, slots) {}
  Communicator communicator;
  verify::Verifier verifier;
};

std::string check_cases(Bootstrap& bootstrap, const GridSize& grid, const std::vector<verify::Case>& cases) {
  const std::size_t most = verify::most_elements(cases, grid.dp);
  const std::shared_ptr<verify::Device> device = verify::make_device(BackendKind::cuda);
  Rig automatic(bootstrap, options_of(grid, Protocol::automatic), device, most);
  Rig packets(bootstrap, options_of(grid, Protocol::packets), device, most);
  std::optional<Rig> lines;
  if (has_lines(bootstrap)) lines.emplace(bootstrap, options_of(grid, Protocol::lines), device, most);
  const Departure departure(bootstrap);
  for (verify::Case c : cases) {
    std::vector<std::pair<const char*, Rig*>> ways{{"", &automatic}};
    if (c.algorithm == Algorithm::one_shot || c.algorithm == Algorithm::two_shot) {
      ways = {{"over packets: ", &packets}};
      if (lines) ways.emplace_back("over lines: ", &*lines);
    }
    for (const auto& [name, rig] : ways) {
      if (const std::string wrong = rig->verifier.run(c); !wrong.empty()) return name + wrong;
      c.seed += std::uint64_t{1} << 48U;
    }
  }
  return "";
}

class EpiloguesCuda : public CudaTest, public testing::WithParamInterface<GridSize> {
 protected:
  static void check(bool large) {
    const GridSize grid = GetParam();
    auto cases = verify::cases_of(
        {.tp = grid.tp, .dp = grid.dp, .large = large, .backend = BackendKind::cuda, .epilogues = true});
    if (large) std::erase_if(cases, [](const verify::Case& c) { return c.hidden < 2048; });
    ASSERT_GT(cases.size(), 100U);
    const auto results = spawn_cuda(Ranks::threads, grid.world(), [&](Bootstrap& bootstrap) {
      return check_cases(bootstrap, grid, cases);
    });
    EXPECT_EQ(failures(results), "");
  }
};

TEST_P(EpiloguesCuda, EveryCaseIsExact) {
  check(false);
}
TEST_P(EpiloguesCuda, EveryModelsRowIsExact) {
  check(true);
}

INSTANTIATE_TEST_SUITE_P(Grids, EpiloguesCuda,
                         testing::Values(GridSize{1, 1}, GridSize{2, 1}, GridSize{1, 2}, GridSize{2, 2},
                                         GridSize{4, 1}, GridSize{1, 4}, GridSize{3, 2}, GridSize{4, 2},
                                         GridSize{2, 4}, GridSize{16, 1}, GridSize{4, 4}),
                         testing::PrintToStringParamName());

/// The steps of epilogues that follow each other.
std::vector<verify::Steps> some_steps() {
  return {{.adds = true, .keeps = true, .norms = true},
          {.adds = true, .keeps = true, .norms = true, .plus_one = true, .in_place = true},
          {.adds = true, .keeps = true, .norms = true, .quantize = Quantize::per_128_columns},
          {.norms = true, .quantize = Quantize::per_token}};
}

class EpilogueBatchesCuda : public CudaTest {};

/// Calls that follow each other without a wait, by themselves and captured: operations with and without an
/// epilogue share the workspace and count together.
TEST_F(EpilogueBatchesCuda, FollowOtherOperationsAlsoInGraphs) {
  constexpr GridSize grid{2, 2};
  constexpr int slots = 8;
  const auto results = spawn_cuda(Ranks::threads, grid.world(), [&](Bootstrap& bootstrap) -> std::string {
    const std::shared_ptr<verify::Device> device = verify::make_device(BackendKind::cuda);
    std::vector<Protocol> protocols{Protocol::automatic, Protocol::packets};
    if (has_lines(bootstrap)) protocols.push_back(Protocol::lines);
    for (const Protocol protocol : protocols) {
      Rig rig(bootstrap, options_of(grid, protocol), device, 1 << 14, slots);
      const Departure departure(bootstrap);
      std::vector<PreparedCall> calls;
      for (int slot = 0; slot < slots; ++slot) {
        verify::Case c{.op = slot % 4 < 2 ? Op::all_reduce_all_gather : Op::reduce_scatter_all_reduce,
                       .algorithm = slot % 2 == 0 ? Algorithm::one_shot : Algorithm::two_shot,
                       .dtype = slot % 3 == 0 ? DType::fp32 : DType::bf16,
                       .buffers = verify::Buffers::plain,
                       .values = verify::Values::floats,
                       .rows = {static_cast<std::size_t>(slot) % 3, 3},
                       .hidden = 520,
                       .seed = static_cast<std::uint64_t>(slot) * 1'000'001};
        if (slot % 4 != 3) c.steps = some_steps()[static_cast<std::size_t>(slot) % some_steps().size()];
        calls.push_back({&rig.verifier, slot, c});
      }
      std::optional<Graph> graph;
      for (int i = 0; i < 60; ++i) {
        prepare(calls);
        if (i == 20) graph.emplace(device->stream(), [&] { launch(calls, device->stream()); });
        if (graph)
          graph->launch();
        else
          launch(calls, device->stream());
        device->synchronize();
        if (auto wrong = check(calls); !wrong.empty())
          return std::string(name(protocol)) + ", round " + std::to_string(i) + ": " + wrong;
      }
    }
    return "";
  });
  EXPECT_EQ(failures(results), "");
}

/// apply() on the device against apply() on the host: any hidden size, also rows that are too long for shared
/// memory.
TEST_F(EpilogueBatchesCuda, ApplyGivesTheBitsOfTheCpu) {
  const auto results = spawn_cuda(Ranks::threads, 1, [&](Bootstrap& bootstrap) -> std::string {
    const std::shared_ptr<verify::Device> device = verify::make_device(BackendKind::cuda);
    Communicator communicator(bootstrap, options_of({1, 1}, Protocol::automatic));
    constexpr std::size_t room = std::size_t{1} << 20U;
    const auto memory = device->allocate(6 * room);
    std::mt19937_64 random(7);
    for (int round = 0; round < 150; ++round) {
      const std::size_t sizes[] = {1, 7, 128, 2880, 4096, 7168, 30000, 1 + random() % 9000};
      const std::size_t hidden = sizes[random() % std::size(sizes)];
      const std::size_t rows = hidden > 9000 ? 3 : 1 + random() % 9;
      const auto dtype = static_cast<DType>(random() % 3);
      const std::size_t element = size_of(dtype);
      const auto quantize = static_cast<Quantize>(random() % 4);
      const bool adds = random() % 3 != 0;
      const bool keeps = random() % 2 != 0;
      const bool norms = random() % 4 != 0;
      std::vector<std::byte> host(6 * room);
      const std::size_t odd = random() % 3 * element;
      const auto at = [&](std::byte* base, std::size_t which) { return base + which * room + odd; };
      for (std::size_t which = 0; which < 3; ++which)
        for (std::size_t i = 0; i < rows * hidden; ++i)
          verify::store(
              dtype, at(host.data(), which), i,
              verify::encode(dtype, static_cast<float>(static_cast<std::int32_t>(random())) * 0x1p-29F));
      const float fixed = 0.02F;
      std::memcpy(host.data() + 2 * room + room / 2 + room / 4, &fixed, sizeof(fixed));
      device->write(memory.get(), host.data(), host.size());
      const auto apply_in = [&](std::byte* base, const auto& call) {
        Epilogue epilogue;
        if (adds) epilogue.residual = {at(base, 1), rows, hidden, dtype};
        if (keeps) epilogue.residual_out = {at(base, 4), rows, hidden, dtype};
        if (norms) epilogue.weight = {at(base, 2), 1, hidden, dtype};
        epilogue.weight_plus_one = norms && round % 2 == 0;
        epilogue.quantize = quantize;
        if (scales_per_row(quantize, hidden) > 0) epilogue.scales = reinterpret_cast<float*>(base + 5 * room);
        if (quantize == Quantize::fixed)
          epilogue.fixed_scale = reinterpret_cast<const float*>(base + 2 * room + room / 2 + room / 4);
        call(epilogue, ConstTensor{at(base, 0), rows, hidden, dtype},
             Tensor{base + 3 * room + odd, rows, hidden,
                    quantize == Quantize::none ? dtype : DType::fp8_e4m3});
      };
      apply_in(memory.get(), [&](const Epilogue& epilogue, const ConstTensor& in, const Tensor& out) {
        communicator.apply(in, out, {.stream = device->stream(), .shape = {}, .epilogue = epilogue});
      });
      apply_in(host.data(), [](const Epilogue& epilogue, const ConstTensor& in, const Tensor& out) {
        apply(epilogue, in, out);
      });
      std::vector<std::byte> got(host.size());
      device->synchronize();
      device->read(got.data(), memory.get(), got.size());
      const auto [wanted, other] = std::mismatch(host.begin(), host.end(), got.begin());
      if (wanted != host.end())
        return "round " + std::to_string(round) + ": hidden " + std::to_string(hidden) + " rows " +
               std::to_string(rows) + " " + std::string(name(dtype)) + " fp8 " + std::string(name(quantize)) +
               (adds ? " add" : "") + (keeps ? " keep" : "") + (norms ? " norm" : "") + ": another byte at " +
               std::to_string(wanted - host.begin());
    }
    return "";
  });
  EXPECT_EQ(failures(results), "");
}

TEST_F(EpilogueBatchesCuda, ARowThatDoesNotFitTheWorkspaceIsRefused) {
  const auto results = spawn_cuda(Ranks::threads, 2, [&](Bootstrap& bootstrap) -> std::string {
    const std::shared_ptr<verify::Device> device = verify::make_device(BackendKind::cuda);
    Communicator communicator(bootstrap, cuda_options(2, 1));  // 64 KiB
    constexpr std::size_t hidden = 30000;
    const auto memory = device->allocate(3 * hidden * 4);
    const Departure departure(bootstrap);
    const Epilogue epilogue{.weight = {memory.get(), 1, hidden, DType::fp32}};
    try {
      communicator.all_reduce({memory.get() + hidden * 4, 1, hidden, DType::fp32},
                              {memory.get() + hidden * 8, 1, hidden, DType::fp32},
                              {.stream = device->stream(), .shape = {}, .epilogue = epilogue});
      return "no error";
    } catch (const InvalidArgument& error) {
      return contains(error.what(), "workspace_bytes") ? "" : error.what();
    }
  });
  EXPECT_EQ(failures(results), "");
}

struct Way {
  Algorithm algorithm;
  Protocol protocol;
};

/// Who has not come is named, and nothing of a row that has not come is handed on.
TEST_F(EpilogueBatchesCuda, ARankThatNeverComesIsNamedByEveryOther) {
  constexpr int absent = 2;
  for (const Way way :
       {Way{Algorithm::one_shot, Protocol::packets}, Way{Algorithm::two_shot, Protocol::packets},
        Way{Algorithm::one_shot, Protocol::lines}, Way{Algorithm::two_shot, Protocol::lines}}) {
    if (way.protocol == Protocol::lines && !why_no_lines(4).empty()) continue;
    SCOPED_TRACE(std::string(name(way.algorithm)) + " over " + std::string(name(way.protocol)));
    const auto results = spawn_cuda(Ranks::threads, 4, [&](Bootstrap& bootstrap) -> std::string {
      CommunicatorOptions options = options_of({2, 2}, way.protocol);
      options.timeout = Milliseconds(500);
      Communicator communicator(bootstrap, options);
      verify::Verifier verifier(communicator, 1 << 13);
      const Departure departure(bootstrap);
      verify::Case c{.op = Op::all_reduce_all_gather,
                     .algorithm = way.algorithm,
                     .dtype = DType::bf16,
                     .buffers = verify::Buffers::plain,
                     .values = verify::Values::floats,
                     .rows = {2, 3},
                     .hidden = 512,
                     .seed = 1};
      c.steps = some_steps()[0];
      if (auto wrong = verifier.run(c); !wrong.empty()) return wrong;
      if (bootstrap.rank() == absent) return "";
      c.seed = 2;
      verifier.prepare(c);
      verifier.launch();
      verifier.device().synchronize();
      try {
        communicator.check();
        return "no error";
      } catch (const Timeout& error) {
        if (error.missing() != std::vector{absent})
          return std::string("other ranks were named: ") + error.what();
      }
      return "";
    });
    EXPECT_EQ(failures(results), "");
  }
}

}  // namespace
}  // namespace mixcomm::test
