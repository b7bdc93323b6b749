#include "measure/driven_ranks.hpp"

#include <fmt/format.h>

#include <map>
#include <mutex>
#include <utility>

#include "mixcomm/error.hpp"

namespace mixcomm::tools {
namespace {

/// What ranks of this process share, by a number that rank 0 tells.
class Shared {
 public:
  std::string add(const std::shared_ptr<DrivenRanks>& ranks) {
    const std::lock_guard lock(mutex_);
    std::erase_if(known_, [](const auto& each) { return each.second.expired(); });
    known_[++last_] = ranks;
    return std::to_string(last_);
  }
  std::shared_ptr<DrivenRanks> find(const std::string& number) {
    const std::lock_guard lock(mutex_);
    for (const auto& [key, ranks] : known_)
      if (std::to_string(key) == number) return ranks.lock();
    return nullptr;
  }

 private:
  std::mutex mutex_;
  std::map<int, std::weak_ptr<DrivenRanks>> known_;
  int last_ = 0;
};

Shared& shared_ones() {
  static Shared shared;
  return shared;
}

}  // namespace

std::shared_ptr<DrivenRanks> DrivenRanks::shared(Bootstrap& bootstrap) {
  std::shared_ptr<DrivenRanks> ranks;
  if (bootstrap.rank() == 0) ranks = std::make_shared<DrivenRanks>(bootstrap.world());
  const std::string number =
      bootstrap.exchange("sharing a measurement", ranks ? shared_ones().add(ranks) : "").front();
  if (!ranks) ranks = shared_ones().find(number);
  if (!ranks) throw Error("rank 0 has given up this measurement");
  return ranks;
}

DrivenRanks::DrivenRanks(int world)
    : parts_(static_cast<std::size_t>(world)), wait_until_driven_(driven_.get_future().share()) {}

Json DrivenRanks::run(Bootstrap& bootstrap, GpuRank& mine, RanksOn place,
                      const std::function<Json(const std::vector<GpuRank*>&)>& drive) {
  if (place != RanksOn::streams) return drive({&mine});
  parts_[static_cast<std::size_t>(bootstrap.rank())] = &mine;
  const std::shared_future<void> driven = wait_until_driven_;
  (void)bootstrap.exchange("bringing all ranks under one thread", "");
  if (bootstrap.rank() != 0) {
    driven.get();
    return nullptr;
  }
  try {
    Json result = drive(parts_);
    driven_.set_value();
    return result;
  } catch (...) {
    driven_.set_exception(std::current_exception());
    throw;
  }
}

}  // namespace mixcomm::tools
