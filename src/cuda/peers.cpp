#include "cuda/peers.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>

#include "all_or_none.hpp"
#include "bootstrap/place.hpp"
#include "cuda/driver.hpp"
#include "cuda/mapped_memory.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::cuda {
namespace {

using nlohmann::json;

cudaDeviceProp properties_of(int device) {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device),
        fmt::format("cannot read what CUDA device {} is", device));
  return properties;
}

std::string uuid_of(const cudaDeviceProp& properties) {
  std::string hex;
  for (const char byte : properties.uuid.bytes)
    hex += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return hex;
}

Peer describe(int device) {
  int devices = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&devices); status == cudaErrorNoDevice || devices == 0) {
    (void)cudaGetLastError();
    throw Unsupported(
        fmt::format("there is no CUDA device here ({}); check nvidia-smi and CUDA_VISIBLE_DEVICES",
                    cudaGetErrorString(status)));
  }
  if (device < 0 || device >= devices)
    throw InvalidArgument(
        fmt::format("CUDA device {} was asked for; there are 0 to {}", device, devices - 1));
  if (attribute(device, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED) == 0)
    throw Unsupported(
        fmt::format("CUDA device {} has no virtual memory management, which shared memory is made of; "
                    "use backend cpu",
                    device));
  const UseDevice use(device);
  const cudaDeviceProp properties = properties_of(device);
  std::array<char, 32> bus{};
  check(cudaDeviceGetPCIBusId(bus.data(), static_cast<int>(bus.size()), device), "cannot read a PCI address");
  const bool shares = attribute(device, CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED) != 0;
  return {.host = 0,
          .process = process_identity(),
          .device = device,
          .uuid = uuid_of(properties),
          .name = fmt::format("{} at {}", properties.name, bus.data()),
          .granularity = granularity_of(device, shares ? Sharing::by_descriptor : Sharing::within_process),
          .shares_descriptors = shares,
          .has_multicast = attribute(device, CU_DEVICE_ATTRIBUTE_MULTICAST_SUPPORTED) != 0};
}

std::string to_text(const Peer& peer) {
  const json text = {{"process", peer.process},
                     {"device", peer.device},
                     {"uuid", peer.uuid},
                     {"name", peer.name},
                     {"granularity", peer.granularity},
                     {"shares_descriptors", peer.shares_descriptors},
                     {"has_multicast", peer.has_multicast}};
  return text.dump(-1, ' ', false, json::error_handler_t::replace);
}

Peer from_text(int rank, const std::string& text) {
  try {
    const json peer = json::parse(text);
    return {.host = 0,
            .process = peer.at("process"),
            .device = peer.at("device"),
            .uuid = peer.at("uuid"),
            .name = peer.at("name"),
            .granularity = peer.at("granularity"),
            .shares_descriptors = peer.at("shares_descriptors"),
            .has_multicast = peer.at("has_multicast")};
  } catch (const json::exception&) {
    throw Disagreement(
        fmt::format("rank {} describes its GPU in another way than this rank; run the same version "
                    "of mixcomm on all ranks",
                    rank));
  }
}

/// The UUIDs of the devices that this process sees, by their numbers.
std::vector<std::string> visible_uuids() {
  int devices = 0;
  check(cudaGetDeviceCount(&devices), "cannot count CUDA devices");
  std::vector<std::string> uuids;
  for (int d = 0; d < devices; ++d) uuids.push_back(uuid_of(properties_of(d)));
  return uuids;
}

/// The first rank whose memory `mine` cannot reach, or nothing.
std::optional<std::size_t> first_unreachable(const Peer& mine, const std::vector<Peer>& peers) {
  std::vector<std::string> visible;
  for (std::size_t r = 0; r < peers.size(); ++r) {
    if (peers[r].uuid == mine.uuid) continue;
    if (visible.empty()) visible = visible_uuids();
    const auto found = std::ranges::find(visible, peers[r].uuid);
    // CUDA cannot be asked about a device that CUDA_VISIBLE_DEVICES hides. Its memory can be mapped all the
    // same; where it cannot, mapping says why.
    if (found == visible.end()) continue;
    const int device = static_cast<int>(found - visible.begin());
    int can = 0;
    check(cudaDeviceCanAccessPeer(&can, mine.device, device),
          fmt::format("cannot ask whether CUDA device {} reaches device {}", mine.device, device));
    if (can == 0) return r;
  }
  return std::nullopt;
}

}  // namespace

std::vector<Peer> introduce(Bootstrap& bootstrap, int device) {
  const auto texts =
      all_or_none(bootstrap, "describing its GPU", [device] { return to_text(describe(device)); });
  std::vector<Peer> peers;
  const Hosts hosts = bootstrap.hosts();
  for (std::size_t r = 0; r < texts.size(); ++r) {
    peers.push_back(from_text(static_cast<int>(r), texts[r]));
    peers.back().host = hosts.of[r];
  }
  return peers;
}

void check_access(Bootstrap& bootstrap, const std::vector<Peer>& peers) {
  const Peer& mine = peers[static_cast<std::size_t>(bootstrap.rank())];
  const auto unreachable = all_or_none(bootstrap, "asking which GPUs it reaches", [&] {
    const std::optional<std::size_t> other = first_unreachable(mine, peers);
    return other ? std::to_string(*other) : std::string();
  });
  for (std::size_t r = 0; r < unreachable.size(); ++r) {
    if (unreachable[r].empty()) continue;
    const auto other = static_cast<std::size_t>(std::stoul(unreachable[r]));
    throw Unsupported(fmt::format(
        "the GPU of rank {} ({}) cannot reach the memory of rank {}'s ({}): there is neither NVLink nor "
        "PCIe peer access between them; choose GPUs that reach each other ('nvidia-smi topo -p2p r' "
        "shows which do)",
        r, peers[r].name, other, peers[other].name));
  }
}

}  // namespace mixcomm::cuda
