// The five operations on one TP x DP grid of ranks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "mixcomm/bootstrap.hpp"
#include "mixcomm/epilogue.hpp"
#include "mixcomm/grid.hpp"
#include "mixcomm/operation.hpp"
#include "mixcomm/portability.hpp"
#include "mixcomm/tensor.hpp"
#include "mixcomm/tuning.hpp"

namespace MIXCOMM_API mixcomm {

/// Threads of one rank at most, on the CPU backend.
inline constexpr int most_threads = 256;

/// Runs piece(0), ..., piece(pieces - 1), each once, on any threads and in any order, and returns when all
/// are through. Pieces wait for nobody longer than a fraction of a millisecond, and do not throw. What the
/// caller wrote before is seen by all of them, and what they wrote by the caller.
using RunPieces = std::function<void(int pieces, const std::function<void(int)>& piece)>;

/// What only the CPU backend looks at. Ranks may differ in all of it: results are the same bits.
struct CpuOptions {
  /// With how many threads at most a rank copies and sums, the calling one included, 1 to most_threads. An
  /// operation takes as many of them as its size pays for, small ones the calling thread alone. 0: what
  /// MIXCOMM_THREADS says; else the cores that the thread which makes the communicator may run on, divided
  /// among the ranks that share them, but no more than OMP_NUM_THREADS. The rank with the fewest counts for
  /// all: threads meet those of other ranks.
  int threads = 0;
  /// The caller's own threads, to serve in place of helpers that the library starts: for an engine whose
  /// worker threads would otherwise want the same processors.
  RunPieces workers{};
};

/// What only the CUDA backend looks at.
struct CudaOptions {
  int device = -1;                          ///< -1: the calling thread's current device
  Protocol protocol = Protocol::automatic;  ///< of calls that name none; one_shot takes packets for barriers
  bool lines = true;  ///< false: never lines, also over NVLink; then packets and barriers do it all. For who
                      ///< will not rely on NVLink's keeping 128 bytes together; MIXCOMM_DISABLE=lines says it
                      ///< as well. The same on all ranks; results are the same bits
  int max_lanes =
      0;  ///< thread blocks of an operation at most, 1 to 128, to leave SMs to others. 0: 128, but where
          ///< ranks share a device half of each one's share of the SMs, so that other kernels of a late rank
          ///< always find room; a caller who runs no others may ask for the whole share
  bool multicast = false;     ///< store through NVLink multicast where the devices support it
  void* nccl = nullptr;       ///< ncclComm_t over the same ranks, of the caller's, for Algorithm::nccl,
                              ///< `nccl_windows` and between hosts; it must outlive the communicator
  bool nccl_windows = false;  ///< take symmetric memory from windows of `nccl` (NCCL >= 2.28), which then
                              ///< must outlive every SymmetricBuffer; ranks release these in the same order
};

struct CommunicatorOptions {
  int tp = 1;
  int dp = 1;                                  ///< tp * dp must be the bootstrap's world
  Algorithm algorithm = Algorithm::automatic;  ///< for calls that name none
  Milliseconds timeout = default_timeout;      ///< deadline of every wait
  std::optional<bool> check_agreement{};       ///< compare each call between ranks, see Disagreement; on for
                                               ///< CPU, off for CUDA unless set
  std::size_t workspace_bytes = 0;  ///< staging per rank, team kind and area; larger messages pass in chunks.
                                    ///< 0: 1 MiB for CPU, 4 MiB for CUDA
  BackendKind backend = BackendKind::cpu;
  CpuOptions cpu{};
  CudaOptions cuda{};
  std::optional<TuningTable> tuning{};  ///< for automatic algorithms; the same on all ranks, and made on this
                                        ///< machine for this grid and backend; none: static rules
};

struct DeviceLanesOptions;
class DeviceLanes;

struct CallOptions {
  Algorithm algorithm = Algorithm::automatic;  ///< automatic: the communicator's
  /// CUDA: the cudaStream_t to run on; null is the default stream. Ranks that are threads of one process and
  /// share a device need a non-blocking stream each: on one stream, they would wait behind kernels that wait
  /// for them.
  void* stream = nullptr;
  /// CUDA: how the call travels, for those who measure it; the same on all ranks. What is 0 or automatic in
  /// it is the communicator's choice, by its tuning table or static rules. Lines where there may be none
  /// become packets, barriers of one_shot as well; lanes and threads beyond what there is become the most.
  LaunchShape shape{};
  /// What is done with the summed rows before they are handed out; nothing by default.
  Epilogue epilogue{};
};

/// Rows of `width` bytes that begin `pitch` bytes apart, from one place to another.
struct RowCopy {
  void* to = nullptr;
  std::size_t to_pitch = 0;
  const void* from = nullptr;
  std::size_t from_pitch = 0;
  std::size_t width = 0;
  std::size_t rows = 0;
};

/// Symmetric memory: the same number of bytes on every rank, readable and writable by all of them, so that
/// operations on it copy nothing. Lives until destroyed, also beyond its communicator; destroying it is
/// local. On CUDA nothing waits for the device: destroy a buffer, or a communicator, when no kernel of this
/// rank uses it any more (of any rank, where ranks are threads of one process).
class SymmetricBuffer {
 public:
  SymmetricBuffer() = default;
  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }
  template <class T>
  [[nodiscard]] T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  friend class Communicator;
  std::shared_ptr<void> owner_;
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// One rank's end of a communicator: five operations on one grid, rank = dp_rank * tp + tp_rank.
///
/// Calls: every rank of the communicator makes the same calls in the same order, from one thread at a time;
/// several communicators may be used in turn. On CPU a call blocks until `out` is complete and `in` may be
/// overwritten. On CUDA it is put on the caller's stream, like a kernel: it allocates nothing, never waits
/// for the device, and can be captured in a CUDA graph. All calls of one communicator go to one stream, or to
/// streams that wait for each other; so do the replays of graphs that hold them.
///
/// Sums: ordered sums (docs/design.md): in fp32 over t, then over d, neighbours first, ((0 + 1) + (2 + 3)),
/// rounded once; so all ranks, sizes, instruction sets, and all algorithms give the same bits, except
/// `composed` of reduce_scatter_all_reduce, which rounds twice, and `nccl`, which adds as NCCL does.
///
/// Epilogues: what engines do with the rows next, the residual, the norm and the way to FP8, is done by the
/// call itself where CallOptions::epilogue asks for it (epilogue.hpp).
///
/// Shapes: rows[d] counts the rows of DP rank d. `in` and `out` are row-major, with the same hidden and
/// dtype.
///
/// Buffers: any memory of any alignment (on CUDA device memory, aligned to its elements); null for 0 rows.
/// Memory from allocate() is used in place. Then all ranks of the call must pass the same place
/// of the same buffer, or all plain memory; else they disagree. (Where a DP rank has 0 rows, it cannot know
/// the others' place: then the tensor of rows[d] is staged.) `in` may be `out`, or where the shapes differ
/// the smaller may be block d of the larger; any other overlap is refused.
///
/// Errors, on every rank that can know: InvalidArgument (before anything is sent; the communicator stays
/// usable), Disagreement, Timeout, of which PeerGone is one (CPU, ranks as processes: a rank that is waited
/// for has ended). After the last two the communicator is failed: every later call throws the
/// same error. Symmetric buffers of the call that failed may still be written by ranks that were late, until
/// those have thrown, too: make a new communicator and new buffers. A communicator that was moved from can
/// only be destroyed or assigned to. On CUDA the last two are found by the kernels: later calls throw them,
/// and check() does; kernels already on the stream leave at once, and the results of the failed call and of
/// those are undefined. The CUDA context survives.
class Communicator {
 public:
  /// Collective over the bootstrap's ranks, which must agree on the options. The bootstrap must outlive this.
  /// Every rank succeeds, or every rank throws: InvalidArgument (also for a tuning table that is not for this
  /// machine, grid and backend), Unsupported, Disagreement, SystemError, Timeout.
  Communicator(Bootstrap& bootstrap, const CommunicatorOptions& options);
  ~Communicator();
  Communicator(Communicator&&) noexcept;
  Communicator& operator=(Communicator&&) noexcept;

  [[nodiscard]] const Grid& grid() const;
  /// With defaults filled in, the CUDA device among them (-1 on CPU).
  [[nodiscard]] const CommunicatorOptions& options() const;

  /// CUDA: how the ranks' GPUs reach each other; shared on CPU.
  [[nodiscard]] Link link() const;

  /// Throws the failure of this communicator, if there is one. On CUDA: what its kernels have found so far;
  /// synchronize the stream first to know about all calls made.
  void check() const;

  /// Collective: symmetric memory of `bytes` on each rank, zeroed, 4096-byte aligned. Throws Disagreement if
  /// ranks ask for different sizes, InvalidArgument for one that cannot be, SystemError if there is not
  /// enough.
  [[nodiscard]] SymmetricBuffer allocate(std::size_t bytes);

  /// CUDA, collective over all ranks, whatever the team: lanes for kernels of the caller's own, which send,
  /// wait and fail as the library's operations do (mixcomm/device/lanes.hpp; docs/device.md). Takes device
  /// memory: ten areas, and 200 KiB. Every rank succeeds, or every rank throws: Unsupported on CPU,
  /// InvalidArgument for a number of lanes or bytes that cannot be, Disagreement, CudaError if there is not
  /// enough.
  [[nodiscard]] DeviceLanes device_lanes(const DeviceLanesOptions& options);

  /// Collective: gives the memory behind this communicator and behind all that allocate() gave out back to
  /// the system, and keeps every address. Until resume() operations, copies and allocate() throw
  /// InvalidArgument; nobody may touch the buffers, nor replay a graph that uses them (on CUDA that is an
  /// illegal access; on CPU it takes memory again). Waits for all work on this rank's device. Paused already:
  /// does nothing. Throws Unsupported, and nothing has happened, with CudaOptions::nccl_windows, whose memory
  /// cannot come again where it was; and the communicator's failure; any other error fails the communicator.
  void pause();

  /// Collective: new memory at the same addresses, so that CUDA graphs captured before can be replayed at
  /// once. Buffers are zeroed, as when they were new: what was in them is lost. Buffers released since
  /// pause() stay so. Not paused: does nothing. Throws on every rank or on none (CudaError if there is not
  /// enough, Timeout); then it is still paused, and may be tried again.
  void resume();

  [[nodiscard]] bool paused() const;

  /// out = sum over t of in@(t, d), elementwise; in, out: n rows, n may differ between DP ranks. TP ranks of
  /// one DP rank pass the same n.
  void all_reduce(ConstTensor in, Tensor out, CallOptions options = {});

  /// out block d = in@(t, d); in: rows[d], out: sum(rows).
  void all_gather(ConstTensor in, Tensor out, RowCounts rows, CallOptions options = {});

  /// out = sum over d' of block d of in@(t, d'); in: sum(rows), out: rows[d].
  void reduce_scatter(ConstTensor in, Tensor out, RowCounts rows, CallOptions options = {});

  /// out block d = sum over t of in@(t, d); in: rows[d], partial over tp; out: sum(rows), the same on every
  /// rank.
  void all_reduce_all_gather(ConstTensor in, Tensor out, RowCounts rows, CallOptions options = {});

  /// out = sum over d' of (sum over t of block d of in@(t, d')); in: sum(rows), partial over the world; out:
  /// rows[d].
  void reduce_scatter_all_reduce(ConstTensor in, Tensor out, RowCounts rows, CallOptions options = {});

  /// The operation named by a value; `rows` is ignored by all_reduce.
  void run(Op op, ConstTensor in, Tensor out, RowCounts rows, CallOptions options = {});

  /// Local work between operations, in their order; nothing is sent and no other rank must call. `from` and
  /// `to` must not overlap.
  void copy(const RowCopy& copy, CallOptions options = {});
  /// Sets all elements to 0.
  void clear(Tensor tensor, CallOptions options = {});
  /// options.epilogue by itself, on tensors where this communicator's are: see mixcomm::apply().
  void apply(ConstTensor in, Tensor out, CallOptions options);

 private:
  struct State;
  struct CallRun;
  std::unique_ptr<State> state_;
};

}  // namespace mixcomm
