// Every operation, algorithm, protocol, dtype, buffer kind and row pattern, with ranks as streams of one
// process, against an independent oracle.
#include <cuda_runtime_api.h>

#include <optional>

#include "cuda/support.hpp"

namespace mixcomm::test {
namespace {

/// Each kind of case on the communicator whose options matter to it.
std::string check_cases(Bootstrap& bootstrap, const GridSize& grid, const std::vector<verify::Case>& cases,
                        bool multicast = false) {
  const std::size_t most = verify::most_elements(cases, grid.dp);
  const std::shared_ptr<verify::Device> device = verify::make_device(BackendKind::cuda);
  struct Rig {
    Rig(Bootstrap& b, const CommunicatorOptions& options,
        const std::shared_ptr<verify::Device>& shared_device, std::size_t elements)
        : communicator(b, options), verifier(communicator, shared_device, elements) {}
    Communicator communicator;
    verify::Verifier verifier;
  };
  const auto options = [&](Protocol protocol) {
    CommunicatorOptions o = cuda_options(grid.tp, grid.dp, protocol);
    o.cuda.multicast = multicast;
    return o;
  };
  Rig automatic(bootstrap, options(Protocol::automatic), device, most);
  Rig packets(bootstrap, options(Protocol::packets), device, most);
  std::optional<Rig> lines;
  if (has_lines(bootstrap)) lines.emplace(bootstrap, options(Protocol::lines), device, most);
  Rig barriers(bootstrap, options(Protocol::barriers), device, most);
  const Departure departure(bootstrap);
  for (verify::Case c : cases) {
    std::vector<std::pair<const char*, Rig*>> ways{{"", &automatic}};
    if (c.algorithm == Algorithm::one_shot) ways = {{"over packets: ", &packets}};
    if (c.algorithm == Algorithm::two_shot)
      ways = {{"over packets: ", &packets}, {"over barriers: ", &barriers}};
    if (lines && (c.algorithm == Algorithm::one_shot || c.algorithm == Algorithm::two_shot))
      ways.emplace_back("over lines: ", &*lines);
    for (const auto& [name, rig] : ways) {
      if (const std::string wrong = rig->verifier.run(c); !wrong.empty()) return name + wrong;
      c.seed += std::uint64_t{1} << 48U;
    }
  }
  return "";
}

class CollectivesCuda : public CudaTest, public testing::WithParamInterface<GridSize> {};

TEST_P(CollectivesCuda, EveryCaseIsExact) {
  const GridSize grid = GetParam();
  const auto cases =
      verify::cases_of({.tp = grid.tp, .dp = grid.dp, .large = true, .backend = BackendKind::cuda});
  ASSERT_GT(cases.size(), 1000U);
  const auto results = spawn_cuda(Ranks::threads, grid.world(),
                                  [&](Bootstrap& bootstrap) { return check_cases(bootstrap, grid, cases); });
  EXPECT_EQ(failures(results), "");
}

INSTANTIATE_TEST_SUITE_P(Grids, CollectivesCuda,
                         testing::Values(GridSize{1, 1}, GridSize{2, 1}, GridSize{1, 2}, GridSize{2, 2},
                                         GridSize{4, 1}, GridSize{1, 4}, GridSize{3, 2}, GridSize{4, 2},
                                         GridSize{2, 4}, GridSize{8, 1}, GridSize{1, 8}, GridSize{2, 8},
                                         GridSize{16, 1}, GridSize{4, 4}),
                         testing::PrintToStringParamName());

/// Few cases, for tools that slow kernels down a hundredfold.
class MulticastCuda : public CudaTest {};

TEST_F(MulticastCuda, GivesTheSameWhereDevicesHaveIt) {
  if (const std::string why = why_no_multicast(); !why.empty()) GTEST_SKIP() << why;
  constexpr auto multicast_supported =
      static_cast<cudaDeviceAttr>(132);  // CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED
  int supported = 0;
  int devices = 0;
  ASSERT_EQ(cudaGetDeviceCount(&devices), cudaSuccess);
  if (cudaDeviceGetAttribute(&supported, multicast_supported, 0) != cudaSuccess || supported == 0)
    GTEST_SKIP() << "device 0 does not support multicast: that wire is untested here";
  if (devices < 2)
    GTEST_SKIP() << "multicast joins different devices, and there is one: that wire is untested here";
  const GridSize grid{2, 1};
  const auto cases = verify::cases_of({.tp = grid.tp,
                                       .dp = grid.dp,
                                       .algorithms = {Algorithm::two_shot},
                                       .dtypes = {DType::bf16},
                                       .large = true,
                                       .backend = BackendKind::cuda});
  const auto results = spawn_cuda(Ranks::threads, grid.world(), [&](Bootstrap& bootstrap) -> std::string {
    if (cudaSetDevice(bootstrap.rank()) != cudaSuccess)
      return "cannot use device " + std::to_string(bootstrap.rank());
    return check_cases(bootstrap, grid, cases, true);
  });
  EXPECT_EQ(failures(results), "");
}

class GpuPerRank : public CudaTest {};

/// The device is said in options alone: the thread's current one is GPU 0 on every rank, as in a program that
/// never calls cudaSetDevice().
TEST_F(GpuPerRank, GivesTheSameWhateverTheCurrentDeviceIs) {
  if (gpu_count() < 2) GTEST_SKIP() << "two ranks need a GPU each, and there is one";
  for (const GridSize grid : {GridSize{2, 1}, GridSize{1, 2}, GridSize{2, 2}}) {
    if (gpu_count() < grid.world()) continue;
    SCOPED_TRACE(testing::PrintToString(grid));
    const auto cases = verify::cases_of(
        {.tp = grid.tp, .dp = grid.dp, .dtypes = {DType::bf16}, .large = true, .backend = BackendKind::cuda});
    const auto results = spawn_cuda(Ranks::threads, grid.world(), [&](Bootstrap& bootstrap) -> std::string {
      if (cudaSetDevice(0) != cudaSuccess) return "cannot use GPU 0";
      for (const Protocol protocol : {Protocol::packets, Protocol::barriers}) {
        CommunicatorOptions options = cuda_options(grid.tp, grid.dp, protocol);
        options.cuda.device = bootstrap.rank();
        Communicator communicator(bootstrap, options);
        verify::Verifier verifier(communicator, verify::most_elements(cases, grid.dp));
        const Departure departure(bootstrap);
        for (const verify::Case& each : cases)
          if (auto wrong = verifier.run(each); !wrong.empty())
            return std::string(name(protocol)) + ": " + wrong;
      }
      int current = -1;
      return cudaGetDevice(&current) == cudaSuccess && current == 0 ? "" : "the current device has changed";
    });
    EXPECT_EQ(failures(results), "");
  }
}

class CommunicatorsCuda : public CudaTest {};

TEST_F(CommunicatorsCuda, SeveralTakeTurns) {
  const auto results = spawn_cuda(Ranks::threads, 4, [](Bootstrap& bootstrap) {
    const std::shared_ptr<verify::Device> device = verify::make_device(BackendKind::cuda);
    Communicator wide(bootstrap, cuda_options(4, 1));
    Communicator square(bootstrap, cuda_options(2, 2));
    Communicator tall(bootstrap, cuda_options(1, 4));
    verify::Verifier a(wide, device, 1 << 12);
    verify::Verifier b(square, device, 1 << 12);
    verify::Verifier c(tall, device, 1 << 12);
    const Departure departure(bootstrap);
    for (std::uint64_t i = 0; i < 200; ++i)
      for (auto [verifier, dp] : {std::pair{&a, std::size_t{1}}, {&b, 2}, {&c, 4}}) {
        verify::Case each{.op = static_cast<Op>(i % 5),
                          .algorithm = static_cast<Algorithm>(1 + i % 3),
                          .dtype = DType::bf16,
                          .buffers = static_cast<verify::Buffers>(i % 3),
                          .values = verify::Values::floats,
                          .hidden = 65,
                          .seed = 1000 * i + dp};
        for (std::size_t d = 0; d < dp; ++d) each.rows.push_back((i + d) % 4);
        if (auto wrong = verifier->run(each); !wrong.empty()) return wrong;
      }
    return std::string();
  });
  EXPECT_EQ(failures(results), "");
}

}  // namespace
}  // namespace mixcomm::test
