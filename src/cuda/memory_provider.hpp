// GPU memory that all ranks reach: what a backend asks for, whoever makes it.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace mixcomm::cuda {

/// The same number of bytes of every rank, mapped side by side: rank r's begin at first + r * stride.
struct Slices {
  /// Unmaps it, on any thread, also after CUDA has shut down; it never throws. That waits for no kernel:
  /// those of this rank that use the addresses must have ended, and where ranks are threads of one process,
  /// which share the mapping, those of the last rank to let go. Ranks in other processes have mappings of
  /// their own, and the memory itself lives until the last one is gone.
  std::shared_ptr<void> owner;
  std::byte* first = nullptr;
  std::size_t stride = 0;
  std::byte* multicast =
      nullptr;  ///< a store here goes to this place of every rank; null where there is no multicast
  [[nodiscard]] std::byte* of(int rank) const { return first + static_cast<std::size_t>(rank) * stride; }
};

class MemoryProvider {
 public:
  virtual ~MemoryProvider() = default;
  /// Collective: zeroed on all ranks when it returns, at least 4096-byte aligned. Waits for no kernel. Every
  /// rank succeeds, or every rank throws: CudaError, Timeout, SystemError, Disagreement if ranks ask for
  /// different sizes.
  virtual Slices allocate(std::size_t bytes) = 0;
  /// Throws Unsupported, saying why, where pause() and resume() cannot be.
  virtual void check_can_pause() const {}
  /// Collective, when no kernel of any rank uses the memory: gives back what is behind all Slices that are
  /// still owned; their addresses stay theirs. Every rank succeeds, or every rank throws.
  virtual void pause() = 0;
  /// Collective, after pause(): the same Slices as allocate() would give them, zeroed, at the same addresses,
  /// multicast included. A rank that has let go of some meanwhile gives the others its part all the same.
  /// Where it throws, which it does on every rank, memory is given back again.
  virtual void resume() = 0;
  /// For `mixcomm info` and errors: "ranks in one process", "file descriptors over Unix sockets", "NCCL
  /// windows".
  [[nodiscard]] virtual std::string name() const = 0;
};

}  // namespace mixcomm::cuda
