#include "hosts/hosts_backend.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <exception>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include "all_or_none.hpp"
#include "bootstrap/deadline.hpp"
#include "cpu/cpu_backend.hpp"
#include "cuda/cuda_backend.hpp"
#include "cuda/nccl_crossing.hpp"
#include "hosts/host_map.hpp"
#include "hosts/host_state.hpp"
#include "hosts/host_team.hpp"
#include "hosts/partial_sums.hpp"
#include "hosts/scatter_plan.hpp"
#include "hosts/shares.hpp"
#include "hosts/transport_crossing.hpp"
#include "mixcomm/choice.hpp"
#include "mixcomm/device/lanes.hpp"
#include "mixcomm/epilogue.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::hosts {
namespace {

/// How much earlier than the deadline a host's own ranks find out who of them is late, and how much earlier
/// hosts find out about each other: twice and once this. So the error names who is late, not who waits for
/// it.
Milliseconds head_start(Milliseconds timeout) {
  return std::min(Milliseconds(1000), timeout / 8);
}

/// A call has one part, and two for each host at most; or one for each host, and three.
constexpr int part_bits = 8;
static_assert(1 + 2 * max_ranks < 1 << part_bits);

CommunicatorOptions of_one_host(const CommunicatorOptions& options, int tp, int dp) {
  CommunicatorOptions own = options;
  own.tp = tp;
  own.dp = dp;
  own.timeout -= 2 * head_start(options.timeout);
  own.tuning.reset();
  own.cuda.nccl = nullptr;  // it is of all ranks
  return own;
}

/// Elements of one dtype, all ranks' of a call: each host's are one run.
struct Gathered {
  std::byte* data = nullptr;
  DType dtype = DType::fp32;
  std::vector<Range> of_host;  ///< in elements
};

class HostsBackend final : public Backend {
 public:
  HostsBackend(Bootstrap& bootstrap, const Grid& grid, const CommunicatorOptions& options)
      : bootstrap_(bootstrap),
        own_(*bootstrap.own_host()),
        grid_(grid),
        options_(options),
        hosts_(bootstrap.hosts()),
        parts_(parts_of(hosts_, options.tp)),
        host_(hosts_.of[static_cast<std::size_t>(bootstrap.rank())]),
        state_memory_(own_.share_memory(sizeof(HostState))),
        state_(std::launder(reinterpret_cast<HostState*>(state_memory_.get()))) {
    const auto crowds = all_or_none(bootstrap, "making each host's part of a communicator", [&] {
      make_own_part();
      return std::string(own_part_ != nullptr && own_part_->crowded() ? "crowded" : "");
    });
    if (late_) std::rethrow_exception(late_);
    crowded_ = std::ranges::any_of(crowds, [](const std::string& each) { return !each.empty(); });
    crossing_ = options.backend == BackendKind::cuda ? over_nccl() : over_transport();
  }

  SymmetricMemory allocate(std::size_t bytes) override {
    SymmetricMemory memory;
    all_or_none(bootstrap_, "allocating on all hosts", [&] {
      memory = own_part_->allocate(bytes);
      return std::string();
    });
    return memory;
  }
  [[nodiscard]] Placement place(const void* data, std::size_t bytes) const override {
    return own_part_->place(data, bytes);
  }
  [[nodiscard]] std::string machine() const override { return own_part_->machine(); }
  [[nodiscard]] bool crowded() const override { return crowded_; }
  [[nodiscard]] BackendKind kind() const override { return own_part_->kind(); }
  [[nodiscard]] int device() const override { return own_part_->device(); }
  [[nodiscard]] Link link() const override { return own_part_->link(); }
  [[nodiscard]] int threads() const override { return own_part_->threads(); }
  /// What is chosen by it stays on one host: calls of one TP team.
  [[nodiscard]] int lanes_of_calls() const override { return own_part_->lanes_of_calls(); }
  [[nodiscard]] bool reads_in_place(const Call& call) const override {
    return !crowded_ && own_part_->reads_in_place(call);
  }
  void copy(const RowCopy& copy, void* stream) override { own_part_->copy(copy, stream); }
  void clear(void* data, std::size_t bytes, void* stream) override { own_part_->clear(data, bytes, stream); }
  void apply(const Epilogue& epilogue, const ConstTensor& in, const Tensor& out, void* stream) override {
    own_part_->apply(epilogue, in, out, stream);
  }
  void run_nccl(const Call& call) override {
    check_alive();
    if (!crossing_->run_nccl(call)) throw no_nccl();
  }
  DeviceLanes device_lanes(const DeviceLanesOptions& /*options*/) override { throw no_lanes(); }
  void settle() override {
    own_part_->settle();
    check_alive();
  }
  void pause() override { own_part_->pause(); }
  void resume() override {
    own_part_->resume();
    (void)bootstrap_.exchange("taking memory again on all hosts", "");
  }
  void check_alive() const override {
    state_->failure.rethrow();
    or_fail([this] { own_part_->check_alive(); });
    if (const Finding finding = crossing_->check(); !finding.text.empty()) give_up(finding);
  }

  void run(Call& call) override {
    check_alive();
    if (call.team == TeamKind::tp) return on_this_host(call, 0);
    if (call.body == Body::scatter && kind() == BackendKind::cuda)
      throw Unsupported(
          fmt::format("{}: DP ranks are on {} hosts ({}), and between GPUs sums over DP are made on one host "
                      "so far; all_reduce, all_gather and all_reduce_all_gather go across hosts, on CPUs all",
                      name(call.record.op), hosts_.count(), fmt::join(hosts_.names, "; ")));
    if (call.body == Body::scatter) return scatter(call);
    crossing_->check_call(call);
    gather_here(call);
    const DType dtype = call.epilogue.quantizes() ? DType::fp8_e4m3 : call.dtype;
    across(call, {static_cast<std::byte*>(call.out), dtype, runs(call, 1, 1)}, 1);
    const std::size_t each = scales_per_row(call.epilogue.quantize, call.hidden);
    if (each == 0) return;
    auto* const scales = reinterpret_cast<std::byte*>(call.epilogue.scales);
    across(call, {scales, DType::fp32, runs(call, each, call.hidden)}, 1 + hosts_.count());
  }

 private:
  [[nodiscard]] const HostPart& here() const { return parts_[static_cast<std::size_t>(host_)]; }

  /// Ranks that do not come are named on this host; others find out in the next step.
  void make_own_part() try {
    const HostPart& part = here();
    const auto make_backend = options_.backend == BackendKind::cuda ? cuda::make_backend : cpu::make_backend;
    in_numbers_of_all([&] {
      own_part_ = make_backend(own_, Grid::of(options_.tp, part.dp, own_.rank()),
                               of_one_host(options_, options_.tp, part.dp));
    });
  } catch (const Timeout&) {
    late_ = std::current_exception();
  }

  [[nodiscard]] std::unique_ptr<Crossing> over_transport() {
    Transport& transport = *bootstrap_.transport();
    std::vector<RankSet> ranks;
    ranks.reserve(parts_.size());
    for (int h = 0; h < hosts_.count(); ++h) ranks.push_back(set_of(hosts_.ranks_on(h)));
    const int data_tag = transport.new_tag();
    return std::make_unique<TransportCrossing>(
        TransportCrossing::Setup{.transport = &transport,
                                 .state = state_,
                                 .hosts = std::move(ranks),
                                 .host = host_,
                                 .timeout = options_.timeout - head_start(options_.timeout),
                                 .chunk_bytes = std::min(options_.workspace_bytes, most_chunk_bytes),
                                 .data_tag = data_tag,
                                 .notice_tag = transport.new_tag(),
                                 .spins = 0});
  }

  [[nodiscard]] std::unique_ptr<Crossing> over_nccl() {
    return cuda::make_nccl_crossing({.whole = bootstrap_,
                                     .own_part = *own_part_,
                                     .state = *state_,
                                     .parts = parts_,
                                     .grid = grid_,
                                     .timeout = options_.timeout - head_start(options_.timeout),
                                     .nccl = options_.cuda.nccl});
  }

  /// Each host's run of the blocks, of which `numerator` of `denominator` elements count.
  [[nodiscard]] std::vector<Range> runs(const Call& call, std::size_t numerator,
                                        std::size_t denominator) const {
    std::vector<Range> all;
    for (const HostPart& part : parts_) {
      const std::size_t begin = call.blocks.offset(part.first_dp) / denominator * numerator;
      const std::size_t end = call.blocks.offset(part.first_dp + part.dp) / denominator * numerator;
      all.push_back({begin, end - begin});
    }
    return all;
  }

  /// The operation on the DP ranks of this host alone: their blocks are next to each other.
  void gather_here(const Call& call) {
    const HostPart& part = here();
    Call mine = call;
    const std::size_t begin = call.blocks.offset(part.first_dp);
    const DType out = call.epilogue.quantizes() ? DType::fp8_e4m3 : call.dtype;
    const std::size_t skipped = begin * size_of(out);
    mine.blocks = Blocks(part.dp, [&](int d) { return call.blocks.full_size(part.first_dp + d); });
    if (mine.blocks.elements() == 0) return;
    mine.out = static_cast<std::byte*>(call.out) + skipped;
    mine.out_placement.offset += mine.out_placement.kind == Placement::Kind::symmetric ? skipped : 0;
    if (call.epilogue.scales != nullptr)
      mine.epilogue.scales += begin / call.hidden * scales_per_row(call.epilogue.quantize, call.hidden);
    on_this_host(mine, 0);
  }

  /// Every host's run, complete there, goes to all others: each member sends its share to a member there, and
  /// what they have received those of a host gather among them.
  void across(const Call& call, const Gathered& gathered, int first_part) {
    const HostTeam team(call.team, grid_, parts_);
    const int own = team.own(host_);
    const int members = team.members(host_);
    const std::size_t size = size_of(gathered.dtype);
    const auto at = [&](std::size_t element) { return gathered.data + element * size; };
    std::vector<int> sizes;
    for (int h = 0; h < hosts_.count(); ++h) sizes.push_back(team.members(h));
    const Passages passages = passages_of(gathered.of_host, sizes, static_cast<std::size_t>(host_), own);
    const auto streams = [&](const std::vector<Passage>& some) {
      std::vector<Stream> all;
      for (const auto& [host, member, elements] : some)
        all.push_back({team.rank(host, member), at(elements.begin), elements.size * size});
      return all;
    };
    std::vector<Stream> out = streams(passages.out);
    std::vector<Stream> in = streams(passages.in);
    if (!out.empty() || !in.empty()) cross(call, std::move(out), std::move(in));
    if (members == 1) return;
    for (int h = 0; h < hosts_.count(); ++h) {
      const Range& theirs = gathered.of_host[static_cast<std::size_t>(h)];
      if (h == host_ || theirs.size == 0) continue;
      const auto shares = shares_between(theirs.size, team.members(h), members);
      const auto received = [&](int member) { return received_by(shares, member, theirs.size); };
      gather_among(call, call.team, gathered.dtype, at(theirs.begin + received(own).begin), at(theirs.begin),
                   Blocks(members, [&](int m) { return received(m).size; }), first_part + h);
    }
  }

  /// Each member of a team on this host hands out its block to all others.
  void gather_among(const Call& call, TeamKind team, DType dtype, const void* in, void* out,
                    const Blocks& blocks, int part) {
    if (blocks.elements() == 0) return;
    Call gather = part_by_rank(call, Body::gather, team, dtype, blocks);
    gather.in = in;
    gather.out = out;
    const Circumstances circumstances{.op = Op::all_gather,
                                      .tp = 1,
                                      .dp = blocks.dp(),
                                      .bytes = blocks.elements() * size_of(dtype),
                                      .crowded = crowded_,
                                      .backend = kind(),
                                      .link = options_.cuda.lines ? link() : Link::pcie};
    gather.set_algorithm(choose(circumstances), *own_part_);
    gather.shape = choose_shape(circumstances, gather.algorithm).with({.protocol = options_.cuda.protocol});
    on_this_host(gather, part);
  }
  /// A part of a call in which each member of a team has a block, of buffers that peers do not reach.
  static Call part_by_rank(const Call& call, Body body, TeamKind team, DType dtype, const Blocks& blocks) {
    Call part;
    part.body = body;
    part.team = team;
    part.by_rank = true;
    part.dtype = dtype;
    part.blocks = blocks;
    part.hidden = call.hidden;
    part.stream = call.stream;
    part.record = call.record;
    part.record.epilogue = 0;
    return part;
  }

  // Sums over hosts. Each host adds up, of what its ranks have, what is a subtree of the whole sum; that
  // crosses to the rank that finishes those elements.

  using NodeData = std::vector<std::byte*>;

  [[nodiscard]] ScatterPlan plan_of(const Call& call) const {
    std::vector<std::size_t> begins;
    for (int d = 0; d <= call.blocks.dp(); ++d) begins.push_back(call.blocks.offset(d));
    // Whole rows if there is an epilogue.
    return {HostTeam(call.team, grid_, parts_), std::move(begins),
            call.epilogue.any() ? call.hidden : granule};
  }

  void scatter(const Call& call) {
    rooms_.clear();
    const ScatterPlan plan = plan_of(call);
    const Range mine = plan.finished(host_, plan.team().own(host_));
    std::vector<NodeData> have(parts_.size());
    for (int i = 1; i <= hosts_.count(); ++i) {  // this host's own rows last: nobody waits for those
      const int h = (host_ + i) % hosts_.count();
      have[static_cast<std::size_t>(h)] = add_up_here(call, plan, h, i);
    }
    std::vector<NodeData> all = exchange_nodes(call, plan, have);
    all[static_cast<std::size_t>(host_)] = have[static_cast<std::size_t>(host_)];
    std::vector<PartialSum> sums;
    for (int h = 0; h < hosts_.count(); ++h)
      for (std::size_t k = 0; k < plan.nodes(h).size(); ++k)
        sums.push_back({plan.nodes(h)[k], plan.dtype(plan.nodes(h)[k], call.dtype),
                        all[static_cast<std::size_t>(h)][k]});
    const std::size_t begin = mine.begin - call.blocks.offset(grid_.dp.member);
    finish(call, begin, mine.size, sums, rooms_);
    if (plan.team().each() > 1) hand_out(call, plan, begin);
  }

  /// For each node of this host what its ranks have of another host's blocks, or of its own: of those
  /// elements that this rank adds up.
  NodeData add_up_here(const Call& call, const ScatterPlan& plan, int for_host, int number) {
    const Range run = plan.run(for_host);
    const Range mine = plan.summed(host_, plan.team().own(host_), for_host);
    // A Stream, which may take it from there, serves both directions.
    auto* const in = static_cast<std::byte*>(const_cast<void*>(call.in));
    const std::size_t size = size_of(call.dtype);
    const int members = plan.team().members(host_);
    if (members == 1) return {in + mine.begin * size};
    std::vector<Subtotal> subtotals;
    NodeData sums;
    for (const Subtree& node : plan.nodes(host_)) {
      const DType dtype = plan.dtype(node, call.dtype);
      std::byte* const room = rooms_.take(mine.size * size_of(dtype));
      subtotals.push_back({plan.order(host_, node, grid_.tp.size), dtype, room});
      sums.push_back(room);
    }
    if (run.size == 0) return sums;
    const auto blocks = Blocks(members, [&](int m) { return plan.summed(host_, m, for_host).size; });
    Call sum = part_by_rank(call, Body::scatter, call.team, call.dtype, blocks);
    sum.in = in + run.begin * size;
    sum.subtotals = subtotals;
    sum.set_algorithm(Algorithm::one_shot, *own_part_);
    on_this_host(sum, number);
    return sums;
  }

  /// Sends each host what this rank has added up of its blocks, and takes what others have of the elements
  /// that it finishes. Returns that by host and node. Aligned hosts have one node each; the nodes of others
  /// cross one after the other, since between two ranks messages come in one order.
  std::vector<NodeData> exchange_nodes(const Call& call, const ScatterPlan& plan,
                                       const std::vector<NodeData>& have) {
    const HostTeam& team = plan.team();
    const int own = team.own(host_);
    const Range mine = plan.finished(host_, own);
    const Passages passages = plan.passages(host_);
    const auto has = [&](int host, std::size_t k) { return k < plan.nodes(host).size(); };
    const auto size = [&](int host, std::size_t k) {
      return size_of(plan.dtype(plan.nodes(host)[k], call.dtype));
    };
    std::size_t most = 0;
    for (int h = 0; h < hosts_.count(); ++h) most = std::max(most, plan.nodes(h).size());
    std::vector<NodeData> come(parts_.size());
    for (std::size_t k = 0; k < most; ++k) {
      for (int h = 0; h < hosts_.count(); ++h)
        if (h != host_ && has(h, k))
          come[static_cast<std::size_t>(h)].push_back(rooms_.take(mine.size * size(h, k)));
      // Elements of node k of a host, of which `data` has the run `held`.
      const auto stream = [&](const Passage& each, int of_host, std::byte* data, const Range& held) {
        const std::size_t bytes = size(of_host, k);
        return Stream{team.rank(each.host, each.member), data + (each.elements.begin - held.begin) * bytes,
                      each.elements.size * bytes};
      };
      std::vector<Stream> out;
      std::vector<Stream> in;
      for (const Passage& each : passages.out)
        if (has(host_, k))
          out.push_back(stream(each, host_, have[static_cast<std::size_t>(each.host)][k],
                               plan.summed(host_, own, each.host)));
      for (const Passage& each : passages.in)
        if (has(each.host, k))
          in.push_back(stream(each, each.host, come[static_cast<std::size_t>(each.host)][k], mine));
      if (!out.empty() || !in.empty()) cross(call, std::move(out), std::move(in));
    }
    return come;
  }

  /// What each TP rank has finished of their block, from element `begin` on, to the others.
  void hand_out(const Call& call, const ScatterPlan& plan, std::size_t begin) {
    const int each = plan.team().each();
    const int first = plan.team().own(host_) / each * each;
    // Of as many elements as `numerator` of `denominator`.
    const auto part = [&](void* data, DType dtype, std::size_t numerator, std::size_t denominator,
                          int number) {
      const auto elements = [&](std::size_t n) { return n / denominator * numerator; };
      const auto blocks = Blocks(each, [&](int t) { return elements(plan.finished(host_, first + t).size); });
      gather_among(call, TeamKind::tp, dtype,
                   static_cast<std::byte*>(data) + elements(begin) * size_of(dtype), data, blocks, number);
    };
    const Epilogue& epilogue = call.epilogue;
    const int number = hosts_.count() + 1;
    part(call.out, epilogue.quantizes() ? DType::fp8_e4m3 : call.dtype, 1, 1, number);
    if (epilogue.keeps()) part(epilogue.residual_out.data, call.dtype, 1, 1, number + 1);
    const std::size_t scales = scales_per_row(epilogue.quantize, call.hidden);
    if (scales > 0) part(epilogue.scales, DType::fp32, scales, call.hidden, number + 2);
  }

  void cross(const Call& call, std::vector<Stream> out, std::vector<Stream> in) {
    Finding finding;
    try {
      finding = crossing_->run(call.record, std::move(out), std::move(in), call.stream);
    } catch (const SystemError& error) {
      finding = {cpu::Failure::Kind::timeout, error.what(), 0};
    } catch (const CudaError& error) {  // also NCCL's
      finding = {cpu::Failure::Kind::timeout, error.what(), 0};
    }
    if (!finding.text.empty()) give_up(finding);
  }

  /// One part of a call, by a number that all ranks of this host give it.
  void on_this_host(Call call, int part) {
    call.record.part_bits = part_bits;
    call.record.number = (call.record.number << part_bits) + static_cast<std::uint64_t>(part);
    or_fail([&] { own_part_->run(call); });
  }

  /// Does `call` of this host's part. What that finds wrong fails all.
  template <class F>
  void or_fail(const F& call) const {
    try {
      call();
    } catch (const PeerGone& error) {
      give_up({cpu::Failure::Kind::gone, error.what() + numbers(), of_all(error.missing())});
    } catch (const Timeout& error) {
      // Who waits for another host says itself who is missing there.
      if (waits_for_hosts(error.missing())) wait_for_finding();
      give_up({cpu::Failure::Kind::timeout, error.what() + numbers(), of_all(error.missing())});
    } catch (const Disagreement& error) {
      give_up({cpu::Failure::Kind::disagreement, error.what() + numbers(), 0});
    }
  }

  /// Whoever of this host comes first says what is wrong; all ranks here throw it, and tell the other hosts.
  [[noreturn]] void give_up(const Finding& finding) const {
    const bool first = state_->failure.state.load() == 0;
    state_->failure.record(finding.kind, finding.text, finding.missing);
    own_part_->fail("another rank of this host has failed");
    if (first) crossing_->tell(finding);
    state_->failure.rethrow();
    throw Timeout(finding.text, ranks_in(finding.missing));
  }

  [[nodiscard]] bool waits_for_hosts(const std::vector<int>& local) const {
    return std::ranges::any_of(local, [this](int r) {
      const int rank = here().first_rank + r;
      return state_->waits_for_hosts[static_cast<std::size_t>(rank)].load() != 0;
    });
  }
  void wait_for_finding() const {
    const Deadline deadline(2 * head_start(options_.timeout));
    while (!deadline.passed() && state_->failure.state.load() == 0)
      std::this_thread::sleep_for(Milliseconds(1));
  }

  [[nodiscard]] RankSet of_all(const std::vector<int>& local) const {
    RankSet set = 0;
    for (const int r : local) set |= just(here().first_rank + r);
    return set;
  }
  [[nodiscard]] std::string numbers() const {
    const HostPart& part = here();
    return part.first_rank == 0
               ? ""
               : fmt::format(" (on a host, whose ranks 0 to {} are ranks {} to {} of all)", part.ranks - 1,
                             part.first_rank, part.first_rank + part.ranks - 1);
  }
  /// Errors of this host's own backends name its ranks as it counts them.
  template <class F>
  void in_numbers_of_all(const F& call) const try {
    call();
  } catch (const PeerGone& error) {
    throw PeerGone(error.what() + numbers(), ranks_in(of_all(error.missing())));
  } catch (const Timeout& error) {
    throw Timeout(error.what() + numbers(), ranks_in(of_all(error.missing())));
  } catch (const Disagreement& error) {
    throw Disagreement(error.what() + numbers());
  }

  Bootstrap& bootstrap_;
  Bootstrap& own_;
  Grid grid_;
  CommunicatorOptions options_;
  Hosts hosts_;
  std::vector<HostPart> parts_;
  int host_;
  std::shared_ptr<std::byte> state_memory_;
  HostState* state_;
  std::unique_ptr<Backend> own_part_;  ///< this host's part of the grid
  std::exception_ptr late_;            ///< of a rank that did not come while it was made
  std::unique_ptr<Crossing> crossing_;
  bool crowded_ = false;
  Rooms rooms_;
};

}  // namespace

std::unique_ptr<Backend> make_backend(Bootstrap& bootstrap, const Grid& grid,
                                      const CommunicatorOptions& options) {
  if (options.backend == BackendKind::cuda) {
    // Windows reach as far as NVLink does, over several hosts where it joins these.
    if (options.cuda.nccl_windows || bootstrap.own_host() == nullptr)
      return cuda::make_backend(bootstrap, grid, options);
  } else if (bootstrap.transport() == nullptr) {
    return cpu::make_backend(bootstrap, grid, options);
  }
  return std::make_unique<HostsBackend>(bootstrap, grid, options);
}

}  // namespace mixcomm::hosts
