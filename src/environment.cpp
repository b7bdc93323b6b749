// What the user says by environment variables.
#include "environment.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cstdlib>
#include <string_view>

#include "cpu/openmp_workers.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm {
namespace {

std::string_view variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string_view() : std::string_view(value);
}

}  // namespace

CommunicatorOptions with_environment(CommunicatorOptions options) {
  if (const std::string_view wanted = variable("MIXCOMM_ALGORITHM");
      !wanted.empty() && options.algorithm == Algorithm::automatic) {
    try {
      options.algorithm = algorithm_from_name(wanted);
    } catch (const InvalidArgument& error) {
      throw InvalidArgument(fmt::format("MIXCOMM_ALGORITHM: {}", error.what()));
    }
  }
  if (const std::string_view wanted = variable("MIXCOMM_THREADS");
      !wanted.empty() && options.cpu.threads == 0) {
    const char* end = wanted.data() + wanted.size();
    const auto [read, error] = std::from_chars(wanted.data(), end, options.cpu.threads);
    if (error != std::errc() || read != end || options.cpu.threads < 1 || options.cpu.threads > most_threads)
      throw InvalidArgument(fmt::format(
          "MIXCOMM_THREADS is '{}'; it is a number of threads for each rank, from 1 to {}, or not set",
          wanted, most_threads));
  }
  if (const std::string_view wanted = variable("MIXCOMM_WORKERS"); wanted == "openmp") {
    // As many as it gives others, so that it need not change its pool.
    if (!options.cpu.workers && options.backend == BackendKind::cpu)
      options.cpu.workers = cpu::openmp_workers(0);
  } else if (!wanted.empty() && wanted != "own") {
    throw InvalidArgument(
        fmt::format("MIXCOMM_WORKERS is '{}'; it is openmp (the threads of the process's OpenMP runtime), "
                    "own, or not set",
                    wanted));
  }
  std::string_view list = variable("MIXCOMM_DISABLE");
  while (!list.empty()) {
    const std::string_view word = list.substr(0, list.find(','));
    list.remove_prefix(word.size() == list.size() ? word.size() : word.size() + 1);
    if (word == "fusion")
      options.algorithm = Algorithm::composed;
    else if (word == "multicast")
      options.cuda.multicast = false;
    else if (word == "lines")
      options.cuda.lines = false;
    else if (!word.empty())
      throw InvalidArgument(fmt::format(
          "MIXCOMM_DISABLE: there is no '{}' to switch off; there are: fusion, lines, multicast", word));
  }
  // Who keeps NCCL or PyTorch from NVLink multicast means this library as well.
  if (variable("NCCL_NVLS_ENABLE") == "0" || variable("TORCH_SYMM_MEM_DISABLE_MULTICAST") == "1")
    options.cuda.multicast = false;
  return options;
}

}  // namespace mixcomm
