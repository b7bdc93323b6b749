// Built with CUDA only; else gpus_unavailable.cpp.
#include "tools/command/gpus.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <fstream>
#include <map>
#include <vector>

#include "cuda/driver.hpp"
#include "cuda/links.hpp"
#include "measure/split.hpp"
#include "mixcomm/error.hpp"
#include "verify/device.hpp"

namespace mixcomm::tools {
namespace {

std::string version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

/// Of the kernel's driver, where the system shows it.
std::string driver_version() {
  std::string word;
  if (std::ifstream("/sys/module/nvidia/version") >> word) return word;
  std::ifstream file("/proc/driver/nvidia/version");
  while (file >> word)
    if (word[0] >= '0' && word[0] <= '9' && word.find('.') != std::string::npos) return word;
  return "unknown";
}

bool has_multicast(int device) {
  try {
    return cuda::attribute(device, CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED) != 0;
  } catch (const Error&) {
    return false;  // a driver that does not know the word has not the thing
  }
}

cudaDeviceProp properties_of(int device) {
  cudaDeviceProp properties{};
  cuda::check(cudaGetDeviceProperties(&properties, device), "reading a device's properties");
  return properties;
}

double gib(std::size_t bytes) {
  return std::round(static_cast<double>(bytes) / (1U << 30U) * 10) / 10;
}

Json device_json(int device, int count) {
  const cudaDeviceProp properties = properties_of(device);
  Json peers = Json::array();
  Json links = Json::array();
  for (int other = 0; other < count; ++other) {
    links.push_back(name(cuda::link_between(device, cuda::bus_id_of(other))));
    int can = 0;
    if (other != device) cuda::check(cudaDeviceCanAccessPeer(&can, device, other), "looking for peer access");
    if (can != 0) peers.push_back(other);
  }
  return {{"name", properties.name},
          {"compute_capability", fmt::format("{}.{}", properties.major, properties.minor)},
          {"multiprocessors", properties.multiProcessorCount},
          {"memory_gib", gib(properties.totalGlobalMem)},
          {"peers", peers},
          {"links", links},
          {"multicast", has_multicast(device)}};
}

Json architectures() {
  Json list = Json::array();
  std::string text = MIXCOMM_CUDA_ARCHITECTURES;
  for (const std::string& each : split(text)) {
    const std::size_t dash = each.find('-');
    const std::string number = each.substr(0, dash);
    const std::string kind = dash == std::string::npos ? "" : each.substr(dash + 1);
    if (kind != "virtual") list.push_back("sm_" + number);
    if (kind != "real") list.push_back("compute_" + number + " (PTX)");
  }
  return list;
}

int runtime_version() {
  int version = 0;
  cuda::check(cudaRuntimeGetVersion(&version), "reading the version of the CUDA runtime");
  return version;
}

/// "NVLink to 1, 2; PCIe to 3": how a device reaches the others.
std::string links_text(int device, const Json& links) {
  std::map<std::string, std::vector<int>> others;
  for (int other = 0; other < static_cast<int>(links.size()); ++other)
    if (other != device) others[links[static_cast<std::size_t>(other)].get<std::string>()].push_back(other);
  std::string text;
  for (const auto& [link, devices] : others)
    text += fmt::format("{}{} to {}", text.empty() ? "" : "; ", link, fmt::join(devices, ", "));
  return text;
}

}  // namespace

Json gpus() {
  Json result{
      {"available", true}, {"architectures", architectures()}, {"runtime", version_text(runtime_version())}};
  if (const std::string why = verify::why_no_cuda(); !why.empty()) {
    result["available"] = false;
    result["why"] = why;
    return result;
  }
  int supported = 0;
  cuda::check(cudaDriverGetVersion(&supported), "reading the version of the CUDA driver");
  result["driver"] = driver_version();
  result["driver_cuda"] = version_text(supported);
  result["mps"] = has_mps();
  result["devices"] = Json::array();
  const int count = gpu_count();
  for (int device = 0; device < count; ++device) result["devices"].push_back(device_json(device, count));
  return result;
}

std::string gpus_text(const Json& gpus) {
  const std::string built = fmt::format(
      "built for {}, CUDA runtime {}", fmt::join(gpus["architectures"].get<std::vector<std::string>>(), ", "),
      gpus["runtime"].get<std::string>());
  if (!gpus["available"].get<bool>())
    return fmt::format("not available: {}\n                ({})\n", gpus["why"].get<std::string>(), built);
  std::string text = fmt::format("available, {}, driver {} (for CUDA {}), MPS {}\n", built,
                                 gpus["driver"].get<std::string>(), gpus["driver_cuda"].get<std::string>(),
                                 gpus["mps"].get<bool>() ? "found" : "not found");
  int device = 0;
  for (const Json& each : gpus["devices"]) {
    const auto peers = each["peers"].get<std::vector<int>>();
    text += fmt::format("                {}: {}, compute capability {}, {} multiprocessors, {} GiB, ", device,
                        each["name"].get<std::string>(), each["compute_capability"].get<std::string>(),
                        each["multiprocessors"].get<int>(), each["memory_gib"].get<double>());
    text += peers.empty() ? "no peers" : fmt::format("peers {}", fmt::join(peers, ", "));
    text += each["multicast"].get<bool>() ? ", multicast\n" : ", no multicast\n";
    if (const std::string links = links_text(device++, each["links"]); !links.empty())
      text += fmt::format("                   {}\n", links);
  }
  return text;
}

Json measured_gpus() {
  const cudaDeviceProp properties = properties_of(0);
  return {{"name", properties.name},
          {"count", gpu_count()},
          {"multiprocessors", properties.multiProcessorCount},
          {"memory_gib", gib(properties.totalGlobalMem)},
          {"driver", driver_version()},
          {"cuda_runtime", version_text(runtime_version())}};
}

}  // namespace mixcomm::tools
