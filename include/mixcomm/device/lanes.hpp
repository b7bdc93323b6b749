// Lanes for kernels of the caller's own: what of a communicator they need, made on the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "mixcomm/device/handle.hpp"
#include "mixcomm/grid.hpp"
#include "mixcomm/portability.hpp"

namespace MIXCOMM_API mixcomm {

/// What Communicator::device_lanes() makes. The same on all ranks.
struct DeviceLanesOptions {
  TeamKind team = TeamKind::world;  ///< which ranks launch a kernel together
  int lanes = 0;          ///< thread blocks of a launch at most, 1 to 128; 0: as many as the library's
                          ///< operations take, which is the most (see CudaOptions::max_lanes)
  std::size_t bytes = 0;  ///< of an area of the workspace, in each of which every lane has an equal part, 256
                          ///< bytes for each rank of the team at the least; 0: the communicator's
                          ///< workspace_bytes. There are ten areas
};

/// Lanes of one rank, with a workspace and counters of their own: no operation of the library touches them,
/// and no mistake in a kernel that uses them makes one of the library's wrong. Both may run at once, on two
/// streams, where the device has room for both. Launches on the same lanes are in order, on one stream or on
/// streams that wait for each other, and in the same order on all ranks of the team.
///
/// Young: this, and include/mixcomm/device/, may still change in any version.
///
/// Movable, and passive but for the memory: destroying it is local, and waits for no kernel. Destroy it when
/// no kernel of this rank uses it any more (of any rank, where ranks are threads of one process).
class DeviceLanes {
 public:
  DeviceLanes() = default;
  DeviceLanes(std::shared_ptr<void> owner, const device::Handle& handle, int lanes)
      : owner_(std::move(owner)), handle_(handle), lanes_(lanes) {}

  /// What a kernel takes by value. It stays valid as long as this lives, also in a captured graph, and over
  /// Communicator::pause() and resume(). `call` is what errors call the launch.
  [[nodiscard]] device::Handle handle(std::uint64_t call = 0) const {
    device::Handle handle = handle_;
    handle.number = call;
    return handle;
  }
  /// The most thread blocks of a launch.
  [[nodiscard]] int lanes() const { return lanes_; }

 private:
  std::shared_ptr<void> owner_;
  device::Handle handle_;
  int lanes_ = 0;
};

}  // namespace mixcomm
