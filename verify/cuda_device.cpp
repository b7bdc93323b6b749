// Ranks that are threads of one process share a GPU, and their kernels wait for each other. So nothing here
// waits for the whole device while a kernel may be running: copies go through pinned memory on a stream that
// is idle, memory comes from a pool in stream order, and streams and pinned memory are never given back to
// CUDA, but kept for the next rank.
//
// Ranks may also have a GPU each, in one process. Memory from a pool, and memory that is mapped, is known to
// its own device alone: a copy is refused as an invalid argument where another device is the current one,
// though its stream is of the right one. So every call to CUDA is made with the rank's device as the current
// one, whatever the caller's is.
#include "verify/cuda_device.hpp"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "mixcomm/error.hpp"

namespace mixcomm::verify {
namespace {

void check(cudaError_t status, std::string_view what) {
  if (status == cudaSuccess) return;
  throw CudaError(fmt::format("{}: {} ({})", what, cudaGetErrorString(status), cudaGetErrorName(status)));
}

/// Makes a device the calling thread's current one.
class UseDevice {
 public:
  explicit UseDevice(int device) {
    check(cudaGetDevice(&previous_), "asking for the current CUDA device");
    check(cudaSetDevice(device), fmt::format("choosing CUDA device {}", device));
  }
  ~UseDevice() { cudaSetDevice(previous_); }
  UseDevice(const UseDevice&) = delete;
  UseDevice& operator=(const UseDevice&) = delete;

 private:
  int previous_ = 0;
};

/// What takes a call that may wait for the device to make or to free. A stream more or less would also change
/// which streams share a hardware queue.
struct Equipment {
  static constexpr std::size_t staging_bytes = std::size_t{4} << 20U;
  cudaStream_t stream = nullptr;
  std::byte* staging = nullptr;
};

class EquipmentPool {
 public:
  /// Never destroyed: threads may end after static objects do.
  static EquipmentPool& get() {
    static auto* pool = new EquipmentPool;
    return *pool;
  }

  Equipment take(int device) {
    {
      const std::lock_guard lock(mutex_);
      auto& free = free_[device];
      if (!free.empty()) {
        const Equipment equipment = free.back();
        free.pop_back();
        return equipment;
      }
    }
    Equipment made;
    check(cudaStreamCreateWithFlags(&made.stream, cudaStreamNonBlocking), "making a CUDA stream");
    void* staging = nullptr;
    check(cudaHostAlloc(&staging, Equipment::staging_bytes, cudaHostAllocPortable),
          "allocating pinned host memory");
    made.staging = static_cast<std::byte*>(staging);
    keep_freed_memory(device);
    return made;
  }

  void give_back(int device, const Equipment& equipment) {
    const std::lock_guard lock(mutex_);
    free_[device].push_back(equipment);
  }

 private:
  /// Otherwise the pool unmaps what was freed, at any synchronization.
  static void keep_freed_memory(int device) {
    cudaMemPool_t pool = nullptr;
    check(cudaDeviceGetDefaultMemPool(&pool, device), "asking for the device's memory pool");
    std::uint64_t all = UINT64_MAX;
    check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &all),
          "setting up the device's memory pool");
  }

  std::mutex mutex_;
  std::map<int, std::vector<Equipment>> free_;
};

/// Shared with the memory that it allocated: that is freed on its stream.
struct Lease {
  explicit Lease(int wanted) {
    if (wanted < 0) check(cudaGetDevice(&wanted), "asking for the current CUDA device");
    device = wanted;
    const UseDevice use(device);
    equipment = EquipmentPool::get().take(device);
  }
  ~Lease() {
    cudaStreamSynchronize(equipment.stream);  // its kernels leave when their deadline has passed
    EquipmentPool::get().give_back(device, equipment);
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  void free(std::byte* memory) const noexcept {
    try {
      const UseDevice use(device);
      cudaFreeAsync(memory, equipment.stream);
    } catch (const CudaError&) {  // NOLINT(bugprone-empty-catch): CUDA has shut down, nothing is left to free
    }
  }

  int device = 0;
  Equipment equipment;
};

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int device) : lease_(std::make_shared<Lease>(device)) {}

  std::shared_ptr<std::byte> allocate(std::size_t bytes) override {
    const UseDevice use(lease_->device);
    void* memory = nullptr;
    check(cudaMallocAsync(&memory, std::max<std::size_t>(bytes, 1), queue()),
          fmt::format("allocating {} bytes of device memory", bytes));
    synchronize();
    return {static_cast<std::byte*>(memory), [lease = lease_](std::byte* p) { lease->free(p); }};
  }

  void write(std::byte* to, const std::byte* from, std::size_t bytes) override {
    const UseDevice use(lease_->device);
    synchronize();
    in_pieces(bytes, [&](std::size_t begin, std::size_t size) {
      std::memcpy(staging(), from + begin, size);
      copy(to + begin, staging(), size, cudaMemcpyHostToDevice);
    });
  }

  void read(std::byte* to, const std::byte* from, std::size_t bytes) override {
    const UseDevice use(lease_->device);
    synchronize();
    in_pieces(bytes, [&](std::size_t begin, std::size_t size) {
      copy(staging(), from + begin, size, cudaMemcpyDeviceToHost);
      std::memcpy(to + begin, staging(), size);
    });
  }

  [[nodiscard]] void* stream() const override { return queue(); }
  void synchronize() override { check(cudaStreamSynchronize(queue()), "waiting for a CUDA stream"); }

 private:
  [[nodiscard]] cudaStream_t queue() const { return lease_->equipment.stream; }
  [[nodiscard]] std::byte* staging() const { return lease_->equipment.staging; }

  /// The stream is idle: a copy that waited behind a kernel could hold up the copies that the kernel's peers
  /// wait for.
  void copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
    check(cudaMemcpyAsync(to, from, bytes, kind, queue()), fmt::format("copying {} bytes", bytes));
    synchronize();
  }

  template <class F>
  static void in_pieces(std::size_t bytes, const F& f) {
    for (std::size_t begin = 0; begin < bytes; begin += Equipment::staging_bytes)
      f(begin, std::min(Equipment::staging_bytes, bytes - begin));
  }

  std::shared_ptr<Lease> lease_;
};

}  // namespace

std::unique_ptr<Device> make_cuda_device(int device) {
  return std::make_unique<CudaDevice>(device);
}

std::string why_no_cuda() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) return fmt::format("no CUDA device: {}", cudaGetErrorString(status));
  return count == 0 ? "no CUDA device: the driver reports none" : "";
}

}  // namespace mixcomm::verify
