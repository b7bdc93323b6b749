#include "tools/driven_ranks.hpp"

namespace mixcomm::tools {
namespace {

/// Keeps a promise at the end of a block, however it ends.
class KeptAtTheEnd {
 public:
  explicit KeptAtTheEnd(std::promise<void>& promise) : promise_(promise) {}
  ~KeptAtTheEnd() { promise_.set_value(); }
  KeptAtTheEnd(const KeptAtTheEnd&) = delete;
  KeptAtTheEnd& operator=(const KeptAtTheEnd&) = delete;

 private:
  std::promise<void>& promise_;
};

}  // namespace

DrivenRanks::DrivenRanks(int world)
    : parts_(static_cast<std::size_t>(world)), wait_until_driven_(driven_.get_future().share()) {}

Json DrivenRanks::run(Bootstrap& bootstrap, GpuRank& mine, RanksOn place,
                      const std::function<Json(const std::vector<GpuRank*>&)>& drive) {
  if (place != RanksOn::streams) return drive({&mine});
  parts_[static_cast<std::size_t>(bootstrap.rank())] = &mine;
  const std::shared_future<void> driven = wait_until_driven_;
  (void)bootstrap.exchange("bringing all ranks under one thread", "");
  if (bootstrap.rank() == 0) {
    const KeptAtTheEnd kept(driven_);
    return drive(parts_);
  }
  driven.wait();
  return nullptr;
}

}  // namespace mixcomm::tools
