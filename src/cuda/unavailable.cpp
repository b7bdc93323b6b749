// Stands in for the CUDA backend in builds without CUDA.
#include "cuda/cuda_backend.hpp"
#include "cuda/nccl_crossing.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::cuda {

std::unique_ptr<Backend> make_backend(Bootstrap& /*bootstrap*/, const Grid& /*grid*/,
                                      const CommunicatorOptions& /*options*/) {
  throw Unsupported(
      "backend cuda: this library was built without CUDA; build it where nvcc is, with -DMIXCOMM_CUDA=ON");
}

std::unique_ptr<Crossing> make_nccl_crossing(const NcclCrossingSetup& /*setup*/) {
  return nullptr;  // there is no backend to make it for
}

}  // namespace mixcomm::cuda
