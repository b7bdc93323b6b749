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

/// A call has one part, and two for each host at most.
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
    if (call.body == Body::scatter)
      throw Unsupported(
          fmt::format("{}: DP ranks are on {} hosts ({}), and sums over DP are made on one host so far; "
                      "all_reduce, all_gather and "
                      "all_reduce_all_gather go across hosts",
                      name(call.record.op), hosts_.count(), fmt::join(hosts_.names, "; ")));
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
    const bool world = call.team == TeamKind::world;
    const int tp = options_.tp;
    const auto members = [&](const HostPart& part) { return world ? part.ranks : part.dp; };
    const auto rank_of = [&](const HostPart& part, int member) {
      return part.first_rank + (world ? member : member * tp + grid_.tp.member);
    };
    const int own = world ? own_.rank() : own_.rank() / tp;
    const std::size_t size = size_of(gathered.dtype);
    const auto at = [&](std::size_t element) { return gathered.data + element * size; };
    std::vector<Stream> out;
    std::vector<Stream> in;
    for (int h = 0; h < hosts_.count(); ++h) {
      if (h == host_) continue;
      const HostPart& there = parts_[static_cast<std::size_t>(h)];
      const Range& mine = gathered.of_host[static_cast<std::size_t>(host_)];
      const Range& theirs = gathered.of_host[static_cast<std::size_t>(h)];
      for (const Share& each : shares_between(mine.size, members(here()), members(there)))
        if (each.from == own)
          out.push_back(
              {rank_of(there, each.to), at(mine.begin + each.elements.begin), each.elements.size * size});
      for (const Share& each : shares_between(theirs.size, members(there), members(here())))
        if (each.to == own)
          in.push_back(
              {rank_of(there, each.from), at(theirs.begin + each.elements.begin), each.elements.size * size});
    }
    if (!out.empty() || !in.empty()) cross(call, std::move(out), std::move(in));
    if (members(here()) == 1) return;
    for (int h = 0; h < hosts_.count(); ++h) {
      const Range& theirs = gathered.of_host[static_cast<std::size_t>(h)];
      if (h == host_ || theirs.size == 0) continue;
      const auto shares =
          shares_between(theirs.size, members(parts_[static_cast<std::size_t>(h)]), members(here()));
      const auto received = [&](int member) { return received_by(shares, member, theirs.size); };
      Call gather{.body = Body::gather,
                  .team = call.team,
                  .by_rank = world,
                  .algorithm = Algorithm::two_shot,
                  .dtype = gathered.dtype,
                  .in = at(theirs.begin + received(own).begin),
                  .out = at(theirs.begin),
                  .in_placement = {},
                  .out_placement = {},
                  .reads_in_place = false,
                  .blocks = Blocks(members(here()), [&](int m) { return received(m).size; }),
                  .hidden = call.hidden,
                  .stream = call.stream,
                  .epilogue = {},
                  .shape = {},
                  .record = call.record};
      const Circumstances circumstances{.op = Op::all_gather,
                                        .tp = 1,
                                        .dp = members(here()),
                                        .bytes = theirs.size * size,
                                        .crowded = crowded_,
                                        .backend = kind(),
                                        .link = options_.cuda.lines ? link() : Link::pcie};
      gather.set_algorithm(choose(circumstances), *own_part_);
      gather.shape = choose_shape(circumstances, gather.algorithm).with({.protocol = options_.cuda.protocol});
      gather.record.epilogue = 0;
      on_this_host(gather, first_part + h);
    }
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
