#include "death_watch.hpp"

#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "bootstrap/system_call.hpp"

namespace mixcomm {

Fd this_process() {
#if defined(SYS_pidfd_open)
  Fd fd(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));  // closed on exec
  if (!fd.valid() && is_shortage(errno)) throw_failed("cannot watch this process", "pidfd_open");
  return fd;
#else
  return {};
#endif
}

DeathWatch::DeathWatch(std::span<const Fd> processes, std::span<const int> names) {
  for (std::size_t r = 0; r < processes.size(); ++r) {
    const int name = names.empty() ? static_cast<int>(r) : names[r];
    if (!processes[r].valid()) {
      unseen_ |= just(name);
      continue;
    }
    entries_.push_back({processes[r].get(), POLLIN, 0});
    ranks_.push_back(name);
  }
}

RankSet DeathWatch::dead(RankSet among) const {
  if (entries_.empty()) return 0;
  std::vector<pollfd> entries = entries_;
  for (std::size_t i = 0; i < entries.size(); ++i)
    if (!holds(among, ranks_[i])) entries[i].fd = -1;  // left out
  if (poll(entries.data(), entries.size(), 0) <= 0) return 0;
  RankSet dead = 0;
  for (std::size_t i = 0; i < entries.size(); ++i)
    if ((static_cast<unsigned>(entries[i].revents) & POLLIN) != 0) dead |= just(ranks_[i]);
  return dead;
}

}  // namespace mixcomm
