#include "cuda/support.hpp"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>

namespace mixcomm::test {
namespace {

long number_in(const char* variable) {
  const char* text = std::getenv(variable);
  return text == nullptr ? 0 : std::strtol(text, nullptr, 10);
}

/// The rank's GPU becomes the current one.
void take_gpu(int rank) {
  const int wanted = gpus_for_tests();
  if (wanted > std::max(gpu_count(), 1))
    throw std::runtime_error("MIXCOMM_TEST_GPUS is " + std::to_string(wanted) + ", but there are " +
                             std::to_string(gpu_count()));
  // Without a GPU, tests that need none go on.
  if (gpu_count() > 0 && cudaSetDevice(rank % wanted) != cudaSuccess)
    throw std::runtime_error("cannot use GPU " + std::to_string(rank % wanted));
}

}  // namespace

int gpu_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

void CudaTest::SetUp() {
  if (const std::string why = verify::why_no_cuda(); !why.empty()) GTEST_SKIP() << why;
}

void CudaProcessTest::set_up(bool with_mps) {
  static const std::string why =
      spawn(Ranks::processes, 1, [](Bootstrap&) { return verify::why_no_cuda(); })[0];
  if (!why.empty()) GTEST_SKIP() << why;
  const char* pipes = std::getenv("CUDA_MPS_PIPE_DIRECTORY");
  const bool has_mps = std::filesystem::exists(
      std::filesystem::path(pipes == nullptr ? "/tmp/nvidia-mps" : pipes) / "control");
  if (with_mps && !has_mps && gpus_for_tests() == 1)
    GTEST_SKIP()
        << "no MPS daemon runs: processes would share the GPU in slices of milliseconds; scripts/check-cuda "
           "starts one";
  if (!with_mps && has_mps)
    GTEST_SKIP() << "an MPS daemon runs, which does not survive a client killed in a kernel";
}

Milliseconds patience() {
  const long given = number_in("MIXCOMM_TIMEOUT_MS");
  return given > 0 ? Milliseconds(given) : default_timeout;
}

CommunicatorOptions cuda_options(int tp, int dp, Protocol protocol) {
  CommunicatorOptions options;
  options.tp = tp;
  options.dp = dp;
  options.timeout = patience();
  options.workspace_bytes = verify::workspace_bytes;
  options.backend = BackendKind::cuda;
  options.cuda.protocol = protocol;
  return options;
}

std::string why_no_multicast() {
  if (number_in("MIXCOMM_TEST_MULTICAST") == 1) return "";
  return "multicast is tested only when it is asked for: set MIXCOMM_TEST_MULTICAST=1";
}

namespace {

/// Collective. "" where there are lines.
std::string why_no_lines(Bootstrap& bootstrap) {
  const Communicator probe(bootstrap, cuda_options(bootstrap.world(), 1));
  if (!probe.options().cuda.lines) return "lines are switched off, by MIXCOMM_DISABLE";
  return probe.link() != Link::pcie ? ""
                                    : "not all GPUs of the ranks are joined by NVLink, and PCIe carries none";
}

}  // namespace

bool has_lines(Bootstrap& bootstrap) {
  const std::string why = why_no_lines(bootstrap);
  if (!why.empty() && bootstrap.rank() == 0) fmt::print("[  SKIPPED ] what travels in lines: {}\n", why);
  return why.empty();
}

std::string why_no_lines(int world) {
  return spawn_cuda(Ranks::threads, world, [](Bootstrap& bootstrap) { return why_no_lines(bootstrap); })[0];
}

int gpus_for_tests() {
  return std::max(static_cast<int>(number_in("MIXCOMM_TEST_GPUS")), 1);
}

std::vector<std::string> spawn_cuda(Ranks kind, int world, const std::function<std::string(Bootstrap&)>& fn) {
  // What main() sets for streams of one process; MPS has not so many queues for every one of its clients.
  const auto in_process = [&](Bootstrap& bootstrap) -> std::string {
    if (kind == Ranks::processes) unsetenv("CUDA_DEVICE_MAX_CONNECTIONS");
    take_gpu(bootstrap.rank());
    return fn(bootstrap);
  };
  return spawn(kind, world, in_process, 4 * patience());
}

Departure::~Departure() {
  try {
    (void)bootstrap_.exchange("leaving a test", "");
  } catch (const Error&) {  // NOLINT(bugprone-empty-catch): what went wrong is in the rank's own result
  }
}

void prepare(std::vector<PreparedCall>& calls) {
  for (PreparedCall& call : calls) {
    call.c.seed += verify::same_buffers;
    call.verifier->prepare(call.c, call.slot);
  }
}

void launch(const std::vector<PreparedCall>& calls, void* stream) {
  for (const PreparedCall& call : calls) call.verifier->launch_on(stream, call.slot);
}

std::string check(const std::vector<PreparedCall>& calls) {
  for (const PreparedCall& call : calls)
    if (std::string wrong = call.verifier->check(call.slot); !wrong.empty()) return wrong;
  return "";
}

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

std::ostream& operator<<(std::ostream& out, const GridSize& grid) {
  return out << grid.tp << "x" << grid.dp;
}

}  // namespace mixcomm::test
