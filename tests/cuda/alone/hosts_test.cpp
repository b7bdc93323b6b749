// GPUs of several hosts: processes of this machine that say that they are on others (NCCL_HOSTID), with TP
// inside a host and DP across. NCCL connects them by sockets, as it would without a faster network.
//
// With MIXCOMM_TEST_GPUS=N, counterparts on two hosts have GPUs of their own, as far as there are N of them;
// else all ranks take turns on one, which NCCL allows to ranks of different hosts alone.
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "cuda/graph.hpp"
#include "cuda/nccl_comm.hpp"
#include "cuda/support.hpp"
#include "mixcomm/error.hpp"
#include "support/error_of.hpp"

namespace mixcomm::test {
namespace {

using Clock = std::chrono::steady_clock;

const std::string skipped = "skipped: ";

/// Ranks of each host, and how many of them are a TP group.
struct Layout {
  std::vector<int> sizes;
  int tp;

  [[nodiscard]] int world() const { return std::accumulate(sizes.begin(), sizes.end(), 0); }
  [[nodiscard]] int dp() const { return world() / tp; }
  [[nodiscard]] int host_of(int rank) const {
    int host = 0;
    for (int end = sizes[0]; rank >= end; end += sizes[static_cast<std::size_t>(host)]) ++host;
    return host;
  }
  [[nodiscard]] int place_of(int rank) const {
    return rank - std::accumulate(sizes.begin(), sizes.begin() + host_of(rank), 0);
  }
};
std::ostream& operator<<(std::ostream& out, const Layout& layout) {
  return out << fmt::format("{}_tp_{}", fmt::join(layout.sizes, "_"), layout.tp);
}

/// Runs fn on the ranks, each a process.
std::vector<std::string> on_hosts(const Layout& layout, const std::function<std::string(Bootstrap&)>& fn) {
  return spawn_cuda(Ranks::processes, layout.world(), [&](Bootstrap& bootstrap) -> std::string {
    if (const std::string why = verify::why_no_cuda(); !why.empty()) return skipped + why;
    if (Nccl::load() == nullptr) return skipped + "there is no libnccl.so.2";
    const int rank = bootstrap.rank();
    const bool unequal =
        std::ranges::adjacent_find(layout.sizes, std::not_equal_to<>()) != layout.sizes.end();
    if (unequal && gpus_for_tests() < 2) return skipped + "NCCL wants two GPUs for ranks of one host";
    setenv("NCCL_HOSTID", fmt::format("mixcomm-test-{}", layout.host_of(rank)).c_str(), 1);
    setenv("NCCL_SOCKET_IFNAME", "lo", 1);
    setenv("NCCL_IB_DISABLE", "1", 1);
    const int gpus = std::min(gpus_for_tests(), std::max(gpu_count(), 1));
    const int gpu = gpus < layout.world() ? layout.place_of(rank) + layout.host_of(rank) : rank;
    check_cuda(cudaSetDevice(gpu % gpus));
    return fn(bootstrap);
  });
}

void expect_all_well(const std::vector<std::string>& results) {
  if (std::ranges::all_of(results, [](const std::string& text) { return text.starts_with(skipped); }))
    GTEST_SKIP() << results[0].substr(skipped.size());
  if (contains(results[0], "built without NCCL's headers")) GTEST_SKIP() << results[0];
  EXPECT_EQ(failures(results), "");
}

/// `nccl`: a ncclComm_t over all ranks, if the caller has one.
std::string run_all(Bootstrap& bootstrap, const Layout& layout, const std::vector<verify::Case>& cases,
                    void* nccl = nullptr) {
  CommunicatorOptions options = cuda_options(layout.tp, layout.dp());
  options.cuda.nccl = nccl;
  Communicator communicator(bootstrap, options);
  verify::Verifier verifier(communicator, verify::most_elements(cases, layout.dp()));
  const Departure departure(bootstrap);
  const auto begin = Clock::now();
  if (std::string wrong = verifier.run(cases); !wrong.empty()) return wrong;
  if (bootstrap.rank() == 0)
    fmt::print("{} cases are exact on {} hosts, tp {}, in {} ms\n", cases.size(), layout.sizes.size(),
               layout.tp, std::chrono::duration_cast<Milliseconds>(Clock::now() - begin).count());
  return "";
}

class CudaHosts : public testing::TestWithParam<Layout> {};

TEST_P(CudaHosts, EveryCaseIsExact) {
  const Layout layout = GetParam();
  auto cases = verify::cases_of({.tp = layout.tp,
                                 .dp = layout.dp(),
                                 .ops = {Op::all_reduce, Op::all_gather, Op::all_reduce_all_gather},
                                 .algorithms = {},
                                 .dtypes = {},
                                 .large = true,
                                 .backend = BackendKind::cuda});
  std::erase_if(cases, [](const verify::Case& c) { return c.most != 0 && c.op != Op::all_reduce; });
  ASSERT_GT(cases.size(), 300U);
  expect_all_well(on_hosts(layout, [&](Bootstrap& bootstrap) { return run_all(bootstrap, layout, cases); }));
}

TEST_P(CudaHosts, EpiloguesAreExact) {
  const Layout layout = GetParam();
  std::vector<verify::Case> cases;
  for (std::uint64_t i = 0; i < 60; ++i) {
    verify::Case each{.op = i % 3 == 0 ? Op::all_reduce : Op::all_reduce_all_gather,
                      .dtype = static_cast<DType>(i % 3),
                      .values = verify::Values::floats,
                      .hidden = 136,
                      .seed = i + 1,
                      .steps = verify::some_steps(i, verify::Buffers::plain)};
    if (each.steps.quantize != Quantize::none) each.seed = 14 * i + 1;  // its buffers begin at even addresses
    for (int d = 0; d < layout.dp(); ++d) each.rows.push_back((i + static_cast<std::uint64_t>(d)) % 4);
    cases.push_back(each);
  }
  expect_all_well(on_hosts(layout, [&](Bootstrap& bootstrap) { return run_all(bootstrap, layout, cases); }));
}

/// Captured once, with counts of the hosts; replayed with fresh inputs.
TEST_P(CudaHosts, ReplayInAGraphWithNewInputs) {
  const Layout layout = GetParam();
  expect_all_well(on_hosts(layout, [&](Bootstrap& bootstrap) -> std::string {
    Communicator communicator(bootstrap, cuda_options(layout.tp, layout.dp()));
    std::vector<verify::Case> cases;
    for (const Op op : {Op::all_reduce, Op::all_gather, Op::all_reduce_all_gather})
      for (const std::size_t hidden : {std::size_t{64}, std::size_t{2880}}) {
        verify::Case c;
        c.op = op;
        c.dtype = DType::bf16;
        c.values = verify::Values::floats;
        for (int d = 0; d < layout.dp(); ++d)
          c.rows.push_back(op == Op::all_reduce ? 3 : static_cast<std::size_t>(d) % 3 * 2);
        c.hidden = hidden;
        c.seed = 1 + cases.size();
        cases.push_back(c);
      }
    verify::Verifier verifier(communicator, verify::most_elements(cases, layout.dp()),
                              static_cast<int>(cases.size()));
    const Departure departure(bootstrap);
    std::vector<PreparedCall> calls;
    calls.reserve(cases.size());
    for (const verify::Case& c : cases) calls.push_back({&verifier, static_cast<int>(calls.size()), c});
    void* const stream = verifier.device().stream();
    prepare(calls);
    const Graph graph(stream, [&] { launch(calls, stream); });
    for (int replay = 0; replay < 20; ++replay) {
      prepare(calls);
      (void)bootstrap.exchange("all inputs are there", "");
      graph.launch();
      check_cuda(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)));
      if (std::string wrong = check(calls); !wrong.empty())
        return fmt::format("replay {}: {}", replay, wrong);
    }
    return "";
  }));
}

/// Split for what crosses, and taken as it is for the algorithm of that name, whose sums are NCCL's.
TEST_P(CudaHosts, TakeTheCallersCommunicator) {
  const Layout layout = GetParam();
  if (layout.world() > 2 && gpus_for_tests() < 2)
    GTEST_SKIP() << "NCCL wants a GPU for each rank of a host in one communicator";
  auto cases = verify::cases_of({.tp = layout.tp,
                                 .dp = layout.dp(),
                                 .ops = {Op::all_reduce, Op::all_gather, Op::all_reduce_all_gather},
                                 .algorithms = {Algorithm::automatic, Algorithm::nccl},
                                 .dtypes = {DType::bf16},
                                 .large = false,
                                 .backend = BackendKind::cuda});
  std::erase_if(cases, [](const verify::Case& c) { return c.most != 0; });
  for (verify::Case& c : cases) c.values = verify::Values::integers;
  expect_all_well(on_hosts(layout, [&](Bootstrap& bootstrap) -> std::string {
    const NcclComm comm(*Nccl::load(), bootstrap);
    return run_all(bootstrap, layout, cases, comm.get());
  }));
}

INSTANTIATE_TEST_SUITE_P(Layouts, CudaHosts,
                         testing::Values(Layout{{1, 1}, 1}, Layout{{2, 2}, 2}, Layout{{2, 2}, 1},
                                         Layout{{1, 2}, 1}),
                         testing::PrintToStringParamName());

// --- refusals and failures

constexpr std::size_t hidden = 256;

/// A call on device memory of its own.
class Rows {
 public:
  Rows(Communicator& communicator, std::size_t rows) : communicator_(communicator), rows_(rows) {
    check_cuda(cudaMalloc(&in_, bytes(rows)));
    check_cuda(cudaMalloc(&out_, bytes(rows * dp())));
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    const std::vector<float> ones(rows * hidden, 1.0F);
    check_cuda(cudaMemcpy(in_, ones.data(), bytes(rows), cudaMemcpyHostToDevice));
  }
  ~Rows() {
    cudaFree(in_);
    cudaFree(out_);
    cudaStreamDestroy(stream_);
  }
  Rows(const Rows&) = delete;
  Rows& operator=(const Rows&) = delete;

  void launch(Op op = Op::all_reduce_all_gather) {
    const bool gathers = shape_of(op).body == Body::gather;
    const ConstTensor one = tensor(static_cast<const float*>(in_), rows_, hidden);
    const ConstTensor all = tensor(static_cast<const float*>(out_), rows_ * dp(), hidden);
    if (gathers)
      communicator_.run(op, one, tensor(static_cast<float*>(out_), rows_ * dp(), hidden), rows_,
                        {.stream = stream_});
    else
      communicator_.run(op, all, tensor(static_cast<float*>(in_), rows_, hidden), rows_, {.stream = stream_});
  }
  /// With row counts in device memory (which are never read).
  void launch_with_counts() {
    communicator_.all_gather(tensor(static_cast<const float*>(in_), rows_, hidden),
                             tensor(static_cast<float*>(out_), rows_ * dp(), hidden),
                             RowCounts::on_device(static_cast<const std::int64_t*>(in_), rows_),
                             {.stream = stream_});
  }
  void launch_to_odd_fp8() {
    Epilogue epilogue;
    epilogue.quantize = Quantize::per_token;
    epilogue.scales = static_cast<float*>(out_) + rows_ * dp() * hidden / 2;
    communicator_.all_reduce_all_gather(
        tensor(static_cast<const float*>(in_), rows_, hidden),
        {static_cast<std::byte*>(out_) + 1, rows_ * dp(), hidden, DType::fp8_e4m3}, rows_,
        {.stream = stream_, .epilogue = epilogue});
  }
  void wait() { check_cuda(cudaStreamSynchronize(stream_)); }
  /// Throws what went wrong; "" where the sums are right.
  std::string gather() {
    launch();
    wait();
    communicator_.check();
    std::vector<float> got(rows_ * dp() * hidden);
    check_cuda(cudaMemcpy(got.data(), out_, bytes(rows_ * dp()), cudaMemcpyDeviceToHost));
    const auto sum = static_cast<float>(communicator_.grid().tp.size);
    return std::ranges::all_of(got, [&](float each) { return each == sum; }) ? "" : "wrong sum";
  }

 private:
  [[nodiscard]] std::size_t dp() const { return static_cast<std::size_t>(communicator_.grid().dp.size); }
  static std::size_t bytes(std::size_t rows) { return rows * hidden * sizeof(float); }

  Communicator& communicator_;
  std::size_t rows_;
  void* in_ = nullptr;
  void* out_ = nullptr;
  cudaStream_t stream_ = nullptr;
};

/// "" if the call throws a Timeout that names those ranks, in time; and if the GPU works on.
std::string names(const std::vector<int>& expected, Milliseconds timeout, const std::function<void()>& call) {
  const auto begin = Clock::now();
  try {
    call();
  } catch (const Timeout& error) {
    const auto took = std::chrono::duration_cast<Milliseconds>(Clock::now() - begin);
    if (took > timeout + Milliseconds(2000)) return fmt::format("took {} ms: {}", took.count(), error.what());
    if (error.missing() != expected)
      return fmt::format("named {} after {} ms: {}", fmt::join(error.missing(), ", "), took.count(),
                         error.what());
    if (cudaDeviceSynchronize() != cudaSuccess) return "the context is lost";
    fmt::print("named {} after {} ms: {}\n", fmt::join(expected, ", "), took.count(), error.what());
    std::fflush(stdout);  // ranks leave by _exit()
    return "";
  }
  return "no error";
}

constexpr Milliseconds short_timeout{4000};

CommunicatorOptions impatient(const Layout& layout) {
  CommunicatorOptions options = cuda_options(layout.tp, layout.dp());
  options.timeout = short_timeout;
  return options;
}

TEST(CudaHostsRefuse, WhatDoesNotCrossYetAndGoOn) {
  const Layout layout{{2, 2}, 2};
  expect_all_well(on_hosts(layout, [&](Bootstrap& bootstrap) -> std::string {
    const auto across =
        error_of<Unsupported>([&] { const Communicator wide(bootstrap, cuda_options(4, 1)); });
    if (!contains(across, "a TP group would lie on two hosts")) return "tp 4: " + across;
    Communicator communicator(bootstrap, cuda_options(layout.tp, layout.dp()));
    Rows rows(communicator, 2);
    const Departure departure(bootstrap);
    for (const Op op : {Op::reduce_scatter, Op::reduce_scatter_all_reduce}) {
      auto text = error_of<Unsupported>([&] { rows.launch(op); });
      if (!contains(text, "DP ranks are on 2 hosts")) return text;
    }
    auto on_device = error_of<Unsupported>([&] { rows.launch_with_counts(); });
    if (!contains(on_device, "pass counts on the host")) return on_device;
    auto odd = error_of<Unsupported>([&] { rows.launch_to_odd_fp8(); });
    if (!contains(odd, "must begin at even addresses")) return odd;
    return rows.gather();
  }));
}

TEST(CudaHostsFail, AKilledRankIsNamedByAllAndTheOthersGoOn) {
  const Layout layout{{2, 2}, 2};
  constexpr int killed = 3;
  auto results = on_hosts(layout, [&](Bootstrap& bootstrap) -> std::string {
    {
      Communicator communicator(bootstrap, impatient(layout));
      Rows rows(communicator, 3);
      for (int i = 0; i < 5; ++i)
        if (auto wrong = rows.gather(); !wrong.empty()) return wrong;
      (void)bootstrap.exchange("before", "");
      if (bootstrap.rank() == killed) std::raise(SIGKILL);
      if (auto wrong = names({killed}, short_timeout, [&] { (void)rows.gather(); }); !wrong.empty())
        return wrong;
      if (auto wrong = names({killed}, short_timeout, [&] { (void)rows.gather(); }); !wrong.empty())
        return wrong;
    }
    if (gpus_for_tests() < 2) return "";  // what is left has hosts of 2 and 1 ranks
    const Survivors left = bootstrap.survivors(std::vector{killed});
    Communicator communicator(*left.bootstrap, cuda_options(1, left.bootstrap->world()));
    Rows rows(communicator, 3);
    const Departure departure(*left.bootstrap);
    return rows.gather();
  });
  if (results[killed] == "killed by signal 9") results[killed] = "";
  expect_all_well(results);
}

/// Counterparts wait in NCCL, which nothing ends but the deadline.
TEST(CudaHostsFail, ARankThatDoesNotComeIsNamedByAll) {
  for (const Layout& layout : {Layout{{1, 1}, 1}, Layout{{2, 2}, 2}, Layout{{2, 2}, 1}}) {
    const int late = layout.world() - 1;
    expect_all_well(on_hosts(layout, [&](Bootstrap& bootstrap) -> std::string {
      Communicator communicator(bootstrap, impatient(layout));
      Rows rows(communicator, 3);
      const Departure departure(bootstrap);
      if (auto wrong = rows.gather(); !wrong.empty()) return wrong;
      if (bootstrap.rank() == late) return "";
      return names({late}, short_timeout, [&] { (void)rows.gather(); });
    }));
  }
}

TEST(CudaHostsFail, ALateRankIsNoError) {
  const Layout layout{{2, 2}, 2};
  expect_all_well(on_hosts(layout, [&](Bootstrap& bootstrap) -> std::string {
    Communicator communicator(bootstrap, impatient(layout));
    Rows rows(communicator, 3);
    const Departure departure(bootstrap);
    if (bootstrap.rank() == 3) std::this_thread::sleep_for(Milliseconds(1500));
    return rows.gather();
  }));
}

TEST(CudaHostsFail, CallsThatDifferBetweenHostsAreTold) {
  const Layout layout{{1, 1}, 1};
  expect_all_well(on_hosts(layout, [&](Bootstrap& bootstrap) -> std::string {
    Communicator communicator(bootstrap, impatient(layout));
    Rows rows(communicator, bootstrap.rank() == 0 ? 3 : 4);
    const Departure departure(bootstrap);
    const auto text = error_of<Disagreement>([&] { (void)rows.gather(); });
    return contains(text, "rows [3") && contains(text, "rows [4") ? "" : "no error, or another one: " + text;
  }));
}

}  // namespace
}  // namespace mixcomm::test
