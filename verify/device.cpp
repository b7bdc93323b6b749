#include "verify/device.hpp"

#include <cstring>
#include <new>

#include "mixcomm/error.hpp"
#if defined(MIXCOMM_HAS_CUDA)
#include "verify/cuda_device.hpp"
#endif

namespace mixcomm::verify {
namespace {

class HostDevice final : public Device {
 public:
  std::shared_ptr<std::byte> allocate(std::size_t bytes) override {
    constexpr std::align_val_t alignment{256};
    auto* memory = static_cast<std::byte*>(::operator new(bytes == 0 ? 1 : bytes, alignment));
    return {memory, [](std::byte* p) { ::operator delete (p, std::align_val_t{256}); }};
  }
  void write(std::byte* to, const std::byte* from, std::size_t bytes) override {
    std::memcpy(to, from, bytes);
  }
  void read(std::byte* to, const std::byte* from, std::size_t bytes) override {
    std::memcpy(to, from, bytes);
  }
  [[nodiscard]] void* stream() const override { return nullptr; }
  void synchronize() override {}
};

}  // namespace

std::unique_ptr<Device> make_device(BackendKind backend, [[maybe_unused]] int device) {
  if (backend == BackendKind::cpu) return std::make_unique<HostDevice>();
#if defined(MIXCOMM_HAS_CUDA)
  return make_cuda_device(device);
#else
  throw Unsupported(
      "backend cuda: this was built without CUDA; build it where nvcc is, with -DMIXCOMM_CUDA=ON");
#endif
}

#if !defined(MIXCOMM_HAS_CUDA)
std::string why_no_cuda() {
  return "built without CUDA";
}
#endif

}  // namespace mixcomm::verify
