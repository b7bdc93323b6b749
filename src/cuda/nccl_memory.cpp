#include "cuda/nccl_memory.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "algorithms/blocks.hpp"
#include "all_or_none.hpp"
#include "bootstrap/memory.hpp"
#include "cuda/driver.hpp"
#include "cuda/mapped_memory.hpp"
#include "cuda/nccl_library.hpp"
#include "cuda/nccl_pointers.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::cuda {
namespace {

constexpr int first_version = 22800;  // with windows that other GPUs' kernels reach
constexpr std::size_t alignment = NCCL_WIN_REQUIRED_ALIGNMENT;
static_assert(alignment >= 4096, "what MemoryProvider promises");

/// What Slices::owner holds.
struct WindowMemory {
  explicit WindowMemory(ncclComm_t of) : comm(of) {}
  ~WindowMemory() {
    const NcclLibrary& nccl = nccl_library();
    if (window != nullptr) (void)nccl.comm_window_deregister(comm, window);
    if (data != nullptr) (void)nccl.mem_free(data);
    (void)cudaGetLastError();  // after CUDA has shut down there is one, which is nobody's concern
  }
  WindowMemory(const WindowMemory&) = delete;
  WindowMemory& operator=(const WindowMemory&) = delete;

  ncclComm_t comm;
  void* data = nullptr;
  ncclWindow_t window = nullptr;
};

bool is_device_memory(const void* pointer, int device) {
  cudaPointerAttributes attributes{};
  if (pointer == nullptr) return false;
  if (cudaPointerGetAttributes(&attributes, pointer) != cudaSuccess) {
    (void)cudaGetLastError();
    return false;
  }
  return attributes.type == cudaMemoryTypeDevice && attributes.device == device;
}

/// Where NCCL 2.28 has mapped each rank's part of a window.
std::vector<std::byte*> read_pointers(ncclWindow_t window, int ranks) {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cannot make a stream");
  const auto destroy = [](cudaStream_t s) { (void)cudaStreamDestroy(s); };
  const std::unique_ptr<std::remove_pointer_t<cudaStream_t>, decltype(destroy)> owner(stream, destroy);
  const std::string what = "cannot read where an NCCL window is mapped";
  std::vector<std::byte*> pointers(static_cast<std::size_t>(ranks));
  const std::size_t bytes = pointers.size() * sizeof(void*);
  // On the stream, because cudaMalloc() may wait for kernels.
  void* table = nullptr;
  check(cudaMallocAsync(&table, bytes, stream), what);
  const auto release = [stream](void* memory) { (void)cudaFreeAsync(memory, stream); };
  const std::unique_ptr<void, decltype(release)> table_owner(table, release);
  std::array<void*, 3> parameters{&window, &ranks, &table};
  check(cudaLaunchKernel(lsa_pointers_kernel(), dim3(1), dim3(max_ranks), parameters.data(), 0, stream),
        what);
  check(cudaMemcpyAsync(pointers.data(), table, bytes, cudaMemcpyDeviceToHost, stream), what);
  check(cudaStreamSynchronize(stream), what);
  return pointers;
}

class NcclWindows final : public MemoryProvider {
 public:
  NcclWindows(Bootstrap& bootstrap, int device, ncclComm_t comm, Milliseconds timeout)
      : bootstrap_(bootstrap), device_(device), comm_(comm), timeout_(timeout) {
    all_or_none(bootstrap_, "looking at the NCCL communicator", [&] {
      check_communicator();
      return std::string();
    });
  }

  Slices allocate(std::size_t bytes) override {
    check_same_size(bootstrap_.exchange("comparing sizes of NCCL's memory", std::to_string(bytes)));
    const std::size_t rounded = round_up(std::max<std::size_t>(bytes, 1), alignment);
    auto memory = std::make_unique<WindowMemory>(comm_);
    all_or_none(bootstrap_, "allocating NCCL's memory", [&] {
      const UseDevice use(device_);
      check(nccl_->mem_alloc(&memory->data, rounded), nullptr,
            fmt::format("cannot allocate {} bytes of GPU memory; ask for less", rounded));
      return std::string();
    });
    Slices slices;
    all_or_none(bootstrap_, "mapping an NCCL window", [&] {
      const UseDevice use(device_);
      make_window(memory, rounded);
      slices = slices_of(memory->window, rounded);
      zero(device_, slices.of(bootstrap_.rank()), rounded);
      return std::string();
    });
    slices.owner = std::shared_ptr<WindowMemory>(std::move(memory));
    return slices;
  }

  void check_can_pause() const override {
    throw Unsupported(
        "pause: NCCL cannot make its windows again where they were; leave out CudaOptions::nccl_windows, or "
        "close "
        "the communicator and make a new one");
  }
  void pause() override { check_can_pause(); }
  void resume() override { check_can_pause(); }

  [[nodiscard]] std::string name() const override { return "NCCL windows"; }

 private:
  void check_communicator() {
    if (comm_ == nullptr)
      throw InvalidArgument(
          "CudaOptions::nccl_windows is set, but CudaOptions::nccl is null; give a ncclComm_t there");
    nccl_ = &nccl_library();
    if (nccl_->version < first_version || nccl_->comm_window_register == nullptr ||
        nccl_->comm_window_deregister == nullptr || nccl_->team_lsa == nullptr)
      throw Unsupported(fmt::format(
          "windows need NCCL {} or later, but the NCCL in this process is {}; load a later one, or leave out "
          "CudaOptions::nccl_windows",
          nccl_version_text(first_version), nccl_version_text(nccl_->version)));
    // Without the function of later versions, a kernel reads what the headers describe, which changes between
    // minor versions.
    if (nccl_->get_lsa_device_pointer == nullptr && nccl_->version / 100 != NCCL_VERSION_CODE / 100)
      throw Unsupported(fmt::format(
          "the NCCL in this process is {}, but mixcomm was built with the headers of {}, and NCCL 2.28 keeps "
          "windows in its own way; build mixcomm with its headers, load NCCL 2.29 or later, or leave out "
          "CudaOptions::nccl_windows",
          nccl_version_text(nccl_->version), nccl_version_text(NCCL_VERSION_CODE)));
    const UseDevice use(device_);
    check_members(comm_, bootstrap_.world(), bootstrap_.rank(), device_, timeout_);
    if (nccl_->team_lsa(comm_).nRanks > 0)
      check_team();  // the first 2.28 knows no more before there is a window
    // Brought onto the device now, which may wait for kernels there; allocate() does not.
    cudaFuncAttributes attributes{};
    check(cudaFuncGetAttributes(&attributes, lsa_pointers_kernel()), "loading a kernel");
  }

  /// All ranks must be members, by rank.
  void check_team() const {
    const ncclTeam_t team = nccl_->team_lsa(comm_);
    const int world = bootstrap_.world();
    if (team.nRanks == world && team.rank == bootstrap_.rank()) return;
    const int first = bootstrap_.rank() - team.rank;
    std::string beyond;
    for (int r = 0; r < world; ++r)
      if (r < first || r >= first + team.nRanks) beyond += fmt::format("{}{}", beyond.empty() ? "" : ", ", r);
    throw Unsupported(fmt::format(
        "windows serve GPUs that reach each other by loads and stores, and NCCL says that rank {} does not "
        "reach these ranks so: {}; GPUs of several nodes are served only where NVLink joins the nodes; make "
        "a communicator for the ranks of each node",
        bootstrap_.rank(), beyond));
  }

  /// Ranks meet in here.
  void make_window(std::unique_ptr<WindowMemory>& memory, std::size_t bytes) const {
    const std::string what = fmt::format("cannot make an NCCL window of {} bytes", bytes);
    try {
      finish(
          nccl_->comm_window_register(comm_, memory->data, bytes, &memory->window, NCCL_WIN_COLL_SYMMETRIC),
          comm_, what, timeout_);
    } catch (const Timeout&) {
      (void)memory.release();  // NCCL may write to it yet
      throw;
    }
    // Where NCCL cannot make a window it gives none, or a handle in host memory, without an error.
    if (!is_device_memory(memory->window, device_))
      throw Unsupported(
          "NCCL makes no windows on this communicator; they need NCCL_CUMEM_ENABLE and NCCL_WIN_ENABLE, "
          "which are on by default, GPUs that reach each other's memory, and, for one rank alone, a later "
          "NCCL "
          "than 2.28.3 (2.28.9 does); NCCL_DEBUG=INFO says more. See to these, or leave out "
          "CudaOptions::nccl_windows");
    check_team();
  }

  [[nodiscard]] Slices slices_of(ncclWindow_t window, std::size_t bytes) const {
    const std::vector<std::byte*> pointers = pointers_of(window);
    Slices slices;
    slices.first = pointers.front();
    // NCCL maps ranks side by side, at equal distances.
    slices.stride = pointers.size() == 1 ? bytes : address(pointers[1]) - address(pointers[0]);
    for (int r = 0; r < bootstrap_.world(); ++r)
      if (const std::byte* pointer = pointers[static_cast<std::size_t>(r)]; pointer != slices.of(r))
        throw Unsupported(
            fmt::format("NCCL {} has mapped rank {}'s window at {}, not {}: ranks do not lie at equal "
                        "distances; leave out CudaOptions::nccl_windows",
                        nccl_version_text(nccl_->version), r, static_cast<const void*>(pointer),
                        static_cast<const void*>(slices.of(r))));
    if (!is_device_memory(slices.of(bootstrap_.rank()), device_) || address(slices.first) % alignment != 0)
      throw Unsupported(fmt::format(
          "NCCL {} says that this rank's window is mapped at {}, where there is no memory of its GPU; leave "
          "out CudaOptions::nccl_windows",
          nccl_version_text(nccl_->version), static_cast<const void*>(slices.of(bootstrap_.rank()))));
    return slices;
  }

  [[nodiscard]] std::vector<std::byte*> pointers_of(ncclWindow_t window) const {
    if (nccl_->get_lsa_device_pointer == nullptr) return read_pointers(window, bootstrap_.world());
    std::vector<std::byte*> pointers;
    for (int r = 0; r < bootstrap_.world(); ++r) {
      void* pointer = nullptr;
      check(nccl_->get_lsa_device_pointer(window, 0, r, &pointer), comm_,
            "asking where an NCCL window is mapped");
      pointers.push_back(static_cast<std::byte*>(pointer));
    }
    return pointers;
  }

  [[nodiscard]] static std::size_t address(const std::byte* pointer) {
    return reinterpret_cast<std::uintptr_t>(pointer);
  }

  Bootstrap& bootstrap_;
  int device_;
  ncclComm_t comm_;
  Milliseconds timeout_;
  const NcclLibrary* nccl_ = nullptr;
};

}  // namespace

std::unique_ptr<MemoryProvider> make_nccl_memory_provider(Bootstrap& bootstrap, int device, void* nccl_comm,
                                                          Milliseconds timeout) {
  return std::make_unique<NcclWindows>(bootstrap, device, static_cast<ncclComm_t>(nccl_comm), timeout);
}

}  // namespace mixcomm::cuda
