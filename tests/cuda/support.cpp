#include "cuda/support.hpp"

#include <cuda_runtime_api.h>

#include <cstdlib>
#include <filesystem>

namespace mixcomm::test {

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
  const char* text = std::getenv("MIXCOMM_TIMEOUT_MS");
  const long given = text == nullptr ? 0 : std::strtol(text, nullptr, 10);
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

int gpus_for_tests() {
  const char* text = std::getenv("MIXCOMM_TEST_GPUS");
  const long given = text == nullptr ? 0 : std::strtol(text, nullptr, 10);
  return given > 0 ? static_cast<int>(given) : 1;
}

std::vector<std::string> spawn_cuda(Ranks kind, int world, const std::function<std::string(Bootstrap&)>& fn) {
  // What main() sets for streams of one process; MPS has not so many queues for every one of its clients.
  const auto in_process = [&](Bootstrap& bootstrap) -> std::string {
    if (kind == Ranks::processes) unsetenv("CUDA_DEVICE_MAX_CONNECTIONS");
    const int device = bootstrap.rank() % gpus_for_tests();
    if (const cudaError_t status = cudaSetDevice(device); status != cudaSuccess)
      return "device " + std::to_string(device) + ": " + cudaGetErrorString(status);
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
