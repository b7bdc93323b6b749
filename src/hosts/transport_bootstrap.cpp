#include "hosts/transport_bootstrap.hpp"

#include <numeric>
#include <utility>

namespace mixcomm {
namespace {

std::vector<int> all_of(const Transport& transport) {
  std::vector<int> ranks(static_cast<std::size_t>(transport.world()));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

/// Whether a rank has ended is not told by a transport: its deadline finds it.
Patience patience(Milliseconds timeout) {
  return {timeout, [] { return RankSet{0}; }, [] { return RankSet{0}; }};
}

}  // namespace

TransportBootstrap::TransportBootstrap(std::unique_ptr<Transport> transport, std::string_view host,
                                       Milliseconds timeout)
    : transport_(std::move(transport)),
      meeting_(*transport_, all_of(*transport_), transport_->new_tag(), timeout),
      sharing_(meeting_, patience(timeout)),
      hosts_(Hosts::from_identities(meeting_.exchange("telling the hosts", host))) {
  const int tag = transport_->new_tag();
  if (hosts_.count() == 1) return;
  const int mine = hosts_.of[static_cast<std::size_t>(rank())];
  own_host_ = std::unique_ptr<TransportBootstrap>(
      new TransportBootstrap(*transport_, hosts_.ranks_on(mine), tag, timeout));
}

TransportBootstrap::TransportBootstrap(Transport& transport, std::vector<int> members, int tag,
                                       Milliseconds timeout)
    : meeting_(transport, std::move(members), tag, timeout),
      sharing_(meeting_, patience(timeout)),
      hosts_(Hosts::one(meeting_.world())) {}

}  // namespace mixcomm
