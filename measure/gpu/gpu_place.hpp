// Which GPU each rank of a measurement has, and who shares it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "mixcomm/bootstrap.hpp"

namespace mixcomm::tools {

/// Where the ranks of the CUDA backend run.
enum class RanksOn : std::uint8_t {
  streams,    ///< of one GPU, from one process
  processes,  ///< that share a GPU
  gpus,       ///< a GPU for each
};
/// "streams of one GPU", "processes on one GPU", "GPUs"
[[nodiscard]] std::string_view name(RanksOn ranks);

struct GpuPlace {
  int device = 0;
  RanksOn ranks = RanksOn::gpus;
};

/// Where this rank is, which has that device, and the others. Collective. Throws Unsupported where processes
/// share a GPU without MPS, and where threads share some GPUs but have not all the same one; CudaError.
[[nodiscard]] GpuPlace gpu_place(Bootstrap& bootstrap, int device);

/// How many GPUs CUDA shows this process; 0 without CUDA. Starts CUDA in this process, which must not fork
/// behind that.
[[nodiscard]] int gpu_count();

/// What names the GPU in all processes of this host.
[[nodiscard]] std::string gpu_uuid(int device);

/// The calling thread's current one; 0 without CUDA. Throws CudaError.
[[nodiscard]] int current_gpu();
/// Makes it that; nothing without CUDA. Throws CudaError.
void use_gpu(int device);

/// Whether an MPS control daemon is found, with which processes share a GPU at the same time.
[[nodiscard]] bool has_mps();
/// Throws Unsupported unless it is.
void need_mps(int processes);

}  // namespace mixcomm::tools
