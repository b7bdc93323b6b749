// Ranks on several hosts, which threads of this process play: who meets, what goes across, and who is named
// when a host, or a rank of one, is not to be reached. scripts/check-hosts does the same with real networks
// and MPIs.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <chrono>
#include <functional>
#include <random>
#include <thread>

#include "hosts/host_map.hpp"
#include "hosts/shares.hpp"
#include "hosts/subtrees.hpp"
#include "hosts/transport_bootstrap.hpp"
#include "mixcomm/mixcomm.hpp"
#include "support/error_of.hpp"
#include "support/spawn.hpp"
#include "support/thread_transport.hpp"
#include "verify/verify.hpp"

namespace mixcomm::test {
namespace {

using std::chrono::milliseconds;

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// How many ranks each host has.
using Sizes = std::vector<int>;

int ranks_of(const Sizes& sizes) {
  int all = 0;
  for (const int each : sizes) all += each;
  return all;
}
int host_of(const Sizes& sizes, int rank) {
  int host = 0;
  for (int end = sizes[0]; rank >= end; end += sizes[static_cast<std::size_t>(host)]) ++host;
  return host;
}
RankSet ranks_on(const Sizes& sizes, int host) {
  RankSet set = 0;
  for (int r = 0; r < ranks_of(sizes); ++r)
    if (host_of(sizes, r) == host) set |= just(r);
  return set;
}

using Body = std::function<std::string(Bootstrap&, Cables&)>;

/// By rank what `body` returned, "" for success; or its error.
std::vector<std::string> on_hosts(const Sizes& sizes, const Body& body,
                                  milliseconds timeout = default_timeout) {
  const auto cables = std::make_shared<Cables>(ranks_of(sizes));
  std::vector<std::string> results(static_cast<std::size_t>(cables->world));
  std::vector<std::thread> threads;
  for (int r = 0; r < cables->world; ++r)
    threads.emplace_back([&, r] {
      try {
        TransportBootstrap bootstrap(std::make_unique<ThreadTransport>(cables, r),
                                     fmt::format("host {}", host_of(sizes, r)), timeout);
        results[static_cast<std::size_t>(r)] = body(bootstrap, *cables);
      } catch (const std::exception& error) {
        results[static_cast<std::size_t>(r)] = fmt::format("exception: {}", error.what());
      }
    });
  for (std::thread& each : threads) each.join();
  return results;
}

std::string name_of(const Sizes& sizes) {
  return fmt::format("{}", fmt::join(sizes, "_"));
}

// --- meeting

TEST(HostsMeeting, EveryoneHearsOfEveryone) {
  const auto results = on_hosts({2, 1, 3}, [](Bootstrap& b, Cables&) -> std::string {
    for (int step = 0; step < 20; ++step) {
      const auto all = b.exchange("counting", fmt::format("{}:{}", b.rank(), step));
      for (int r = 0; r < b.world(); ++r)
        if (all[static_cast<std::size_t>(r)] != fmt::format("{}:{}", r, step)) return "wrong part";
    }
    const Hosts hosts = b.hosts();
    if (hosts.of != std::vector{0, 0, 1, 2, 2, 2}) return "wrong hosts";
    Bootstrap* own = b.own_host();
    if (own == nullptr ||
        own->world() != static_cast<int>(hosts.ranks_on(hosts.of[static_cast<std::size_t>(b.rank())]).size()))
      return "wrong own host";
    const auto mine = own->exchange("within the host", std::to_string(b.rank()));
    for (int m = 0; m < own->world(); ++m)
      if (mine[static_cast<std::size_t>(m)] != std::to_string(own->rank_in_whole(m))) return "wrong member";
    return "";
  });
  EXPECT_EQ(failures(results), "");
}

TEST(HostsMeeting, AHostsRanksShareMemory) {
  const auto results = on_hosts({2, 2}, [](Bootstrap& b, Cables&) -> std::string {
    const auto memory = b.own_host()->share_memory(4096);
    memory.get()[b.own_host()->rank()] = static_cast<std::byte>(b.rank() + 1);
    (void)b.exchange("writing", "");
    const int first = b.rank() / 2 * 2;
    if (memory.get()[0] != static_cast<std::byte>(first + 1)) return "not shared";
    if (memory.get()[1] != static_cast<std::byte>(first + 2)) return "not shared, or with another host";
    return "";
  });
  EXPECT_EQ(failures(results), "");
}

TEST(HostsMeeting, AllNameARankThatDoesNotCome) {
  const auto results = on_hosts(
      {2, 2},
      [](Bootstrap& b, Cables&) -> std::string {
        if (b.rank() == 2) return "";
        try {
          (void)b.exchange("waiting", "");
        } catch (const Timeout& error) {
          const std::string again = error_of<Timeout>([&] { (void)b.exchange("once more", ""); });
          if (again != error.what()) return "another error from the next step: " + again;
          return error.missing() == std::vector{2} && contains(error.what(), "while waiting") ? ""
                                                                                              : error.what();
        }
        return "no error";
      },
      milliseconds(400));
  EXPECT_EQ(failures(results), "");
}

TEST(HostsMeeting, AHostThatIsCutOffIsNamedRankByRank) {
  const Sizes sizes{2, 2, 1};
  const auto results = on_hosts(
      sizes,
      [&](Bootstrap& b, Cables& cables) -> std::string {
        (void)b.exchange("before", "");
        cables.cut(ranks_on(sizes, 1));
        try {
          (void)b.exchange("after", "");
        } catch (const Timeout& error) {
          const std::vector<int> expected =
              b.rank() == 2 || b.rank() == 3 ? std::vector{0, 1, 4} : std::vector{2, 3};
          return error.missing() == expected ? "" : error.what();
        }
        return "no error";
      },
      milliseconds(400));
  EXPECT_EQ(failures(results), "");
}

TEST(HostsMeeting, OtherStepsAreToldFromEachOther) {
  const auto results = on_hosts({1, 2}, [](Bootstrap& b, Cables&) -> std::string {
    const auto text = error_of<Disagreement>([&] { (void)b.exchange(b.rank() == 1 ? "this" : "that", ""); });
    return contains(text, "same order") ? "" : "no error";
  });
  EXPECT_EQ(failures(results), "");
}

// --- who sends what to whom

TEST(Shares, CoverEverythingOnceAndKeepEveryoneBusy) {
  for (int senders = 1; senders <= 9; ++senders)
    for (int receivers = 1; receivers <= 9; ++receivers)
      for (const std::size_t size : {0UL, 1UL, 63UL, 64UL, 65UL, 1000UL, 64UL * 72, 100'003UL}) {
        const auto shares = shares_between(size, senders, receivers);
        std::size_t next = 0;
        std::vector<std::pair<int, int>> pairs;
        for (const Share& each : shares) {
          EXPECT_EQ(each.elements.begin, next);
          next += each.elements.size;
          EXPECT_TRUE(each.from >= 0 && each.from < senders && each.to >= 0 && each.to < receivers);
          pairs.emplace_back(each.from, each.to);
        }
        EXPECT_EQ(next, size);
        EXPECT_EQ(std::ranges::adjacent_find(pairs), pairs.end());
        std::size_t begin = 0;
        for (int m = 0; m < receivers; ++m) {  // what the members of a host gather is in their order
          const Range range = received_by(shares, m, size);
          EXPECT_TRUE(range.size == 0 || range.begin == begin)
              << senders << " to " << receivers << ", " << size;
          begin += range.size;
        }
        EXPECT_EQ(begin, size);
      }
}

/// The tree of neighbours over DP ranks [first, first + count), written out.
std::string written(int first, int count) {
  if (count == 1) return std::to_string(first);
  const auto half = static_cast<int>(std::bit_floor(static_cast<unsigned>(count - 1)));
  return fmt::format("({}+{})", written(first, half), written(first + half, count - half));
}
std::string written(const std::vector<std::string>& terms) {
  if (terms.size() == 1) return terms[0];
  const auto half = static_cast<std::ptrdiff_t>(std::bit_floor(terms.size() - 1));
  return fmt::format("({}+{})", written({terms.begin(), terms.begin() + half}),
                     written({terms.begin() + half, terms.end()}));
}

TEST(Subtrees, OfAllHostsAreTheWholeTree) {
  for (int all = 1; all <= 12; ++all)
    for (unsigned cuts = 0; cuts < 1U << (all - 1); ++cuts) {  // where a host ends
      std::vector<Subtree> nodes;
      for (int first = 0, d = 0; d < all; ++d)
        if (d == all - 1 || (cuts >> d & 1U) != 0) {
          for (const Subtree& each : subtrees_of(first, d + 1 - first, all)) nodes.push_back(each);
          first = d + 1;
        }
      std::vector<std::string> sums;
      sums.reserve(nodes.size());
      for (const Subtree& each : nodes) sums.push_back(written(each.first, each.count));
      const auto terms = [&](const std::vector<std::size_t>& some) {
        std::vector<std::string> of;
        of.reserve(some.size());
        for (const std::size_t i : some) of.push_back(sums[i]);
        return written(of);
      };
      const auto last =
          neighbours_of(nodes, [&](const std::vector<std::size_t>& some) { sums[some[0]] = terms(some); });
      ASSERT_EQ(terms(last), written(0, all)) << "cuts " << cuts;
    }
}

TEST(Subtrees, OfAlignedHostsAreOneEach) {
  using Nodes = std::vector<Subtree>;
  EXPECT_EQ(subtrees_of(4, 4, 8), (Nodes{{4, 4}}));
  EXPECT_EQ(subtrees_of(4, 3, 7), (Nodes{{4, 3}}));
  EXPECT_EQ(subtrees_of(0, 3, 6), (Nodes{{0, 2}, {2, 1}}));
  EXPECT_EQ(subtrees_of(3, 3, 6), (Nodes{{3, 1}, {4, 2}}));
  EXPECT_EQ(subtrees_of(0, 6, 12), (Nodes{{0, 4}, {4, 2}}));
  EXPECT_EQ(subtrees_of(6, 6, 12), (Nodes{{6, 2}, {8, 4}}));
}

TEST(HostMap, RefusesWhatLiesAcross) {
  const auto hosts = [](const std::vector<std::string>& of) { return Hosts::from_identities(of); };
  const auto parts = parts_of(hosts({"a", "a", "b", "b", "b", "b"}), 2);
  EXPECT_EQ(parts.size(), 2U);
  EXPECT_EQ(parts[1].first_rank, 2);
  EXPECT_EQ(parts[1].first_dp, 1);
  EXPECT_EQ(parts[1].dp, 2);
  EXPECT_TRUE(contains(error_of<Unsupported>([&] {
                         (void)parts_of(hosts({"a", "b", "a", "b"}), 1);
                       }),
                       "host by host"));
  EXPECT_TRUE(contains(error_of<Unsupported>([&] {
                         (void)parts_of(hosts({"a", "a", "b", "b"}), 4);
                       }),
                       "tp 4 does not divide the ranks of each host, which are 2, 2"));
  EXPECT_TRUE(contains(error_of<Unsupported>([&] {
                         (void)parts_of(hosts({"a", "a", "a", "b"}), 2);
                       }),
                       "3, 1"));
}

TEST(HostMap, CounterpartsAreThoseAtOnePlaceOfHostsOfOneSize) {
  const std::vector<HostPart> parts{{0, 4, 0, 2}, {4, 4, 2, 2}, {8, 4, 4, 2}};
  const auto of = counterparts(parts, 2);
  EXPECT_EQ(ranks_in(of[0]), (std::vector{4, 8}));
  EXPECT_EQ(ranks_in(of[7]), (std::vector{3, 11}));
  const auto round = circles(of);
  EXPECT_EQ(ranks_in(round[9]), (std::vector{1, 5, 9}));
}

TEST(HostMap, CounterpartsOfOtherSizesAreAllThatShareOnTheWorldOrADpTeam) {
  const std::vector<HostPart> parts{{0, 4, 0, 4}, {4, 2, 4, 2}, {6, 1, 6, 1}};
  const auto of = counterparts(parts, 1);
  EXPECT_EQ(ranks_in(of[0]), (std::vector{4, 6}));
  EXPECT_EQ(ranks_in(of[3]), (std::vector{5, 6}));
  EXPECT_EQ(ranks_in(of[6]), (std::vector{0, 1, 2, 3, 4, 5}));
  for (std::size_t r = 0; r < of.size(); ++r) {
    EXPECT_FALSE(holds(of[r], static_cast<int>(r)));
    for (const int each : ranks_in(of[r]))
      EXPECT_TRUE(holds(of[static_cast<std::size_t>(each)], static_cast<int>(r)));
    EXPECT_EQ(circles(of)[r], first_ranks(7));
  }
}

// --- operations

struct Layout {
  Sizes sizes;
  int tp;
};
std::ostream& operator<<(std::ostream& out, const Layout& layout) {
  return out << "hosts_" << name_of(layout.sizes) << "_tp_" << layout.tp;
}

class OnHosts : public testing::TestWithParam<Layout> {};

TEST_P(OnHosts, EveryCaseIsExact) {
  const auto& [sizes, tp] = GetParam();
  const int dp = ranks_of(sizes) / tp;
  const verify::Matrix matrix{.tp = tp, .dp = dp, .algorithms = {}, .dtypes = {}, .large = true};
  const auto cases = verify::cases_of(matrix);
  ASSERT_GT(cases.size(), 300U);
  const int t = tp;
  const auto results = on_hosts(sizes, [&](Bootstrap& bootstrap, Cables&) {
    Communicator communicator(bootstrap, {.tp = t, .dp = dp, .workspace_bytes = verify::workspace_bytes});
    verify::Verifier verifier(communicator, verify::most_elements(cases, dp));
    return verifier.run(cases);
  });
  EXPECT_EQ(failures(results), "");
}

TEST_P(OnHosts, EpiloguesAreExact) {
  const auto& [sizes, tp] = GetParam();
  const int dp = ranks_of(sizes) / tp;
  std::vector<verify::Case> cases;
  constexpr std::array ops{Op::all_reduce_all_gather, Op::reduce_scatter_all_reduce, Op::all_reduce,
                           Op::reduce_scatter};
  for (std::uint64_t i = 0; i < 120; ++i) {
    verify::Case each{.op = ops[i % ops.size()],
                      .dtype = static_cast<DType>(i % 3),
                      .values = verify::Values::floats,
                      .hidden = 136,
                      .seed = i + 1,
                      .steps = verify::some_steps(i, verify::Buffers::plain)};
    for (int d = 0; d < dp; ++d) each.rows.push_back((i + static_cast<std::uint64_t>(d)) % 4);
    cases.push_back(each);
  }
  const int t = tp;
  const auto results = on_hosts(sizes, [&](Bootstrap& bootstrap, Cables&) {
    Communicator communicator(bootstrap, {.tp = t, .dp = dp, .workspace_bytes = verify::workspace_bytes});
    verify::Verifier verifier(communicator, verify::most_elements(cases, dp));
    return verifier.run(cases);
  });
  EXPECT_EQ(failures(results), "");
}

INSTANTIATE_TEST_SUITE_P(Layouts, OnHosts,
                         testing::Values(Layout{{1, 1}, 1}, Layout{{2, 2}, 2}, Layout{{2, 2}, 1},
                                         Layout{{4, 2}, 2}, Layout{{1, 3, 2}, 1}, Layout{{2, 2, 2}, 2},
                                         Layout{{3, 3}, 1}, Layout{{6, 2}, 2}, Layout{{3, 3}, 3}),
                         testing::PrintToStringParamName());

/// The bits of every rank's rows, of ranks on hosts of those sizes.
std::vector<std::string> sums_on(const Sizes& sizes, int tp) {
  return on_hosts(sizes, [&](Bootstrap& b, Cables&) -> std::string {
    const int dp = b.world() / tp;
    constexpr std::size_t width = 200;
    Communicator communicator(b, {.tp = tp, .dp = dp});
    std::vector<std::size_t> rows(static_cast<std::size_t>(dp));
    for (std::size_t d = 0; d < rows.size(); ++d) rows[d] = d % 3;
    std::size_t all = 0;
    for (const std::size_t each : rows) all += each;
    std::mt19937_64 random(static_cast<std::uint64_t>(b.rank()));
    std::normal_distribution<float> normal;
    std::vector<float> in(all * width);
    for (float& x : in) x = normal(random);
    const std::size_t own = rows[static_cast<std::size_t>(communicator.grid().dp.member)];
    std::vector<float> out(own * width);
    std::string bits;
    for (const Op op : {Op::reduce_scatter, Op::reduce_scatter_all_reduce}) {
      communicator.run(op, tensor(in.data(), all, width), tensor(out.data(), own, width), rows);
      for (const float x : out) bits += fmt::format("{:08x}", std::bit_cast<std::uint32_t>(x));
    }
    return bits;
  });
}

TEST(HostsOperations, SumsHaveTheBitsOfOneHost) {
  for (const int tp : {1, 2}) {
    const auto expected = sums_on({8}, tp);
    for (const Sizes& sizes : {Sizes{4, 4}, Sizes{2, 2, 2, 2}, Sizes{6, 2}, Sizes{2, 6}, Sizes{2, 4, 2}})
      EXPECT_EQ(sums_on(sizes, tp), expected) << name_of(sizes) << ", tp " << tp;
  }
  EXPECT_EQ(sums_on({3, 1, 3}, 1), sums_on({7}, 1));
}

TEST(HostsOperations, EachByteLeavesAHostOnce) {
  const Sizes sizes{2, 2};
  const auto results = on_hosts(sizes, [&](Bootstrap& b, Cables& cables) -> std::string {
    Communicator communicator(b, {.tp = 2, .dp = 2});
    constexpr std::size_t rows = 16;
    constexpr std::size_t hidden = 4096;
    const std::vector<float> in(rows * hidden, 1.0F);
    std::vector<float> out(2 * rows * hidden);
    (void)b.exchange("ready", "");
    if (b.rank() == 0) {
      const std::lock_guard lock(cables.mutex);
      cables.counted = ranks_on(sizes, 0);
      cables.sent = 0;
    }
    (void)b.own_host()->exchange("counting", "");  // within the hosts, so not counted
    (void)b.exchange("begin", "");
    std::size_t before = 0;
    {
      const std::lock_guard lock(cables.mutex);
      before = cables.sent;
    }
    (void)b.exchange("noted", "");
    communicator.all_reduce_all_gather(tensor(in.data(), rows, hidden), tensor(out.data(), 2 * rows, hidden),
                                       rows);
    (void)b.own_host()->exchange("through", "");
    if (out.front() != 2.0F || out.back() != 2.0F) return "wrong sums";
    const std::lock_guard lock(cables.mutex);
    // Both ways; headers, and the exchanges between `before` and now, are small.
    const double crossed = static_cast<double>(cables.sent - before);
    const double least = 2.0 * rows * hidden * sizeof(float);
    return b.rank() != 0 || crossed < 1.05 * least ? ""
                                                   : fmt::format("{} bytes crossed, not {}", crossed, least);
  });
  EXPECT_EQ(failures(results), "");
}

/// Of each block a host sends one sum in fp32, to the host whose block it is; of a single rank what that has.
TEST(HostsOperations, EachSumLeavesAHostOnce) {
  struct Sent {
    Sizes sizes;
    int tp;
    std::size_t bytes;  ///< of each element
  };
  for (const Sent& sent : {Sent{{2, 2}, 2, 4}, Sent{{4, 4}, 2, 4}, Sent{{1, 1}, 1, 2}, Sent{{3, 3}, 1, 6}}) {
    const auto results = on_hosts(sent.sizes, [&](Bootstrap& b, Cables& cables) -> std::string {
      const int dp = b.world() / sent.tp;
      const auto blocks = static_cast<std::size_t>(dp);
      Communicator communicator(b, {.tp = sent.tp, .dp = dp});
      constexpr std::size_t rows = 32;
      constexpr std::size_t width = 4096;
      const std::vector<std::uint16_t> in(blocks * rows * width, 0x3F80);
      std::vector<std::uint16_t> out(rows * width);
      (void)b.exchange("ready", "");
      if (b.rank() == 0) {
        const std::lock_guard lock(cables.mutex);
        cables.counted = ranks_on(sent.sizes, 0);
        cables.sent = 0;
      }
      (void)b.own_host()->exchange("counting", "");  // within the hosts, so not counted
      (void)b.exchange("begin", "");
      communicator.reduce_scatter_all_reduce({in.data(), blocks * rows, width, DType::bf16},
                                             {out.data(), rows, width, DType::bf16}, rows);
      (void)b.exchange("through", "");
      const std::lock_guard lock(cables.mutex);
      // Both ways: each host has half of the blocks.
      const double least = static_cast<double>(blocks * rows * width * sent.bytes);
      const auto crossed = static_cast<double>(cables.sent);
      return b.rank() != 0 || (crossed >= least && crossed < 1.05 * least)
                 ? ""
                 : fmt::format("{} bytes crossed, not {}", crossed, least);
    });
    EXPECT_EQ(failures(results), "") << name_of(sent.sizes);
  }
}

// --- failures

constexpr std::size_t hidden = 256;

std::string gather_rows(Communicator& communicator, std::size_t rows) {
  const auto dp = static_cast<std::size_t>(communicator.grid().dp.size);
  const std::vector<float> in(rows * hidden, 1.0F);
  std::vector<float> out(dp * rows * hidden);
  communicator.all_reduce_all_gather(tensor(in.data(), rows, hidden), tensor(out.data(), dp * rows, hidden),
                                     rows);
  return out.back() == static_cast<float>(communicator.grid().tp.size) ? "" : "wrong sum";
}

std::string scatter_rows(Communicator& communicator, std::size_t rows) {
  const auto dp = static_cast<std::size_t>(communicator.grid().dp.size);
  const std::vector<float> in(dp * rows * hidden, 1.0F);
  std::vector<float> out(rows * hidden);
  communicator.reduce_scatter_all_reduce(tensor(in.data(), dp * rows, hidden),
                                         tensor(out.data(), rows, hidden), rows);
  return out.back() == static_cast<float>(communicator.grid().world.size) ? "" : "wrong sum";
}

/// "" if the call throws a Timeout that names those ranks, within twice the deadline.
std::string names(const std::vector<int>& expected, milliseconds timeout, const std::function<void()>& call) {
  const auto begin = std::chrono::steady_clock::now();
  try {
    call();
  } catch (const Timeout& error) {
    const auto took = std::chrono::steady_clock::now() - begin;
    if (took > 2 * timeout)
      return fmt::format("took {} ms", std::chrono::duration_cast<milliseconds>(took).count());
    return error.missing() == expected
               ? ""
               : fmt::format("named {}: {}", fmt::join(error.missing(), ", "), error.what());
  }
  return "no error";
}

class HostsFailuresOf : public testing::TestWithParam<std::string (*)(Communicator&, std::size_t)> {};
INSTANTIATE_TEST_SUITE_P(Operations, HostsFailuresOf, testing::Values(gather_rows, scatter_rows),
                         [](const auto& each) { return each.index == 0 ? "gather" : "scatter"; });

TEST_P(HostsFailuresOf, AHostThatIsCutOffIsNamedByAllOthers) {
  const Sizes sizes{2, 2, 2};
  constexpr milliseconds timeout(2000);
  const auto run_rows = GetParam();
  const auto results = on_hosts(sizes, [&](Bootstrap& b, Cables& cables) -> std::string {
    Communicator communicator(b, {.tp = 2, .dp = 3, .timeout = timeout});
    if (auto wrong = run_rows(communicator, 3); !wrong.empty()) return wrong;
    (void)b.exchange("before", "");
    cables.cut(ranks_on(sizes, 1));
    const bool apart = b.rank() == 2 || b.rank() == 3;
    const std::vector<int> expected = apart ? std::vector{0, 1, 4, 5} : std::vector{2, 3};
    if (auto wrong = names(expected, timeout, [&] { (void)run_rows(communicator, 3); }); !wrong.empty())
      return wrong;
    return names(expected, timeout,
                 [&] { (void)run_rows(communicator, 3); });  // and at once from later calls
  });
  EXPECT_EQ(failures(results), "");
}

/// A host that is still in an earlier call, since it waits for the one that is cut off, is not to blame.
TEST(HostsFailures, WhoWaitsForALostHostIsNotNamed) {
  const Sizes sizes{1, 2, 2};
  constexpr milliseconds timeout(2000);
  const auto results = on_hosts(sizes, [&](Bootstrap& b, Cables& cables) -> std::string {
    Communicator communicator(b, {.tp = 1, .dp = 5, .timeout = timeout});
    if (auto wrong = gather_rows(communicator, 3); !wrong.empty()) return wrong;
    (void)b.exchange("before", "");
    // The last that host 1 sends reaches host 0 alone, which so comes to the next call; host 2 does not.
    cables.mute(ranks_on(sizes, 1), ranks_on(sizes, 2));
    if (host_of(sizes, b.rank()) < 2)
      if (auto wrong = gather_rows(communicator, 3); !wrong.empty()) return wrong;
    if (host_of(sizes, b.rank()) == 1) return "";
    return names({1, 2}, timeout, [&] { (void)gather_rows(communicator, 3); });
  });
  EXPECT_EQ(failures(results), "");
}

TEST_P(HostsFailuresOf, ARankThatDoesNotComeIsNamedOnAllHosts) {
  constexpr milliseconds timeout(2000);
  const auto run_rows = GetParam();
  for (const Sizes& sizes : {Sizes{2, 2}, Sizes{2, 1, 2}}) {
    const auto results = on_hosts(sizes, [&](Bootstrap& b, Cables&) -> std::string {
      Communicator communicator(b, {.tp = 1, .dp = ranks_of(sizes), .timeout = timeout});
      if (auto wrong = run_rows(communicator, 3); !wrong.empty()) return wrong;
      if (b.rank() == 1) return "";
      return names({1}, timeout, [&] { (void)run_rows(communicator, 3); });
    });
    EXPECT_EQ(failures(results), "") << name_of(sizes);
  }
}

TEST(HostsFailures, CallsThatDifferBetweenHostsAreTold) {
  const auto results = on_hosts({2, 2}, [](Bootstrap& b, Cables&) -> std::string {
    Communicator communicator(b, {.tp = 2, .dp = 2});
    const auto text = error_of<Disagreement>([&] { (void)gather_rows(communicator, b.rank() < 2 ? 3 : 4); });
    return contains(text, "rows [3") && contains(text, "rows [4") ? "" : text;
  });
  EXPECT_EQ(failures(results), "");
}

}  // namespace
}  // namespace mixcomm::test
