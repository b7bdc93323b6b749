#include "hosts/hosts_backend.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <new>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "all_or_none.hpp"
#include "bootstrap/deadline.hpp"
#include "cpu/cpu_backend.hpp"
#include "cpu/kernels.hpp"
#include "hosts/crossing.hpp"
#include "hosts/host_map.hpp"
#include "hosts/shares.hpp"
#include "hosts/subtrees.hpp"
#include "mixcomm/epilogue.hpp"
#include "mixcomm/error.hpp"
#include "mixcomm/plan.hpp"

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

CommunicatorOptions of_one_host(const CommunicatorOptions& options, int dp) {
  CommunicatorOptions own = options;
  own.dp = dp;
  own.timeout -= 2 * head_start(options.timeout);
  own.tuning = std::nullopt;
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
        state_(std::launder(reinterpret_cast<HostState*>(state_memory_.get()))),
        crossing_(setup()) {
    const HostPart& part = here();
    in_numbers_of_all([&] {
      team_ =
          cpu::make_backend(own_, Grid::of(options.tp, part.dp, own_.rank()), of_one_host(options, part.dp));
    });
    for (const std::string& each :
         bootstrap.exchange("comparing how crowded hosts are", team_->crowded() ? "crowded" : ""))
      crowded_ = crowded_ || !each.empty();
  }

  SymmetricMemory allocate(std::size_t bytes) override {
    SymmetricMemory memory;
    all_or_none(bootstrap_, "allocating on all hosts", [&] {
      memory = team_->allocate(bytes);
      return std::string();
    });
    return memory;
  }
  [[nodiscard]] Placement place(const void* data, std::size_t bytes) const override {
    return team_->place(data, bytes);
  }
  [[nodiscard]] std::string machine() const override { return team_->machine(); }
  [[nodiscard]] bool crowded() const override { return crowded_; }
  [[nodiscard]] BackendKind kind() const override { return BackendKind::cpu; }
  [[nodiscard]] int threads() const override { return team_->threads(); }
  [[nodiscard]] bool reads_in_place(const Call& call) const override {
    return !crowded_ && team_->reads_in_place(call);
  }
  void copy(const RowCopy& copy, void* stream) override { team_->copy(copy, stream); }
  void clear(void* data, std::size_t bytes, void* stream) override { team_->clear(data, bytes, stream); }
  void apply(const Epilogue& epilogue, const ConstTensor& in, const Tensor& out, void* stream) override {
    team_->apply(epilogue, in, out, stream);
  }
  void run_nccl(const Call& /*call*/) override { throw no_nccl(); }
  void settle() override {}
  void pause() override { team_->pause(); }
  void resume() override {
    team_->resume();
    (void)bootstrap_.exchange("taking memory again on all hosts", "");
  }
  void check_alive() const override {
    state_->failure.rethrow();
    in_numbers_of_all([this] { team_->check_alive(); });
  }

  void run(Call& call) override {
    check_alive();
    if (call.team == TeamKind::tp) return on_this_host(call, 0);
    if (call.body == Body::scatter) return scatter(call);
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

  Crossing::Setup setup() {
    Transport& transport = *bootstrap_.transport();
    std::vector<RankSet> ranks;
    for (int h = 0; h < hosts_.count(); ++h) ranks.push_back(set_of(hosts_.ranks_on(h)));
    const int data_tag = transport.new_tag();
    return {.transport = &transport,
            .state = state_,
            .hosts = std::move(ranks),
            .host = host_,
            .timeout = options_.timeout - head_start(options_.timeout),
            .chunk_bytes = options_.workspace_bytes,
            .data_tag = data_tag,
            .notice_tag = transport.new_tag(),
            .spins = 0};
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
    if (!out.empty() || !in.empty()) cross(call.record, std::move(out), std::move(in));
    if (members(here()) == 1) return;
    for (int h = 0; h < hosts_.count(); ++h) {
      const Range& theirs = gathered.of_host[static_cast<std::size_t>(h)];
      if (h == host_ || theirs.size == 0) continue;
      const auto shares =
          shares_between(theirs.size, members(parts_[static_cast<std::size_t>(h)]), members(here()));
      const auto received = [&](int member) { return received_by(shares, member, theirs.size); };
      gather_flat(call, call.team, gathered.dtype, at(theirs.begin + received(own).begin), at(theirs.begin),
                  Blocks(members(here()), [&](int m) { return received(m).size; }), first_part + h);
    }
  }

  /// Each member of a team on this host hands out its block to all others.
  void gather_flat(const Call& call, TeamKind team, DType dtype, const void* in, void* out,
                   const Blocks& blocks, int part) {
    if (blocks.elements() == 0) return;
    Call gather{.body = Body::gather,
                .team = team,
                .algorithm = choose({.op = Op::all_gather,
                                     .tp = 1,
                                     .dp = blocks.dp(),
                                     .bytes = blocks.elements() * size_of(dtype),
                                     .crowded = crowded_,
                                     .backend = BackendKind::cpu}),
                .dtype = dtype,
                .in = in,
                .out = out,
                .in_placement = {},
                .out_placement = {},
                .reads_in_place = false,
                .blocks = blocks,
                .hidden = call.hidden,
                .stream = nullptr,
                .epilogue = {},
                .shape = {},
                .flat = true,
                .record = call.record};
    forget_buffers(gather);
    on_this_host(gather, part);
  }
  static void forget_buffers(Call& call) {
    call.record.epilogue = 0;
    call.record.algorithm = call.algorithm;
    call.record.all_blocks = {};
    call.record.one_block = {};
  }

  // Sums over hosts. Each host adds up, of what its ranks have, what is a subtree of the whole sum; that
  // crosses to the rank that finishes those elements.

  /// The part of a call's team that is on a host, member by member.
  struct TeamOn {
    const HostPart& part;
    int each;     ///< ranks of a DP rank in the team
    int members;  ///< of the team on this host
    int first;    ///< member 0's rank, of all
    int step;     ///< from one member's rank to the next one's
    [[nodiscard]] int rank(int member) const { return first + member * step; }
  };
  [[nodiscard]] TeamOn team_on(int host, const Call& call) const {
    const HostPart& part = parts_[static_cast<std::size_t>(host)];
    if (call.team == TeamKind::world) return {part, options_.tp, part.ranks, part.first_rank, 1};
    return {part, 1, part.dp, part.first_rank + grid_.tp.member, options_.tp};
  }
  /// What a member finishes, of all blocks: its share of its DP rank's block, whole rows with an epilogue.
  [[nodiscard]] static Range finished_by(const Call& call, const TeamOn& team, int member) {
    const int d = team.part.first_dp + member / team.each;
    const std::size_t step = call.epilogue.any() ? call.hidden : granule;
    const Range share = mixcomm::part(call.blocks.full_size(d), member % team.each, team.each, step);
    return {call.blocks.offset(d) + share.begin, share.size};
  }
  /// What a member of one host adds up of what its host has of the blocks of another one, or of its own.
  [[nodiscard]] Range summed_by(const Call& call, int host, int member, int for_host) const {
    const TeamOn team = team_on(host, call);
    if (host == for_host) return finished_by(call, team, member);
    const Range run = runs(call, 1, 1)[static_cast<std::size_t>(for_host)];
    const Range share = mixcomm::part(run.size, member, team.members);
    return {run.begin + share.begin, share.size};
  }
  [[nodiscard]] std::vector<Subtree> nodes_of(int host) const {
    const HostPart& part = parts_[static_cast<std::size_t>(host)];
    return subtrees_of(part.first_dp, part.dp, grid_.dp.size);
  }
  /// What holds what a node gives: a single source needs no fp32.
  [[nodiscard]] static DType dtype_of(const Call& call, const TeamOn& team, const Subtree& node) {
    return node.count * team.each == 1 ? call.dtype : DType::fp32;
  }
  [[nodiscard]] static Range overlap(const Range& a, const Range& b) {
    const std::size_t begin = std::max(a.begin, b.begin);
    const std::size_t end = std::min(a.begin + a.size, b.begin + b.size);
    return {begin, end > begin ? end - begin : 0};
  }

  void scatter(const Call& call) {
    next_room_ = 0;
    const int own = call.team == TeamKind::world ? own_.rank() : own_.rank() / options_.tp;
    const Range mine = finished_by(call, team_on(host_, call), own);
    std::vector<std::vector<const std::byte*>> have(static_cast<std::size_t>(hosts_.count()));
    for (int i = 1; i <= hosts_.count(); ++i) {  // this host's own rows last: nobody waits for those
      const int h = (host_ + i) % hosts_.count();
      have[static_cast<std::size_t>(h)] = add_up_here(call, own, h, i);
    }
    std::vector<Subtree> nodes;
    std::vector<const void*> partial;
    const std::vector<std::vector<const std::byte*>> come = exchange_nodes(call, own, mine, have);
    for (int h = 0; h < hosts_.count(); ++h) {
      const std::vector<Subtree> of_host = nodes_of(h);
      const TeamOn team = team_on(h, call);
      for (std::size_t k = 0; k < of_host.size(); ++k) {
        nodes.push_back(of_host[k]);
        const void* data = (h == host_ ? have : come)[static_cast<std::size_t>(h)][k];
        partial.push_back(in_fp32(data, dtype_of(call, team, of_host[k]), mine.size));
      }
    }
    finish(call, mine, own, nodes, partial);
  }

  /// For each node of this host what its ranks have of another host's blocks, or of its own: of those
  /// elements that this rank adds up.
  std::vector<const std::byte*> add_up_here(const Call& call, int own, int for_host, int number) {
    const TeamOn team = team_on(host_, call);
    const Range run = runs(call, 1, 1)[static_cast<std::size_t>(for_host)];
    const Range mine = summed_by(call, host_, own, for_host);
    const auto* in = static_cast<const std::byte*>(call.in);
    const std::size_t size = size_of(call.dtype);
    if (team.members == 1) return {in + mine.begin * size};
    std::vector<Subtotal> subtotals;
    std::vector<const std::byte*> sums;
    for (const Subtree& node : nodes_of(host_)) {
      const DType dtype = dtype_of(call, team, node);
      const int first = team.rank((node.first - team.part.first_dp) * team.each) - team.part.first_rank;
      std::byte* const room = take_room(mine.size * size_of(dtype));
      subtotals.push_back({{{first, 1, team.each, 0}, node.count, options_.tp}, dtype, room});
      sums.push_back(room);
    }
    if (run.size == 0) return sums;
    Call sum{.body = Body::scatter,
             .team = call.team,
             .algorithm = Algorithm::one_shot,
             .dtype = call.dtype,
             .in = in + run.begin * size,
             .out = nullptr,
             .in_placement = {},
             .out_placement = {},
             .reads_in_place = false,
             .blocks = Blocks(team.members, [&](int m) { return summed_by(call, host_, m, for_host).size; }),
             .hidden = call.hidden,
             .stream = nullptr,
             .epilogue = {},
             .shape = {},
             .flat = true,
             .subtotals = subtotals,
             .record = call.record};
    forget_buffers(sum);
    on_this_host(sum, number);
    return sums;
  }

  /// Sends each host what this rank has added up of its blocks, and takes what others have of the elements
  /// that it finishes. Returns that by host and node. Aligned hosts have one node each; the nodes of others
  /// cross one after the other, since between two ranks messages come in one order.
  std::vector<std::vector<const std::byte*>> exchange_nodes(
      const Call& call, int own, const Range& mine, const std::vector<std::vector<const std::byte*>>& have) {
    std::vector<std::vector<const std::byte*>> come(static_cast<std::size_t>(hosts_.count()));
    const std::vector<Subtree> own_nodes = nodes_of(host_);
    for (std::size_t k = 0, most = 1; k < most; ++k) {
      std::vector<Stream> out;
      std::vector<Stream> in;
      for (int h = 0; h < hosts_.count(); ++h) {
        const std::vector<Subtree> nodes = nodes_of(h);
        most = std::max(most, nodes.size());
        if (h == host_) continue;
        const TeamOn there = team_on(h, call);
        if (k < own_nodes.size()) {
          const std::size_t size = size_of(dtype_of(call, team_on(host_, call), own_nodes[k]));
          const Range sent = summed_by(call, host_, own, h);
          // Streams serve both directions.
          auto* const data = const_cast<std::byte*>(have[static_cast<std::size_t>(h)][k]);
          for (int m = 0; m < there.members; ++m)
            if (const Range both = overlap(sent, finished_by(call, there, m)); both.size > 0)
              out.push_back({there.rank(m), data + (both.begin - sent.begin) * size, both.size * size});
        }
        if (k < nodes.size()) {
          const std::size_t size = size_of(dtype_of(call, there, nodes[k]));
          std::byte* const room = take_room(mine.size * size);
          come[static_cast<std::size_t>(h)].push_back(room);
          for (int m = 0; m < there.members; ++m)
            if (const Range both = overlap(summed_by(call, h, m, host_), mine); both.size > 0)
              in.push_back({there.rank(m), room + (both.begin - mine.begin) * size, both.size * size});
        }
      }
      if (!out.empty() || !in.empty()) cross(call.record, std::move(out), std::move(in));
    }
    return come;
  }

  const void* in_fp32(const void* data, DType dtype, std::size_t size) {
    if (dtype == DType::fp32) return data;
    void* const wide = take_room(size * sizeof(float));
    cpu::ordered_sum(
        {.dtype = dtype, .sources = &data, .destinations = &wide, .size = size, .out = DType::fp32});
    return wide;
  }

  /// The sum of all nodes, rounded, with the epilogue, to this rank's output; then what the other ranks of
  /// its DP rank have finished.
  void finish(const Call& call, const Range& mine, int own, const std::vector<Subtree>& nodes,
              std::vector<const void*> partial) {
    const TeamOn team = team_on(host_, call);
    const int d = grid_.dp.member;
    const std::size_t begin = mine.begin - call.blocks.offset(d);
    const Epilogue& epilogue = call.epilogue;
    const DType out_dtype = epilogue.quantizes() ? DType::fp8_e4m3 : call.dtype;
    auto* const out = static_cast<std::byte*>(call.out);
    auto* const kept = static_cast<std::byte*>(epilogue.residual_out.data);
    const std::size_t scales = scales_per_row(epilogue.quantize, call.hidden);
    if (mine.size > 0) {
      const auto sum_of = [&](const std::vector<std::size_t>& some, std::vector<const void*>& sources) {
        sources.clear();
        for (const std::size_t i : some) sources.push_back(partial[i]);
        return cpu::OrderedSum{.dtype = DType::fp32,
                               .sources = sources.data(),
                               .inner = 1,
                               .outer = static_cast<int>(some.size()),
                               .size = mine.size};
      };
      std::vector<const void*> sources;
      const std::vector<std::size_t> last = neighbours_of(nodes, [&](const std::vector<std::size_t>& some) {
        cpu::OrderedSum sum = sum_of(some, sources);
        void* const destination = take_room(mine.size * sizeof(float));
        sum.destinations = &destination;
        cpu::ordered_sum(sum);
        partial[some[0]] = destination;
      });
      cpu::OrderedSum sum = sum_of(last, sources);
      sum.out = call.dtype;
      void* destination = out + begin * size_of(out_dtype);
      sum.destinations = &destination;
      if (!epilogue.any())
        cpu::ordered_sum(sum);
      else
        finish_rows(call, sum, begin);
    }
    if (team.each == 1) return;
    const auto hand_out = [&](std::byte* data, DType dtype, std::size_t numerator, std::size_t denominator,
                              int number) {
      const auto elements = [&](std::size_t n) { return n / denominator * numerator; };
      const int first = own / team.each * team.each;
      gather_flat(call, TeamKind::tp, dtype, data + elements(begin) * size_of(dtype), data,
                  Blocks(team.each, [&](int t) { return elements(finished_by(call, team, first + t).size); }),
                  number);
    };
    const int number = hosts_.count() + 1;
    hand_out(out, out_dtype, 1, 1, number);
    if (epilogue.keeps()) hand_out(kept, call.dtype, 1, 1, number + 1);
    if (scales > 0)
      hand_out(reinterpret_cast<std::byte*>(epilogue.scales), DType::fp32, scales, call.hidden, number + 2);
  }

  /// `sum`: of whole rows, from element `begin` of my block on.
  static void finish_rows(const Call& call, const cpu::OrderedSum& sum, std::size_t begin) {
    const Epilogue& epilogue = call.epilogue;
    const std::size_t scales = scales_per_row(epilogue.quantize, call.hidden);
    const std::size_t out_size = epilogue.quantizes() ? 1 : size_of(call.dtype);
    std::vector<const void*> sources(static_cast<std::size_t>(sum.outer));
    for (std::size_t i = 0; i < sum.size; i += call.hidden) {
      const std::size_t element = begin + i;
      for (std::size_t s = 0; s < sources.size(); ++s)
        sources[s] = static_cast<const float*>(sum.sources[s]) + i;
      void* out = static_cast<std::byte*>(call.out) + element * out_size;
      void* kept = static_cast<std::byte*>(epilogue.residual_out.data) + element * size_of(call.dtype);
      float* scale = epilogue.scales + element / call.hidden * scales;
      cpu::OrderedSum row = sum;
      row.sources = sources.data();
      row.destinations = &out;
      row.size = call.hidden;
      cpu::RowEpilogue finished = cpu::row_epilogue(epilogue, row, call.hidden);
      if (epilogue.adds())
        finished.residual =
            static_cast<const std::byte*>(epilogue.residual.data) + element * size_of(call.dtype);
      if (epilogue.keeps()) finished.kept = {&kept, 1};
      if (scales > 0) finished.scales = {&scale, 1};
      cpu::finish_row(finished);
    }
  }

  /// Memory of this call, which the next one takes again.
  std::byte* take_room(std::size_t bytes) {
    if (next_room_ == rooms_.size()) rooms_.emplace_back();
    Room& room = rooms_[next_room_++];
    if (room.bytes < bytes) room = {std::make_unique_for_overwrite<std::byte[]>(bytes), bytes};
    return room.memory.get();
  }

  void cross(const CallRecord& record, std::vector<Stream> out, std::vector<Stream> in) {
    Finding finding;
    try {
      finding = crossing_.run(record, std::move(out), std::move(in));
    } catch (const SystemError& error) {
      finding = {cpu::Failure::Kind::timeout, error.what(), 0};
    }
    if (!finding.text.empty()) fail(finding);
  }

  /// One part of a call, by a number that all ranks of this host give it.
  void on_this_host(Call call, int part) {
    call.record.part_bits = part_bits;
    call.record.number = (call.record.number << part_bits) + static_cast<std::uint64_t>(part);
    try {
      team_->run(call);
    } catch (const PeerGone& error) {
      fail({cpu::Failure::Kind::gone, error.what() + numbers(), of_all(error.missing())});
    } catch (const Timeout& error) {
      // Who waits for another host says itself who is missing there.
      if (waits_for_hosts(error.missing())) wait_for_finding();
      fail({cpu::Failure::Kind::timeout, error.what() + numbers(), of_all(error.missing())});
    } catch (const Disagreement& error) {
      fail({cpu::Failure::Kind::disagreement, error.what() + numbers(), 0});
    }
  }

  /// Whoever of this host comes first says what is wrong; all ranks here throw it, and tell the other hosts.
  [[noreturn]] void fail(const Finding& finding) {
    const bool first = state_->failure.state.load() == 0;
    state_->failure.record(finding.kind, finding.text, finding.missing);
    team_->fail("another rank of this host has failed");
    if (first) crossing_.tell(finding);
    state_->failure.rethrow();
    throw Timeout(finding.text, ranks_in(finding.missing));
  }

  [[nodiscard]] bool waits_for_hosts(const std::vector<int>& local) const {
    return std::ranges::any_of(local, [this](int r) {
      return state_->waits_for_hosts[static_cast<std::size_t>(here().first_rank + r)].load() != 0;
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
  Crossing crossing_;
  std::unique_ptr<Backend> team_;  ///< this host's part of the grid
  bool crowded_ = false;
  struct Room {
    std::unique_ptr<std::byte[]> memory;
    std::size_t bytes = 0;
  };
  std::vector<Room> rooms_;
  std::size_t next_room_ = 0;
};

}  // namespace

std::unique_ptr<Backend> make_backend(Bootstrap& bootstrap, const Grid& grid,
                                      const CommunicatorOptions& options) {
  if (bootstrap.own_host() == nullptr) return cpu::make_backend(bootstrap, grid, options);
  return std::make_unique<HostsBackend>(bootstrap, grid, options);
}

}  // namespace mixcomm::hosts
