// Kernels of one's own on ranks as processes, each with a mapping of its own of the lanes' memory.
#include "cuda/scaled_rank.hpp"
#include "cuda/support.hpp"

namespace mixcomm::test {
namespace {

class DeviceLayerCudaProcesses : public CudaProcessTest {};

TEST_F(DeviceLayerCudaProcesses, AKernelOfOnesOwnIsExact) {
  const auto results = spawn_cuda(Ranks::processes, 2, [](Bootstrap& bootstrap) -> std::string {
    Communicator communicator(bootstrap, cuda_options(2, 1));
    const DeviceLanes lanes = communicator.device_lanes({.lanes = 4});
    const auto device = verify::make_device(BackendKind::cuda);
    load_device_kernels();
    ScaledRank packets(*device, {device::Wire::packets, DType::bf16}, communicator.grid().world);
    ScaledRank lines(*device, {device::Wire::lines, DType::bf16}, communicator.grid().world);
    const bool also_lines = has_lines(bootstrap);
    const Departure departure(bootstrap);
    all_are_ready(bootstrap);
    for (std::uint64_t round = 1; round < 30; ++round) {
      const std::size_t count = round * 331;
      packets.prepare(count, round);
      packets.launch(lanes, count);
      if (auto wrong = packets.check(count, round); !wrong.empty()) return "packets: " + wrong;
      if (!also_lines) continue;
      lines.prepare(count, round);
      lines.launch(lanes, count);
      if (auto wrong = lines.check(count, round); !wrong.empty()) return "lines: " + wrong;
    }
    communicator.check();
    return "";
  });
  EXPECT_EQ(failures(results), "");
}

}  // namespace
}  // namespace mixcomm::test
