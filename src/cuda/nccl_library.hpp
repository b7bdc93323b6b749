// NCCL, as this process has it: nothing here links libnccl.
#pragma once

#include <nccl.h>
#include <nccl_device.h>

#include <string>

#include "mixcomm/bootstrap.hpp"

namespace mixcomm::cuda {

/// The functions in use. A ncclComm_t belongs to the copy of NCCL that made it, so they are looked up in what
/// the process has loaded already: first what is visible to all (linked, or opened with RTLD_GLOBAL), then
/// libnccl.so.2.
struct NcclLibrary {
  int version;  ///< 22809 is 2.28.9
  decltype(&ncclGetErrorString) get_error_string;
  decltype(&ncclGetLastError) get_last_error;
  decltype(&ncclCommGetAsyncError) comm_get_async_error;
  decltype(&ncclCommCount) comm_count;
  decltype(&ncclCommUserRank) comm_user_rank;
  decltype(&ncclCommCuDevice) comm_cu_device;
  decltype(&ncclCommSplit) comm_split;
  decltype(&ncclCommDestroy) comm_destroy;
  decltype(&ncclCommAbort) comm_abort;
  decltype(&ncclGetUniqueId) get_unique_id;
  decltype(&ncclCommInitRankConfig) comm_init_rank_config;
  decltype(&ncclGroupStart) group_start;
  decltype(&ncclGroupEnd) group_end;
  decltype(&ncclAllReduce) all_reduce;
  decltype(&ncclAllGather) all_gather;
  decltype(&ncclReduceScatter) reduce_scatter;
  decltype(&ncclBroadcast) broadcast;
  decltype(&ncclReduce) reduce;
  decltype(&ncclSend) send;
  decltype(&ncclRecv) recv;
  decltype(&ncclMemAlloc) mem_alloc;
  decltype(&ncclMemFree) mem_free;
  // Null in an NCCL before 2.28.
  decltype(&ncclCommWindowRegister) comm_window_register;
  decltype(&ncclCommWindowDeregister) comm_window_deregister;
  ncclTeam_t (*team_lsa)(ncclComm_t);
  // Null in an NCCL before 2.29.
  ncclResult_t (*get_lsa_device_pointer)(ncclWindow_t window, std::size_t offset, int lsa_rank,
                                         void** pointer);
};

/// Throws Unsupported where no NCCL is loaded, or one before 2.19, which lacks some of these.
[[nodiscard]] const NcclLibrary& nccl_library();

/// Loads libnccl.so.2 unless an NCCL is loaded, for communicators that are made here. Throws Unsupported
/// where there is none.
void load_nccl();

/// "2.28.9"
[[nodiscard]] std::string nccl_version_text(int version);

/// Throws CudaError with NCCL's own words unless `result` is success. `comm` may be null.
void check(ncclResult_t result, ncclComm_t comm, const std::string& what);

/// The same for a call on a communicator that may be a non-blocking one, whose calls go on in the background:
/// waits for their end. Throws Timeout, too.
void finish(ncclResult_t result, ncclComm_t comm, const std::string& what, Milliseconds timeout);

/// Throws InvalidArgument unless `comm` has `ranks` ranks, and this one is `rank`, on `device`; CudaError,
/// Timeout.
void check_members(ncclComm_t comm, int ranks, int rank, int device, Milliseconds timeout);

}  // namespace mixcomm::cuda
