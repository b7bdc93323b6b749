#include "cuda/symmetric_memory.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <sstream>
#include <vector>

#include "algorithms/blocks.hpp"
#include "all_or_none.hpp"
#include "bootstrap/memory.hpp"
#include "cuda/driver.hpp"
#include "cuda/mapped_memory.hpp"
#include "cuda/multicast_memory.hpp"
#include "cuda/nccl_memory.hpp"
#include "cuda/peers.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::cuda {
namespace {

/// What Slices::owner holds: addresses, behind which memory may come and go. Destroyed from the last member
/// to the first.
struct Memory {
  Memory(int ranks, std::size_t bytes, std::size_t granularity, bool with_multicast)
      : stride(bytes), range(bytes * static_cast<std::size_t>(ranks), granularity) {
    if (with_multicast) multicast_range.emplace(bytes, granularity);
  }

  void map(int rank, const Physical& slice) {
    range.map(static_cast<std::size_t>(rank) * stride, stride, slice);
  }
  [[nodiscard]] std::byte* of(int rank) const {
    return range.data() + static_cast<std::size_t>(rank) * stride;
  }
  /// The addresses stay.
  void give_back() {
    multicast.reset();
    bound.clear();
    range.unmap();
  }

  std::size_t stride;
  std::vector<Physical> bound;  ///< with multicast: the slices of this process
  AddressRange range;
  std::optional<AddressRange> multicast_range;
  std::optional<Multicast> multicast;
};

Slices slices_of(const std::shared_ptr<Memory>& memory) {
  return {memory, memory->range.data(), memory->stride,
          memory->multicast_range ? memory->multicast_range->data() : nullptr};
}

/// What both ways of sharing have in common.
class VirtualMemory : public MemoryProvider {
 public:
  /// `bound_granularity`: multicast_granularity(), or 0 for no multicast.
  VirtualMemory(Bootstrap& bootstrap, std::vector<Peer> peers, Sharing sharing, std::size_t bound_granularity)
      : bootstrap_(bootstrap),
        peers_(std::move(peers)),
        sharing_(sharing),
        multicast_(bound_granularity > 0),
        granularity_(bound_granularity) {
    for (const Peer& peer : peers_) granularity_ = std::max(granularity_, peer.granularity);
  }

  Slices allocate(std::size_t bytes) final {
    check_same_size(bootstrap_.exchange("comparing sizes of GPU memory", std::to_string(bytes)));
    const std::size_t stride = round_up(std::max<std::size_t>(bytes, 1), granularity_);
    const std::shared_ptr<Memory> memory = reserve(stride);
    fill(memory.get(), stride);
    std::erase_if(given_, [](const auto& each) { return each.second.expired(); });
    given_.emplace(++last_given_, memory);
    return slices_of(memory);
  }

  void pause() final {
    all_or_none(bootstrap_, "giving back GPU memory", [&] {
      give_back_all();
      return std::string();
    });
  }

  void resume() final {
    const auto owned = all_or_none(bootstrap_, "asking for GPU memory again", [&] { return list_owned(); });
    // All allocations that any rank still owns, in the same order on all ranks.
    std::map<std::uint64_t, std::size_t> strides;
    for (const std::string& list : owned) {
      std::istringstream words(list);
      std::uint64_t number = 0;
      std::size_t stride = 0;
      while (words >> number >> stride) strides.emplace(number, stride);
    }
    try {
      for (const auto& [number, stride] : strides) {
        const auto mine = given_.find(number);
        const std::shared_ptr<Memory> memory = mine == given_.end() ? nullptr : mine->second.lock();
        fill(memory.get(), stride);
      }
    } catch (const Error&) {
      give_back_all();
      throw;
    }
  }

 protected:
  /// Collective: addresses for all ranks' slices of `stride` bytes, with nothing behind them.
  virtual std::shared_ptr<Memory> reserve(std::size_t stride) = 0;
  /// Collective: zeroed memory behind them; null on a rank that does not own them any more.
  virtual void fill(Memory* memory, std::size_t stride) = 0;
  /// Whether this rank maps memory itself.
  [[nodiscard]] virtual bool maps() const = 0;

  [[nodiscard]] std::shared_ptr<Memory> make_ranges(std::size_t stride) const {
    const UseDevice use(device_of(rank()));
    return std::make_shared<Memory>(world(), stride, granularity_, multicast_);
  }

  [[nodiscard]] int rank() const { return bootstrap_.rank(); }
  [[nodiscard]] int world() const { return bootstrap_.world(); }
  [[nodiscard]] int device_of(int rank) const { return peers_[static_cast<std::size_t>(rank)].device; }

  Bootstrap& bootstrap_;
  std::vector<Peer> peers_;
  Sharing sharing_;
  bool multicast_;
  std::size_t granularity_;  ///< powers of two all of them: a multiple of each

 private:
  /// "NUMBER STRIDE NUMBER STRIDE"
  [[nodiscard]] std::string list_owned() const {
    std::string list;
    for (const auto& [number, given] : given_)
      if (const auto memory = given.lock()) list += fmt::format("{} {} ", number, memory->stride);
    return list;
  }

  void give_back_all() {
    if (!maps()) return;
    const UseDevice use(device_of(rank()));
    for (const auto& [number, given] : given_)
      if (const auto memory = given.lock()) memory->give_back();
  }

  std::map<std::uint64_t, std::weak_ptr<Memory>> given_;  ///< by a number that is the same on all ranks
  std::uint64_t last_given_ = 0;
};

/// Memory on its way from rank 0 to the other ranks of this process, which hold a number for it: a rank that
/// comes too late, after rank 0 has given up, finds nothing.
class Handover {
 public:
  explicit Handover(const std::shared_ptr<Memory>& memory) {
    const std::lock_guard lock(mutex());
    number_ = ++last_number();
    waiting().emplace(number_, memory);
  }
  ~Handover() {
    const std::lock_guard lock(mutex());
    waiting().erase(number_);
  }
  Handover(const Handover&) = delete;
  Handover& operator=(const Handover&) = delete;

  [[nodiscard]] std::uint64_t number() const { return number_; }

  [[nodiscard]] static std::shared_ptr<Memory> take(std::uint64_t number) {
    const std::lock_guard lock(mutex());
    const auto found = waiting().find(number);
    return found == waiting().end() ? nullptr : found->second.lock();
  }

 private:
  static std::mutex& mutex() {
    static std::mutex mutex;
    return mutex;
  }
  static std::map<std::uint64_t, std::weak_ptr<Memory>>& waiting() {
    static std::map<std::uint64_t, std::weak_ptr<Memory>> waiting;
    return waiting;
  }
  static std::uint64_t& last_number() {
    static std::uint64_t number = 0;
    return number;
  }

  std::uint64_t number_ = 0;
};

/// Ranks as threads: rank 0 makes and maps everything, once for all devices in use, and the others share
/// that.
class OneProcess final : public VirtualMemory {
 public:
  using VirtualMemory::VirtualMemory;
  [[nodiscard]] std::string name() const override { return "ranks in one process"; }

 protected:
  [[nodiscard]] bool maps() const override { return rank() == 0; }

  std::shared_ptr<Memory> reserve(std::size_t stride) override {
    std::shared_ptr<Memory> memory;
    std::optional<Handover> handover;
    const auto numbers = all_or_none(bootstrap_, "reserving shared GPU memory", [&]() -> std::string {
      if (rank() != 0) return "";
      memory = make_ranges(stride);
      handover.emplace(memory);
      return std::to_string(handover->number());
    });
    all_or_none(bootstrap_, "taking shared GPU memory", [&]() -> std::string {
      if (rank() != 0) memory = Handover::take(std::stoull(numbers[0]));
      if (!memory) throw SystemError("rank 0 did not wait for it");
      return "";
    });
    return memory;
  }

  void fill(Memory* memory, std::size_t stride) override {
    all_or_none(bootstrap_, "making shared GPU memory", [&] {
      if (maps() && memory != nullptr) make(*memory, stride);
      return std::string();
    });
  }

 private:
  [[nodiscard]] std::vector<int> devices_in_use() const {
    std::vector<int> devices;
    for (const Peer& peer : peers_)
      if (std::ranges::find(devices, peer.device) == devices.end()) devices.push_back(peer.device);
    return devices;
  }

  void make(Memory& memory, std::size_t stride) const {
    const UseDevice use(device_of(rank()));
    const std::vector<int> devices = devices_in_use();
    for (int r = 0; r < world(); ++r) {
      Physical slice = Physical::create(device_of(r), stride, sharing_);
      memory.map(r, slice);
      if (multicast_) memory.bound.push_back(std::move(slice));
    }
    memory.range.allow(devices);
    for (int r = 0; r < world(); ++r) zero(device_of(r), memory.of(r), stride);
    if (!multicast_) return;
    Multicast& multicast = memory.multicast.emplace(Multicast::create(world(), stride, sharing_), stride);
    for (const int device : devices) multicast.add(device);
    for (int r = 0; r < world(); ++r) multicast.bind(device_of(r), memory.bound[static_cast<std::size_t>(r)]);
    multicast.map(*memory.multicast_range, devices);
  }
};

/// Ranks as processes of one host: each makes its slice, and maps everyone's from file descriptors.
class ManyProcesses final : public VirtualMemory {
 public:
  using VirtualMemory::VirtualMemory;
  [[nodiscard]] std::string name() const override { return "file descriptors over Unix sockets"; }

 protected:
  [[nodiscard]] bool maps() const override { return true; }

  std::shared_ptr<Memory> reserve(std::size_t stride) override {
    std::shared_ptr<Memory> memory;
    all_or_none(bootstrap_, "reserving addresses", [&] {
      memory = make_ranges(stride);
      return std::string();
    });
    return memory;
  }

  void fill(Memory* memory, std::size_t stride) override {
    std::shared_ptr<Memory> passing;  // of a rank that owns it no more, but whose part the others miss
    const int device = device_of(rank());
    Physical slice;
    Physical object;
    Fd slice_descriptor;
    Fd object_descriptor;
    all_or_none(bootstrap_, "making GPU memory", [&] {
      const UseDevice use(device);
      slice = Physical::create(device, stride, sharing_);
      slice_descriptor = slice.export_descriptor();
      if (multicast_ && rank() == 0) {
        object = Multicast::create(world(), stride, sharing_);
        object_descriptor = object.export_descriptor();
      }
      return std::string();
    });
    auto slices = bootstrap_.exchange_descriptors("passing on GPU memory", slice_descriptor.get());
    slice_descriptor.reset();
    std::vector<Fd> objects;
    if (multicast_)
      objects = bootstrap_.exchange_descriptors("passing on multicast memory", object_descriptor.get());
    object_descriptor.reset();

    all_or_none(bootstrap_, "mapping GPU memory", [&] {
      const UseDevice use(device);
      if (memory == nullptr) {
        passing = make_ranges(stride);
        memory = passing.get();
      }
      map_all(*memory, slice, slices);
      memory->range.allow({device});
      zero(device, memory->of(rank()), stride);
      if (multicast_) {
        if (rank() != 0) object = Physical::import_from(objects[0]);
        memory->multicast.emplace(std::move(object), stride).add(device);
      }
      return std::string();
    });
    if (multicast_)
      all_or_none(bootstrap_, "binding multicast memory", [&] {
        const UseDevice use(device);
        memory->multicast->bind(device, slice);
        memory->bound.push_back(std::move(slice));
        memory->multicast->map(*memory->multicast_range, {device});
        return std::string();
      });
  }

 private:
  /// Closes each descriptor once it is mapped.
  void map_all(Memory& memory, const Physical& mine, std::vector<Fd>& slices) const {
    for (int r = 0; r < world(); ++r) {
      Fd& descriptor = slices[static_cast<std::size_t>(r)];
      if (r == rank())
        memory.map(r, mine);
      else
        memory.map(r, Physical::import_from(descriptor));
      descriptor.reset();
    }
  }
};

bool same_process(const std::vector<Peer>& peers) {
  return std::ranges::all_of(peers, [&](const Peer& peer) { return peer.process == peers[0].process; });
}

void check_processes(const std::vector<Peer>& peers) {
  for (std::size_t r = 0; r < peers.size(); ++r) {
    if (peers[r].host != peers[0].host)
      throw Unsupported(fmt::format(
          "ranks 0 and {} run on different hosts, and GPU memory is shared by file descriptors within one "
          "alone; make a communicator for the ranks of each host, or, where NVLink joins the hosts, give "
          "CudaOptions::nccl and nccl_windows",
          r));
    if (!peers[r].shares_descriptors)
      throw Unsupported(fmt::format(
          "the GPU of rank {} ({}) cannot pass its memory on to other processes as a file descriptor; run "
          "the ranks as threads of one process",
          r, peers[r].name));
  }
}

}  // namespace

std::unique_ptr<MemoryProvider> make_memory_provider(Bootstrap& bootstrap, int device,
                                                     const CudaOptions& options, Milliseconds timeout) {
  if (options.nccl_windows) return make_nccl_memory_provider(bootstrap, device, options.nccl, timeout);
  std::vector<Peer> peers = introduce(bootstrap, device);
  const bool one_process = same_process(peers);
  if (!one_process) check_processes(peers);
  check_access(bootstrap, peers);
  const bool shares = std::ranges::all_of(peers, [](const Peer& peer) { return peer.shares_descriptors; });
  const Sharing sharing = shares ? Sharing::by_descriptor : Sharing::within_process;
  std::size_t bound_granularity = 0;
  if (options.multicast && bootstrap.world() > 1)
    all_or_none(bootstrap, "looking for multicast", [&] {
      check_multicast(peers);
      bound_granularity = multicast_granularity(bootstrap.world(), sharing);
      return std::string();
    });
  if (one_process)
    return std::make_unique<OneProcess>(bootstrap, std::move(peers), sharing, bound_granularity);
  return std::make_unique<ManyProcesses>(bootstrap, std::move(peers), sharing, bound_granularity);
}

}  // namespace mixcomm::cuda
