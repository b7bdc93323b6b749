#include "cuda/links.hpp"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

#include "all_or_none.hpp"
#include "cuda/driver.hpp"

namespace mixcomm::cuda {
namespace {

/// What is needed of nvml.h, which a machine that builds this need not have.
class Nvml {
 public:
  Nvml() : library_(dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL)) {
    if (library_ == nullptr) return;
    const auto init = look_up<int (*)()>("nvmlInit_v2");
    handle_ = look_up<int (*)(const char*, void**)>("nvmlDeviceGetHandleByPciBusId_v2");
    p2p_status_ = look_up<int (*)(void*, void*, int, int*)>("nvmlDeviceGetP2PStatus");
    usable_ = init != nullptr && handle_ != nullptr && p2p_status_ != nullptr && init() == 0;
  }
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  /// Nothing where NVML cannot say.
  [[nodiscard]] std::optional<bool> joined_by_nvlink(const std::string& a, const std::string& b) const {
    constexpr int nvlink = 2;  // NVML_P2P_CAPS_INDEX_NVLINK
    void* device_a = nullptr;
    void* device_b = nullptr;
    int status = 0;
    if (!usable_ || handle_(a.c_str(), &device_a) != 0 || handle_(b.c_str(), &device_b) != 0 ||
        p2p_status_(device_a, device_b, nvlink, &status) != 0)
      return std::nullopt;
    return status == 0;  // NVML_P2P_STATUS_OK
  }

 private:
  template <class F>
  [[nodiscard]] F look_up(const char* name) const {
    return reinterpret_cast<F>(dlsym(library_, name));
  }

  void* library_;  // for good, as NVML itself
  int (*handle_)(const char*, void**) = nullptr;
  int (*p2p_status_)(void*, void*, int, int*) = nullptr;
  bool usable_ = false;
};

bool has_atomics(int device, const std::string& bus_id) {
  int other = 0;
  if (cudaDeviceGetByPCIBusId(&other, bus_id.c_str()) != cudaSuccess) {
    (void)cudaGetLastError();  // it is hidden from this process
    return false;
  }
  int atomics = 0;
  check(cudaDeviceGetP2PAttribute(&atomics, cudaDevP2PAttrNativeAtomicSupported, device, other),
        "asking what joins two devices");
  return atomics != 0;
}

}  // namespace

std::string bus_id_of(int device) {
  std::array<char, 32> text{};
  check(cudaDeviceGetPCIBusId(text.data(), static_cast<int>(text.size()), device), "reading a PCI address");
  return text.data();
}

Link link_between(int device, const std::string& bus_id) {
  static const Nvml nvml;
  const std::string mine = bus_id_of(device);
  if (mine == bus_id) return Link::shared;
  const bool nvlink = nvml.joined_by_nvlink(mine, bus_id).value_or(false) || has_atomics(device, bus_id);
  return nvlink ? Link::nvlink : Link::pcie;
}

Link slowest_link(Bootstrap& bootstrap, int device) {
  const auto ids = all_or_none(bootstrap, "comparing PCI addresses", [&] { return bus_id_of(device); });
  const auto links = all_or_none(bootstrap, "asking how GPUs are joined", [&] {
    Link slowest = Link::shared;
    for (const std::string& id : ids) slowest = std::max(slowest, link_between(device, id));
    return std::to_string(static_cast<int>(slowest));
  });
  Link slowest = Link::shared;
  for (const std::string& each : links) slowest = std::max(slowest, static_cast<Link>(std::stoi(each)));
  return slowest;
}

std::string machine_name(int device, Link link) {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device), "asking for the device's name");
  return fmt::format("{}, {}", properties.name, name(link));
}

}  // namespace mixcomm::cuda
