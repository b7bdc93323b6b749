#include "bootstrap/process_sharing.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "bootstrap/memory.hpp"
#include "bootstrap/place.hpp"
#include "bootstrap/star.hpp"
#include "bootstrap/system_call.hpp"
#include "death_watch.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm {
namespace {

/// Memory without a name, for this user alone: nothing is left behind, however the ranks end. Its size is
/// sealed, so that no rank can take pages away from under the others.
Fd make_memory(std::size_t bytes) {
  Fd fd(memfd_create("mixcomm", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  const auto check = [bytes](bool succeeded, std::string_view call) {
    if (!succeeded) throw_failed(fmt::format("cannot make {} bytes of shared memory", bytes), call);
  };
  check(fd.valid(), "memfd_create");
  check(fchmod(fd.get(), S_IRUSR | S_IWUSR) == 0, "fchmod");
  check(ftruncate(fd.get(), static_cast<off_t>(bytes)) == 0, "ftruncate");
  check(fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0, "fcntl(F_ADD_SEALS)");
  return fd;
}

}  // namespace

std::shared_ptr<std::byte> ProcessSharing::share_memory(std::size_t bytes) {
  check_same_size(meeting_.exchange("comparing sizes of shared memory", std::to_string(bytes)));
  Fd mine;
  std::string problem;
  if (meeting_.rank() == 0) try {
      mine = make_memory(bytes);
    } catch (const SystemError& error) {
      problem = error.what();
    }
  const std::vector<Fd> descriptors = exchange_descriptors("sharing memory", mine.get());
  const Fd& fd = descriptors[0];
  std::shared_ptr<std::byte> memory;
  if (fd.valid()) try {
      memory = map_shared(bytes, fd.get());
    } catch (const SystemError& error) {
      problem = error.what();
    }
  for (const std::string& each : meeting_.exchange("mapping shared memory", problem))
    if (!each.empty()) throw SystemError(each);
  return memory;
}

std::vector<Fd> ProcessSharing::exchange_descriptors(std::string_view step, int mine) {
  check_one_host();
  return pass_descriptors(meeting_, step, {mine, ""}, patience_);
}

std::span<const Fd> ProcessSharing::processes() {
  if (processes_.empty()) {
    check_one_host();
    Fd mine;
    std::string problem;
    try {
      mine = this_process();
    } catch (const SystemError& error) {
      problem = error.what();
    }
    processes_ = pass_descriptors(meeting_, "watching the ranks", {mine.get(), problem}, patience_);
  }
  return processes_;
}

const Hosts& ProcessSharing::hosts() {
  if (hosts_.count() > 0) return hosts_;
  constexpr char failed = '!';
  std::string mine;
  try {
    mine = host_identity();
  } catch (const SystemError& error) {
    mine = failed + std::string(error.what());
  }
  const auto identities = meeting_.exchange("comparing hosts", mine);
  for (std::size_t r = 0; r < identities.size(); ++r)
    if (identities[r].starts_with(failed))
      throw SystemError(fmt::format("rank {}, comparing hosts: {}", r, identities[r].substr(1)));
  hosts_ = Hosts::from_identities(identities);
  return hosts_;
}

void ProcessSharing::check_one_host() {
  if (hosts().count() == 1) return;
  std::vector<int> elsewhere;
  for (std::size_t r = 0; r < hosts_.of.size(); ++r)
    if (hosts_.of[r] != 0) elsewhere.push_back(static_cast<int>(r));
  throw Unsupported(
      fmt::format("{} run on another host than rank 0; memory and file descriptors are shared within one "
                  "host, so all ranks must run there; or use GPUs (backend cuda), which NCCL joins; or meet "
                  "over MPI, which "
                  "joins CPUs (bootstrap_mpi). Its boot and name: '{}', rank 0's: '{}'",
                  name_ranks(elsewhere), hosts_.names[1], hosts_.names[0]));
}

}  // namespace mixcomm
