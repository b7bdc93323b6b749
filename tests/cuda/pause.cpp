#include "cuda/pause.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "cuda/graph.hpp"
#include "mixcomm/error.hpp"
#include "support/error_of.hpp"
#include "verify/numbers.hpp"

namespace mixcomm::test {
namespace {

constexpr std::size_t buffer_bytes = std::size_t{256} << 20U;
constexpr int slots = 10;

void meet(Bootstrap& bootstrap) {
  (void)bootstrap.exchange("testing pauses", "");
}

std::size_t free_bytes(Bootstrap& bootstrap) {
  meet(bootstrap);
  std::size_t free = 0;
  std::size_t total = 0;
  check_cuda(cudaMemGetInfo(&free, &total));
  meet(bootstrap);
  return free;
}

/// Each operation in plain and in symmetric memory, with an algorithm each.
std::vector<PreparedCall> calls_on(verify::Verifier& verifier, int dp) {
  std::vector<PreparedCall> calls;
  for (int slot = 0; slot < slots; ++slot) {
    verify::Case c{.op = static_cast<Op>(slot % 5),
                   .algorithm = slot % 3 == 0 ? Algorithm::one_shot : Algorithm::two_shot,
                   .dtype = slot % 2 == 0 ? DType::bf16 : DType::fp16,
                   .buffers = slot < 5 ? verify::Buffers::plain : verify::Buffers::symmetric,
                   .values = verify::Values::floats,
                   .hidden = 64 + 66 * static_cast<std::size_t>(slot),
                   .seed = static_cast<std::uint64_t>(slot) * 100'001};
    for (int d = 0; d < dp; ++d) c.rows.push_back(static_cast<std::size_t>(1 + (slot + d) % 3));
    calls.push_back({&verifier, slot, c});
  }
  return calls;
}

/// While it is paused.
std::string what_is_not_refused(Communicator& communicator, verify::Verifier& verifier) {
  for (const std::string& refused :
       {error_of<InvalidArgument>([&] { verifier.launch(); }),
        error_of<InvalidArgument>([&] { (void)communicator.allocate(4096); }),
        error_of<InvalidArgument>([&] { communicator.copy({.width = 1, .rows = 1}); })})
    if (!contains(refused, "paused") || !contains(refused, "resume()")) return "not refused: " + refused;
  return "";
}

}  // namespace

std::string pause_and_resume(Bootstrap& bootstrap, const CommunicatorOptions& options) {
  const std::shared_ptr<verify::Device> device = verify::make_device(BackendKind::cuda);
  Communicator communicator(bootstrap, options);
  Communicator other(bootstrap, cuda_options(options.tp * options.dp, 1));  // goes on meanwhile
  verify::Verifier verifier(communicator, device, 1 << 13, slots);
  verify::Verifier with_other(other, device, 1 << 12);
  const SymmetricBuffer buffer = communicator.allocate(buffer_bytes);
  std::optional<SymmetricBuffer> released = communicator.allocate(4096);
  std::byte* const data = buffer.data();
  auto calls = calls_on(verifier, options.dp);
  prepare(calls);
  const Graph graph(device->stream(), [&] { launch(calls, device->stream()); });
  const Departure departure(bootstrap);

  const auto replay = [&](int times) -> std::string {
    for (int i = 0; i < times; ++i) {
      prepare(calls);
      if (i % 4 == 3)
        launch(calls, device->stream());  // the same outside of the graph
      else
        graph.launch();
      device->synchronize();
      if (auto wrong = check(calls); !wrong.empty()) return fmt::format("replay {}: {}", i, wrong);
    }
    return "";
  };

  for (int round = 0; round < 6; ++round) {
    const auto at = [round](const std::string& wrong) { return fmt::format("round {}: {}", round, wrong); };
    // An odd number of replays now and then, so that packets and areas of either parity are cut off.
    if (auto wrong = replay(1 + round * 3); !wrong.empty()) return at(wrong);
    const std::vector<std::byte> ones(1 << 16, std::byte{1});
    device->write(data, ones.data(), ones.size());
    if (round == 3 && bootstrap.rank() == 1) released.reset();  // the others still have it
    const std::size_t before = free_bytes(bootstrap);
    communicator.pause();
    communicator.pause();
    const std::size_t meanwhile = free_bytes(bootstrap);
    if (meanwhile < before + buffer_bytes / 2)
      return at(fmt::format("memory was not given back: {} bytes were free, now {}", before, meanwhile));
    if (auto wrong = what_is_not_refused(communicator, verifier); !wrong.empty()) return at(wrong);
    const verify::Case c{.op = Op::all_reduce,
                         .dtype = DType::bf16,
                         .values = verify::Values::floats,
                         .rows = {3},
                         .hidden = 130,
                         .seed = static_cast<std::uint64_t>(round)};
    if (auto wrong = with_other.run(c); !wrong.empty())
      return at(fmt::format("the other communicator: {}", wrong));
    meet(
        bootstrap);  // what is mapped and zeroed waits for the device, and so must not meet kernels that wait
    communicator.resume();
    communicator.resume();
    if (buffer.data() != data) return at("the memory is elsewhere");
    std::vector<std::byte> now(ones.size());
    device->read(now.data(), data, now.size());
    if (std::ranges::any_of(now, [](std::byte each) { return each != std::byte{0}; }))
      return at("the memory is not zeroed");
    // The first thing after it is a replay.
    if (auto wrong = replay(2); !wrong.empty()) return at(fmt::format("after it: {}", wrong));
  }
  communicator.check();
  return "";
}

}  // namespace mixcomm::test
