// What happens on a GPU when a rank is late, missing, or makes another call, with ranks as streams of one
// process: bounded waits, errors that name the rank, and a device that still works.
#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <thread>

#include "cuda/support.hpp"

namespace mixcomm::test {
namespace {

using std::chrono::milliseconds;

verify::Case case_of(Algorithm algorithm, verify::Buffers buffers, std::uint64_t seed,
                     std::vector<std::size_t> rows) {
  return {.op = Op::all_reduce_all_gather,
          .algorithm = algorithm,
          .dtype = DType::bf16,
          .buffers = buffers,
          .values = verify::Values::floats,
          .rows = std::move(rows),
          .hidden = 512,
          .seed = seed};
}

/// "" if this thread can still use the device.
std::string works(verify::Device& device) {
  const auto memory = device.allocate(1 << 16);
  const std::vector<std::byte> written(1 << 16, std::byte{0x5A});
  std::vector<std::byte> read(written.size());
  device.write(memory.get(), written.data(), written.size());
  device.read(read.data(), memory.get(), read.size());
  return read == written ? "" : "the device gives back other bytes than it was given";
}

/// A few calls on a communicator over all ranks of `bootstrap`, all checked.
std::string calls_work(Bootstrap& bootstrap) {
  Communicator communicator(bootstrap, cuda_options(bootstrap.world(), 1));
  verify::Verifier verifier(communicator, 1 << 12);
  const Departure departure(bootstrap);
  for (std::uint64_t i = 1; i < 20; ++i) {
    const Algorithm algorithm = i % 2 == 0 ? Algorithm::one_shot : Algorithm::two_shot;
    if (auto wrong = verifier.run(case_of(algorithm, verify::Buffers::symmetric, i, {2})); !wrong.empty())
      return wrong;
  }
  return "";
}

/// Launches what is prepared, waits for it, and returns the error that it or the launch throws.
template <class E>
std::optional<E> error_of(Communicator& communicator, verify::Verifier& verifier) {
  try {
    verifier.launch();
    verifier.device().synchronize();
    communicator.check();
  } catch (const E& error) {
    return error;
  }
  return std::nullopt;
}

struct Way {
  const char* name;
  Algorithm algorithm;
  Protocol protocol;
  verify::Buffers buffers;
  friend std::ostream& operator<<(std::ostream& out, const Way& way) { return out << way.name; }
};

class FailuresCuda : public CudaTest, public testing::WithParamInterface<Way> {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped() || GetParam().protocol != Protocol::lines) return;
    if (const std::string why = why_no_lines(4); !why.empty()) GTEST_SKIP() << why;
  }
};
INSTANTIATE_TEST_SUITE_P(
    Ways, FailuresCuda,
    testing::Values(
        Way{"one_shot", Algorithm::one_shot, Protocol::packets, verify::Buffers::plain},
        Way{"one_shot_lines", Algorithm::one_shot, Protocol::lines, verify::Buffers::plain},
        Way{"two_shot_lines", Algorithm::two_shot, Protocol::lines, verify::Buffers::plain},
        Way{"two_shot_packets", Algorithm::two_shot, Protocol::packets, verify::Buffers::plain},
        Way{"two_shot_barriers", Algorithm::two_shot, Protocol::barriers, verify::Buffers::symmetric},
        Way{"two_shot_barriers_staged", Algorithm::two_shot, Protocol::barriers, verify::Buffers::plain}),
    [](const auto& instance) { return instance.param.name; });

TEST_P(FailuresCuda, ARankThatNeverComesIsNamedByEveryOther) {
  const Way way = GetParam();
  constexpr int absent = 2;
  auto survivors = bootstrap_threads(3, patience());
  const auto results = spawn_cuda(Ranks::threads, 4, [&](Bootstrap& bootstrap) -> std::string {
    auto options = cuda_options(2, 2, way.protocol);
    options.timeout = milliseconds(500);
    Communicator communicator(bootstrap, options);
    verify::Verifier verifier(communicator, 1 << 13);
    const Departure departure(bootstrap);
    if (auto wrong = verifier.run(case_of(way.algorithm, way.buffers, 1, {2, 3})); !wrong.empty())
      return wrong;
    if (bootstrap.rank() == absent) return "";
    verifier.prepare(case_of(way.algorithm, way.buffers, 2, {2, 3}));
    const auto begin = std::chrono::steady_clock::now();
    const auto first = error_of<Timeout>(communicator, verifier);
    if (!first) return "no error";
    if (first->missing() != std::vector{absent})
      return std::string("other ranks were named: ") + first->what();
    if (!contains(first->what(), "all_reduce_all_gather"))
      return std::string("the operation is missing: ") + first->what();
    if (std::chrono::steady_clock::now() - begin > milliseconds(5000)) return "the deadline was missed";
    const auto second = error_of<Timeout>(communicator, verifier);
    if (!second) return "the failed communicator worked";
    if (second->what() != std::string(first->what())) return std::string("another error: ") + second->what();
    if (auto wrong = works(verifier.device()); !wrong.empty()) return wrong;
    return calls_work(
        *survivors[static_cast<std::size_t>(bootstrap.rank() - (bootstrap.rank() > absent ? 1 : 0))]);
  });
  EXPECT_EQ(failures(results), "");
}

TEST_P(FailuresCuda, ALateRankIsNoError) {
  const Way way = GetParam();
  const auto results = spawn_cuda(Ranks::threads, 4, [&](Bootstrap& bootstrap) -> std::string {
    auto options = cuda_options(2, 2, way.protocol);
    options.timeout = std::max(patience(), Milliseconds(10'000));
    Communicator communicator(bootstrap, options);
    verify::Verifier verifier(communicator, 1 << 13);
    const Departure departure(bootstrap);
    if (bootstrap.rank() == 3) std::this_thread::sleep_for(milliseconds(3000));
    return verifier.run(case_of(way.algorithm, way.buffers, 1, {2, 3}));
  });
  EXPECT_EQ(failures(results), "");
}

struct BadCounts {
  const char* name;
  std::array<std::int64_t, 2> rows;
  friend std::ostream& operator<<(std::ostream& out, const BadCounts& counts) { return out << counts.name; }
};

class RowCountsCuda : public CudaTest, public testing::WithParamInterface<BadCounts> {};

TEST_P(RowCountsCuda, ThatDoNotFitFailTheCommunicator) {
  const auto results = spawn_cuda(Ranks::threads, 2, [](Bootstrap& bootstrap) -> std::string {
    constexpr std::size_t most = 3;
    constexpr std::size_t room = 4;
    constexpr std::size_t hidden = 64;
    Communicator communicator(bootstrap, cuda_options(1, 2));
    const auto device = verify::make_device(BackendKind::cuda);
    const auto in = device->allocate(most * hidden * 4);
    const auto out = device->allocate(room * hidden * 4);
    const auto counts = device->allocate(sizeof(std::int64_t) * 2);
    const Departure departure(bootstrap);
    device->write(counts.get(), reinterpret_cast<const std::byte*>(GetParam().rows.data()),
                  sizeof(std::int64_t) * 2);
    for (int i = 0; i < 2; ++i) try {
        communicator.all_gather(
            {in.get(), most, hidden, DType::fp32}, {out.get(), room, hidden, DType::fp32},
            RowCounts::on_device(reinterpret_cast<const std::int64_t*>(counts.get()), most),
            {.algorithm = Algorithm::one_shot, .stream = device->stream()});
        device->synchronize();
        communicator.check();
        return "no error";
      } catch (const Error& error) {
        if (!contains(error.what(), "row counts")) return error.what();
      }
    return works(*device);
  });
  EXPECT_EQ(failures(results), "");
}

INSTANTIATE_TEST_SUITE_P(Counts, RowCountsCuda,
                         testing::Values(BadCounts{"beyond_most", {1, 4}}, BadCounts{"negative", {-1, 2}},
                                         BadCounts{"beyond_room", {3, 3}}, BadCounts{"huge", {1, INT64_MAX}}),
                         [](const auto& instance) { return instance.param.name; });

// --- check_agreement
// ---------------------------------------------------------------------------------------------

/// A rank's memory for calls of any shape below.
struct Scratch {
  verify::Device& device;
  std::shared_ptr<std::byte> in_memory = device.allocate(4096);
  std::shared_ptr<std::byte> out_memory = device.allocate(4096);

  [[nodiscard]] ConstTensor in(std::size_t rows, std::size_t hidden = 8, DType dtype = DType::fp32) const {
    return {in_memory.get(), rows, hidden, dtype};
  }
  [[nodiscard]] Tensor out(std::size_t rows, std::size_t hidden = 8, DType dtype = DType::fp32) const {
    return {out_memory.get(), rows, hidden, dtype};
  }
};

struct Difference {
  const char* name;
  std::function<void(Communicator&, const Scratch&, const CallOptions&, bool odd)> call;
  bool same_team = true;  ///< else ranks wait for one that is elsewhere, and may time out instead
  friend std::ostream& operator<<(std::ostream& out, const Difference& difference) {
    return out << difference.name;
  }
};

class DisagreementsCuda : public CudaTest, public testing::WithParamInterface<Difference> {};

TEST_P(DisagreementsCuda, AreFoundAndNameWhoCalledWhat) {
  const auto results = spawn_cuda(Ranks::threads, 4, [](Bootstrap& bootstrap) -> std::string {
    auto options = cuda_options(2, 2);
    options.check_agreement = true;
    options.timeout = milliseconds(2000);
    Communicator communicator(bootstrap, options);
    const auto device = verify::make_device(BackendKind::cuda);
    const Scratch scratch{*device};
    const Departure departure(bootstrap);
    try {
      for (int i = 0; i < 3; ++i)
        GetParam().call(communicator, scratch, {.stream = device->stream()}, bootstrap.rank() == 1 && i == 1);
      // Ranks that had nothing to do with the odd one learn of it where they need it.
      communicator.all_reduce_all_gather(scratch.in(1), scratch.out(2), 1, {.stream = device->stream()});
      device->synchronize();
      communicator.check();
      return "no error";
    } catch (const Disagreement& error) {
      const std::string text = error.what();
      const bool names_it = contains(text, "rank 1 calls") || contains(text, "but rank 1 calls");
      const auto second_call = text.find("calls ", text.find("calls ") + 1);
      if (!names_it || second_call == std::string::npos) return text;
    } catch (const Timeout& error) {
      if (GetParam().same_team) return error.what();
    }
    return works(*device);
  });
  EXPECT_EQ(failures(results), "");
}

INSTANTIATE_TEST_SUITE_P(
    All, DisagreementsCuda,
    testing::Values(Difference{"operation",
                               [](Communicator& c, const Scratch& s, const CallOptions& o, bool odd) {
                                 odd ? c.reduce_scatter_all_reduce(s.in(2), s.out(1), 1, o)
                                     : c.all_reduce_all_gather(s.in(1), s.out(2), 1, o);
                               }},
                    Difference{"rows",
                               [](Communicator& c, const Scratch& s, const CallOptions& o, bool odd) {
                                 odd ? c.all_reduce_all_gather(s.in(2), s.out(4), 2, o)
                                     : c.all_reduce_all_gather(s.in(1), s.out(2), 1, o);
                               }},
                    Difference{"hidden",
                               [](Communicator& c, const Scratch& s, const CallOptions& o, bool odd) {
                                 c.all_reduce_all_gather(s.in(1, odd ? 9 : 8), s.out(2, odd ? 9 : 8), 1, o);
                               }},
                    Difference{"dtype",
                               [](Communicator& c, const Scratch& s, const CallOptions& o, bool odd) {
                                 const DType dtype = odd ? DType::bf16 : DType::fp32;
                                 c.all_reduce_all_gather(s.in(1, 8, dtype), s.out(2, 8, dtype), 1, o);
                               }},
                    Difference{"algorithm",
                               [](Communicator& c, const Scratch& s, const CallOptions& o, bool odd) {
                                 c.all_reduce_all_gather(
                                     s.in(1), s.out(2), 1,
                                     {.algorithm = odd ? Algorithm::two_shot : Algorithm::one_shot,
                                      .stream = o.stream});
                               }},
                    Difference{"team",
                               [](Communicator& c, const Scratch& s, const CallOptions& o, bool odd) {
                                 odd ? c.all_gather(s.in(1), s.out(2), 1, o)
                                     : c.all_reduce(s.in(1), s.out(1), o);
                               },
                               false}),
    [](const auto& instance) { return instance.param.name; });

TEST_F(CudaTest, WithAgreementCheckedCallsThatAgreeAreExact) {
  const auto results = spawn_cuda(Ranks::threads, 4, [](Bootstrap& bootstrap) -> std::string {
    auto options = cuda_options(2, 2);
    options.check_agreement = true;
    Communicator communicator(bootstrap, options);
    verify::Verifier verifier(communicator, 1 << 13);
    const Departure departure(bootstrap);
    for (std::uint64_t i = 0; i < 40; ++i) {
      auto c = case_of(static_cast<Algorithm>(i % 4), static_cast<verify::Buffers>(i % 5), i + 1, {2, i % 3});
      c.op = static_cast<Op>(i % 5);
      if (auto wrong = verifier.run(c); !wrong.empty()) return wrong;
    }
    return "";
  });
  EXPECT_EQ(failures(results), "");
}

}  // namespace
}  // namespace mixcomm::test
