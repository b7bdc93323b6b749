#include "cuda/nccl_crossing.hpp"

#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <future>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "all_or_none.hpp"
#include "bootstrap/deadline.hpp"
#include "cuda/cuda_backend.hpp"
#include "cuda/driver.hpp"
#include "cuda/nccl_collectives.hpp"
#include "cuda/nccl_library.hpp"
#include "cuda/notice_findings.hpp"
#include "cuda/notices.hpp"
#include "failure_text.hpp"
#include "mixcomm/error.hpp"

namespace mixcomm::cuda {
namespace {

using Clock = std::chrono::steady_clock;
using device::FailureRecord;

/// How often the watch looks.
constexpr Milliseconds look_every{10};
/// How often a rank that waits looks at who has come, before its deadline.
constexpr int looks_at_notices = 16;
/// How long a rank that NCCL has told of a failure waits for what others of its host are told.
constexpr Milliseconds others_are_told{100};
/// How long a call of NCCL's may keep its lock before the watch goes on without it.
constexpr Milliseconds longest_call{1000};

template <class T>
T load(const T& word) {
  return __atomic_load_n(&word, __ATOMIC_ACQUIRE);
}

/// Zeroed device memory for one T.
template <class T>
std::shared_ptr<T> device_memory(const std::string& what) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, sizeof(T)), what);
  std::shared_ptr<T> owner(static_cast<T*>(memory), [](T* data) { (void)cudaFree(data); });
  check(cudaMemset(memory, 0, sizeof(T)), what);
  return owner;
}
/// Zeroed host memory for one T that the device writes, at the same address.
template <class T>
std::shared_ptr<T> host_memory(const std::string& what) {
  void* memory = nullptr;
  check(cudaHostAlloc(&memory, sizeof(T), cudaHostAllocMapped | cudaHostAllocPortable), what);
  std::memset(memory, 0, sizeof(T));
  return {static_cast<T*>(memory), [](T* data) { (void)cudaFreeHost(data); }};
}

/// The communicator of the ranks that this one exchanges with. NCCL's calls that may take long are made on
/// threads of their own, and left behind where they take too long.
class Circle {
 public:
  struct Place {
    std::vector<int> ranks;  ///< of the whole job, ascending
    int member = 0;
    int device = 0;
  };
  explicit Circle(Place place) : place_(std::move(place)) {}
  ~Circle() {
    if (comm_ != nullptr) end(nccl_library().comm_destroy);
    if (ending_.valid()) (void)ending_.wait_for(longest_call);
  }
  Circle(const Circle&) = delete;
  Circle& operator=(const Circle&) = delete;

  /// Collective over the circle. Throws CudaError; Timeout.
  void meet(const ncclUniqueId& id, Milliseconds timeout) {
    in_time("joining NCCL's ranks of other hosts", timeout, [place = place_, id](ncclComm_t& comm) {
      ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
      config.blocking = 1;
      return nccl_library().comm_init_rank_config(&comm, static_cast<int>(place.ranks.size()), id,
                                                  place.member, &config);
    });
  }
  /// Collective over the ranks of `all`, the caller's communicator, in which this rank's circle is `color`.
  void split_off(ncclComm_t all, int color, Milliseconds timeout) {
    in_time("splitting the NCCL communicator", timeout, [all, color, place = place_](ncclComm_t& comm) {
      ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
      config.blocking = 1;
      const ncclResult_t result = nccl_library().comm_split(all, color, place.member, &comm, &config);
      if (result == ncclInProgress) finish(result, all, "splitting the NCCL communicator", default_timeout);
      return result == ncclInProgress ? ncclSuccess : result;
    });
  }

  [[nodiscard]] ncclComm_t get() const { return comm_; }
  [[nodiscard]] const std::vector<int>& ranks() const { return place_.ranks; }

  /// Its kernels leave, and so do those of graphs that hold them. Returns at once: NCCL waits for those
  /// graphs' ends.
  void abort() {
    if (comm_ != nullptr) end(nccl_library().comm_abort);
  }

 private:
  template <class F>
  void in_time(const std::string& what, Milliseconds timeout, const F& call) {
    struct Result {
      ncclComm_t comm = nullptr;
      std::string problem;
    };
    std::promise<Result> promise;
    std::future<Result> future = promise.get_future();
    std::thread([call, what, device = place_.device, promise = std::move(promise)]() mutable {
      Result result;
      try {
        check(cudaSetDevice(device), what);
        const ncclResult_t status = call(result.comm);
        check(status, nullptr, what);
      } catch (const Error& error) {
        result.problem = error.what();
      }
      promise.set_value(result);
    }).detach();
    if (future.wait_for(timeout) != std::future_status::ready)
      throw Timeout(fmt::format("{}: NCCL was not done after {} ms", what, timeout.count()));
    const Result result = future.get();
    if (!result.problem.empty()) throw CudaError(result.problem);
    comm_ = result.comm;
  }

  void end(ncclResult_t (*call)(ncclComm_t)) {
    std::promise<void> promise;
    ending_ = promise.get_future();
    std::thread([call, comm = std::exchange(comm_, nullptr), device = place_.device,
                 promise = std::move(promise)]() mutable {
      (void)cudaSetDevice(device);
      (void)call(comm);
      promise.set_value();
    }).detach();
  }

  Place place_;
  ncclComm_t comm_ = nullptr;
  std::future<void> ending_;
};

/// What puts crossings on streams.
struct Road {
  std::shared_ptr<NoticeMemory> memory;
  ncclComm_t comm = nullptr;
  std::vector<int> ranks;  ///< by NCCL's number, ascending

  void cross(NoticeArguments arguments, const std::vector<Stream>& out, const std::vector<Stream>& in,
             cudaStream_t stream) const {
    std::array<void*, 1> parameters{&arguments};
    const auto launch = [&](void* kernel) {
      check(cudaLaunchKernel(kernel, dim3(1), dim3(max_ranks), parameters.data(), 0, stream),
            "launching what crosses hosts");
    };
    launch(begin_crossing_kernel());
    in_one_group([&](const auto& also) {
      for (const int peer : ranks_in(arguments.peers)) {
        also(send(&memory->out[peer], sizeof(Notice), peer, stream));
        also(receive(&memory->in[peer], sizeof(Notice), peer, stream));
      }
      for (const Stream& each : out) also(send(each.data, each.bytes, each.peer, stream));
      for (const Stream& each : in) also(receive(each.data, each.bytes, each.peer, stream));
    });
    launch(end_crossing_kernel());
  }

  /// The last that `peers` hear of this rank.
  void say_last(const Notice& notice, RankSet peers, cudaStream_t stream) const {
    check(cudaMemcpyAsync(&memory->last, &notice, sizeof(notice), cudaMemcpyHostToDevice, stream),
          "telling other hosts");
    in_one_group([&](const auto& also) {
      for (const int peer : ranks_in(peers)) also(send(&memory->last, sizeof(Notice), peer, stream));
    });
  }

 private:
  [[nodiscard]] int number(int rank) const {
    return static_cast<int>(std::ranges::find(ranks, rank) - ranks.begin());
  }
  ncclResult_t send(const void* data, std::size_t bytes, int peer, cudaStream_t stream) const {
    return nccl_library().send(data, bytes, ncclUint8, number(peer), comm, stream);
  }
  ncclResult_t receive(void* data, std::size_t bytes, int peer, cudaStream_t stream) const {
    return nccl_library().recv(data, bytes, ncclUint8, number(peer), comm, stream);
  }
  template <class F>
  void in_one_group(const F& calls) const {
    const NcclLibrary& nccl = nccl_library();
    check(nccl.group_start(), comm, "sending to other hosts");
    ncclResult_t first_error = ncclSuccess;
    const auto also = [&](ncclResult_t result) {
      if (first_error == ncclSuccess) first_error = result;
    };
    calls(also);
    also(nccl.group_end());  // also after an error, or the group would stay open
    check(first_error, comm, "sending to other hosts");
  }
};

class NcclCrossing final : public Crossing {
 public:
  explicit NcclCrossing(const NcclCrossingSetup& setup)
      : state_(setup.state),
        timeout_(setup.timeout),
        rank_(setup.whole.rank()),
        device_(setup.own_part.device()),
        reader_{rank_, timeout_} {
    const std::vector<RankSet> all = counterparts(setup.parts, setup.grid.tp.size);
    counterparts_ = all[static_cast<std::size_t>(rank_)];
    const std::vector<RankSet> circles_of = circles(all);
    const UseDevice use(device_);
    all_or_none(setup.whole, "making what crosses hosts", [&] {
      const std::vector<int> ranks = ranks_in(circles_of[static_cast<std::size_t>(rank_)]);
      const auto member = static_cast<int>(std::ranges::find(ranks, rank_) - ranks.begin());
      if (setup.nccl == nullptr) load_nccl();
      (void)nccl_library();
      circle_.emplace(Circle::Place{ranks, member, device_});
      if (setup.nccl != nullptr)
        check_members(static_cast<ncclComm_t>(setup.nccl), setup.whole.world(), rank_, device_, timeout_);
      memory_ = device_memory<NoticeMemory>("allocating notices");
      record_ = host_memory<CrossingRecord>("allocating host memory for crossings");
      copy_ = host_memory<NoticeMemory>("allocating host memory for notices");
      cudaStream_t stream = nullptr;
      cuda::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream");
      stream_ = {stream, [](cudaStream_t each) { (void)cudaStreamDestroy(each); }};
      for (void* kernel : {begin_crossing_kernel(), end_crossing_kernel()}) {
        cudaFuncAttributes attributes{};
        cuda::check(cudaFuncGetAttributes(&attributes, kernel), "loading a kernel");
      }
      return std::string();
    });
    prepare(setup);
    join(setup);
    if (setup.nccl != nullptr) collectives_ = make_nccl_collectives(setup.whole, setup.nccl, setup.grid);
    connect(setup);
    watch_ = std::thread([this] { watch(); });
  }

  ~NcclCrossing() override {
    {
      const std::lock_guard lock(sleep_);
      stopping_ = true;
    }
    wake_.notify_all();
    if (watch_.joinable()) watch_.join();
    if (state_.failure.state.load() != 0) circle_->abort();
  }
  NcclCrossing(const NcclCrossing&) = delete;
  NcclCrossing& operator=(const NcclCrossing&) = delete;

  void check_call(const Call& call) const override {
    if (call.device_rows != nullptr)
      throw Unsupported(fmt::format(
          "{}: row counts are in device memory, and what crosses hosts needs them on the host; pass "
          "counts on the host",
          name(call.record.op)));
    // Ranks of a host gather FP8 two bytes at a time.
    const bool even = reinterpret_cast<std::uintptr_t>(call.out) % 2 == 0 && call.hidden % 2 == 0;
    if (call.epilogue.quantizes() && !even && own_host_ != just(rank_))
      throw Unsupported(fmt::format(
          "{}: on GPUs of several hosts FP8 rows must begin at even addresses, and hidden be even; the "
          "output is at {}, and hidden is {}",
          name(call.record.op), call.out, call.hidden));
  }

  [[nodiscard]] Finding run(const CallRecord& call, std::vector<Stream> out, std::vector<Stream> in,
                            void* stream) override {
    const std::lock_guard lock(calls_);
    if (aborted_) return {cpu::Failure::Kind::timeout, "what crosses hosts has been ended", 0};
    RankSet peers = 0;
    for (const Stream& each : out) peers |= just(each.peer);
    for (const Stream& each : in) peers |= just(each.peer);
    NoticeArguments arguments = arguments_;
    arguments.peers = peers;
    arguments.hash = hash_between_hosts(call);
    std::memcpy(arguments.call, &call, sizeof(call));
    const UseDevice use(device_);
    road_.cross(arguments, out, in, static_cast<cudaStream_t>(stream));
    return {};
  }

  [[nodiscard]] Finding check() override {
    if (load(record_->complete) == 0) return {};
    return reader_.bad(static_cast<int>(record_->from), record_->theirs, record_of(record_->mine.call));
  }

  bool run_nccl(const Call& call) override {
    if (collectives_ == nullptr) return false;
    const UseDevice use(device_);
    collectives_->run(call);
    return true;
  }

  /// The watch does, when it sees the failure.
  void tell(const Finding& /*finding*/) override {}

 private:
  void prepare(const NcclCrossingSetup& setup) {
    const KernelState local = kernel_state_of(setup.own_part);
    arguments_.memory = memory_.get();
    arguments_.record = record_.get();
    arguments_.local = local.memory;
    arguments_.failure = local.failure;
    const auto here = std::ranges::find_if(setup.parts, [&](const HostPart& part) {
      return rank_ >= part.first_rank && rank_ < part.first_rank + part.ranks;
    });
    const Grid grid = Grid::of(setup.grid.tp.size, here->dp, rank_ - here->first_rank);
    own_host_ = first_ranks(here->ranks) << static_cast<unsigned>(here->first_rank);
    for (int k = 0; k < team_kinds; ++k) {
      arguments_.teams[k] = grid_of(grid, static_cast<TeamKind>(k)).world;
      arguments_.teams[k].first += here->first_rank;
    }
  }

  void join(const NcclCrossingSetup& setup) {
    const int first = circle_->ranks().front();
    if (setup.nccl != nullptr) {
      all_or_none(setup.whole, "splitting NCCL's communicator", [&] {
        circle_->split_off(static_cast<ncclComm_t>(setup.nccl), first, timeout_);
        return std::string();
      });
      return;
    }
    const auto ids = all_or_none(setup.whole, "making NCCL's ids", [&]() -> std::string {
      if (rank_ != first) return "";
      ncclUniqueId id{};
      cuda::check(nccl_library().get_unique_id(&id), nullptr, "making an id for NCCL");
      return {id.internal, sizeof(id.internal)};
    });
    all_or_none(setup.whole, "joining NCCL's ranks of other hosts", [&] {
      ncclUniqueId id{};
      ids[static_cast<std::size_t>(first)].copy(id.internal, sizeof(id.internal));
      circle_->meet(id, timeout_);
      return std::string();
    });
  }

  /// NCCL makes its connections when they are first used, and waits for the other rank meanwhile: now, with a
  /// deadline, and not in a call.
  void connect(const NcclCrossingSetup& setup) {
    road_ = {memory_, circle_->get(), circle_->ranks()};
    all_or_none(setup.whole, "connecting GPUs of different hosts", [&] {
      NoticeArguments arguments = arguments_;
      arguments.peers = counterparts_;
      std::promise<std::string> promise;
      std::future<std::string> future = promise.get_future();
      std::thread([arguments, road = road_, record = record_, stream = stream_, device = device_,
                   promise = std::move(promise)]() mutable {
        std::string problem;
        try {
          cuda::check(cudaSetDevice(device), "using a device");
          road.cross(arguments, {}, {}, stream.get());
          cuda::check(cudaStreamSynchronize(stream.get()), "connecting GPUs of different hosts");
        } catch (const Error& error) {
          problem = error.what();
        }
        promise.set_value(problem);
      }).detach();
      if (future.wait_for(timeout_) != std::future_status::ready) {
        circle_->abort();
        (void)future.wait_for(timeout_);
        throw Timeout(
            fmt::format("NCCL had not connected rank {} to ranks {} after {} ms; NCCL_DEBUG=INFO says "
                        "what it tried",
                        rank_, fmt::join(ranks_in(counterparts_), ", "), timeout_.count()));
      }
      if (const std::string problem = future.get(); !problem.empty()) throw CudaError(problem);
      if (load(record_->complete) != 0) throw SystemError("what came from other hosts is not what was sent");
      return std::string();
    });
  }

  // --- the watch

  void watch() {
    (void)cudaSetDevice(device_);
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;  // others may be capturing
    (void)cudaThreadExchangeStreamCaptureMode(&mode);
    std::unique_lock lock(sleep_);
    while (!wake_.wait_for(lock, look_every, [this] { return stopping_; })) {
      lock.unlock();
      look();
      lock.lock();
    }
    state_.waits_for_hosts[index(rank_)].store(0);
    state_.late[index(rank_)].store(0);
  }

  void look() {
    const auto now = Clock::now();
    const std::uint64_t begun = load(record_->begun);
    const bool waits = load(record_->done) != begun;
    state_.waits_for_hosts[index(rank_)].store(waits ? 1 : 0);
    if (!waits || begun != seen_) {
      seen_ = begun;
      since_ = now;
      looks_ = 1;
      state_.late[index(rank_)].store(0);
    }
    if (const Finding bad = check(); !bad.text.empty())
      state_.failure.record(bad.kind, bad.text, bad.missing);
    if (aborted_) return;
    const bool failed = state_.failure.state.load() != 0;
    if (!failed && waits && now - since_ >= looks_ * timeout_ / looks_at_notices) {
      const Finding finding = who_is_missing();
      if (!finding.text.empty()) return give_up(finding);
      if (++looks_ > looks_at_notices / 2) state_.late[index(rank_)].store(finding.missing);
    }
    if (waits && now - since_ >= timeout_) return failed ? abort() : give_up(blame(nullptr));
    ncclResult_t status = ncclSuccess;
    if (nccl_library().comm_get_async_error(circle_->get(), &status) != ncclSuccess) return;
    if (waits && status != ncclSuccess && status != ncclInProgress) {
      if (failed) return abort();
      const std::string words = nccl_library().get_error_string(status);
      return give_up(blame(&words));
    }
    if (state_.failure.state.load() == 2) say_so(now);
  }

  [[nodiscard]] static std::size_t index(int rank) { return static_cast<std::size_t>(rank); }

  /// The crossing that is under way will not end by itself.
  void give_up(const Finding& finding) {
    state_.failure.record(finding.kind, finding.text, finding.missing);
    abort();
  }

  /// `words`: NCCL's, if it says that something is wrong; else it has taken too long.
  [[nodiscard]] Finding blame(const std::string* words) {
    Finding finding = who_is_missing();
    if (!finding.text.empty()) return finding;
    state_.late[index(rank_)].store(finding.missing);
    if (words != nullptr) std::this_thread::sleep_for(std::min(others_are_told, timeout_ / 8));
    for (const int each : ranks_in(own_host_)) finding.missing |= state_.late[index(each)].load();
    const std::string call = record_of(record_->call).describe();
    const std::vector<int> missing = ranks_in(finding.missing);
    if (words == nullptr) {
      finding.text = timeout_text(rank_, timeout_, missing, call);
    } else {
      finding.kind = cpu::Failure::Kind::gone;
      finding.text = fmt::format(
          "rank {} waits in {} for rank{} {} of other hosts, and NCCL says: {}. Look at their output. The "
          "communicator is failed.",
          rank_, call, missing.size() == 1 ? "" : "s", fmt::join(missing, ", "), *words);
    }
    return finding;
  }

  /// NoticeReader::so_far(); all peers, where notices are not to be seen.
  [[nodiscard]] Finding who_is_missing() {
    Finding finding{cpu::Failure::Kind::timeout, "", load(record_->peers)};
    if (cudaMemcpyAsync(copy_.get(), memory_.get(), sizeof(NoticeMemory), cudaMemcpyDeviceToHost,
                        stream_.get()) != cudaSuccess)
      return finding;
    const Deadline deadline(longest_call);
    while (cudaStreamQuery(stream_.get()) == cudaErrorNotReady) {
      if (deadline.passed()) return finding;
      std::this_thread::sleep_for(Milliseconds(1));
    }
    return reader_.so_far(*copy_, finding.missing);
  }

  /// Tells the counterparts who is missing, once. They may be in no crossing with this rank; then they do not
  /// hear of it, and what is under way to them is ended in time.
  void say_so(Clock::time_point now) {
    if (!told_at_) {
      told_at_ = now;
      const std::unique_lock lock(calls_, longest_call);
      if (!lock.owns_lock()) return;
      const RankSet missing = state_.failure.missing.load();
      copy_->last = {.crossing = last_notice,
                     .hash = 0,
                     .failed = missing != 0 ? FailureRecord::timeout : FailureRecord::disagreement,
                     .missing = missing,
                     .call = {}};
      std::memcpy(copy_->last.call, record_->call, sizeof(record_->call));
      try {
        road_.say_last(copy_->last, counterparts_ & ~missing, stream_.get());
      } catch (const Error&) {  // NOLINT(bugprone-empty-catch): who is not told finds out by the deadline
      }
    } else if (now - *told_at_ >= timeout_ && cudaStreamQuery(stream_.get()) == cudaErrorNotReady) {
      abort();
    }
  }

  void abort() {
    const std::unique_lock lock(calls_, longest_call);  // without it, where a call of NCCL's hangs
    if (aborted_.exchange(true)) return;
    circle_->abort();
  }

  HostState& state_;
  Milliseconds timeout_;
  int rank_;
  int device_;
  NoticeReader reader_;
  RankSet own_host_ = 0;
  RankSet counterparts_ = 0;
  NoticeArguments arguments_;
  std::shared_ptr<NoticeMemory> memory_;
  std::shared_ptr<CrossingRecord> record_;
  std::shared_ptr<NoticeMemory> copy_;  ///< of `memory_`, for the watch
  std::shared_ptr<CUstream_st> stream_;
  std::unique_ptr<NcclCollectives> collectives_;  ///< of the caller's communicator
  std::optional<Circle> circle_;
  Road road_;
  std::timed_mutex calls_;  ///< held while NCCL is called
  std::atomic<bool> aborted_ = false;

  std::mutex sleep_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::thread watch_;
  // The watch's own:
  std::uint64_t seen_ = 0;
  Clock::time_point since_ = Clock::now();
  int looks_ = 1;
  std::optional<Clock::time_point> told_at_;
};

}  // namespace

std::unique_ptr<Crossing> make_nccl_crossing(const NcclCrossingSetup& setup) {
  return std::make_unique<NcclCrossing>(setup);
}

}  // namespace mixcomm::cuda
