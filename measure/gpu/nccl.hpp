// NCCL, to measure against: looked up when it is asked for.
#pragma once

#include <string>

#include "measure/gpu/gpu_place.hpp"
#include "mixcomm/bootstrap.hpp"

namespace mixcomm::tools {

/// One rank's end of an NCCL communicator over the bootstrap's ranks.
class NcclCommunicator {
 public:
  /// Collective. Throws Unsupported where there is no libnccl.so.2, or NCCL does not want these ranks.
  NcclCommunicator(Bootstrap& bootstrap, const GpuPlace& place);
  ~NcclCommunicator();
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  /// The ncclComm_t.
  [[nodiscard]] void* get() const { return communicator_; }
  /// "2.28.9", and how it reaches the other ranks if that is not as it would be with a GPU for each.
  [[nodiscard]] const std::string& about() const { return about_; }

 private:
  void* communicator_ = nullptr;
  std::string about_;
};

}  // namespace mixcomm::tools
