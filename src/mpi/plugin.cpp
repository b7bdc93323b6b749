// The library that is built for one MPI: MPI's functions behind table.h, and nothing else.
#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <thread>

#include "mpi/table.h"

namespace {

static_assert(sizeof(MPI_Comm) <= sizeof(mixcomm_mpi_handle) &&
              sizeof(MPI_Request) <= sizeof(mixcomm_mpi_handle));

// MPI calls from several threads, one at a time, are all that this needs.
constexpr int wanted_threads = MPI_THREAD_SERIALIZED;
constexpr double end_within_s = 10.0;

std::atomic<bool> abandoned{false};

template <class T>
mixcomm_mpi_handle wrap(const T& value) {
  mixcomm_mpi_handle handle{};
  std::memcpy(&handle.word, &value, sizeof(value));
  return handle;
}
template <class T>
T unwrap(const mixcomm_mpi_handle& handle) {
  T value;
  std::memcpy(&value, &handle.word, sizeof(value));
  return value;
}
MPI_Comm comm_of(const mixcomm_mpi_handle& handle) {
  return unwrap<MPI_Comm>(handle);
}

void copy_text(const char* from, char* text, size_t room) {
  if (room == 0) return;
  const size_t n = std::min(std::strlen(from), room - 1);
  std::memcpy(text, from, n);
  text[n] = '\0';
}

/// Whether all ranks come to this within `end_within_s`.
bool all_come() {
  MPI_Request all = MPI_REQUEST_NULL;
  if (MPI_Ibarrier(MPI_COMM_WORLD, &all) != MPI_SUCCESS) return false;
  const double until = MPI_Wtime() + end_within_s;
  for (int come = 0; come == 0;) {
    if (MPI_Test(&all, &come, MPI_STATUS_IGNORE) != MPI_SUCCESS) return false;
    if (come == 0 && MPI_Wtime() > until) return false;
    const timespec pause{0, 100'000};
    if (come == 0) nanosleep(&pause, nullptr);
  }
  return true;
}

/// Ends the process with that status unless MPI does so before.
void limit_end(int status) {
  std::thread([status] {
    std::this_thread::sleep_for(std::chrono::seconds(10));
    _exit(status);
  }).detach();
}

/// At exit. MPI_Finalize() waits for all ranks: so first it is seen whether they all come. Even so MPICH over
/// UCX was seen to wait without end (4.0.2, over TCP): so there is an end to it.
void end(int status, void* /*unused*/) {
  int ended = 0;
  if (abandoned.load() || MPI_Finalized(&ended) != MPI_SUCCESS || ended != 0) return;
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  if (!all_come()) return;
  std::fflush(nullptr);
  limit_end(status);
  MPI_Finalize();
}

void library(char* text, size_t room) {
  char version[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  MPI_Get_library_version(version, &length);
  if (char* line = std::strchr(version, '\n')) *line = '\0';
  copy_text(version, text, room);
}

void describe(int code, char* text, size_t room) {
  char words[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  if (MPI_Error_string(code, words, &length) != MPI_SUCCESS) copy_text("unknown error", words, sizeof(words));
  copy_text(words, text, room);
}

int start(int* ours) {
  *ours = 0;
  int there = 0;
  if (const int code = MPI_Initialized(&there); code != MPI_SUCCESS || there != 0) return code;
  int threads = 0;
  if (const int code = MPI_Init_thread(nullptr, nullptr, wanted_threads, &threads); code != MPI_SUCCESS)
    return code;
  *ours = 1;
  on_exit(end, nullptr);
  return MPI_SUCCESS;
}

void abandon() {
  abandoned.store(true);
}

mixcomm_mpi_handle world() {
  return wrap(MPI_COMM_WORLD);
}

mixcomm_mpi_handle comm_at(const void* address) {
  MPI_Comm comm = MPI_COMM_NULL;
  std::memcpy(&comm, address, sizeof(comm));
  return wrap(comm);
}

int members(mixcomm_mpi_handle comm, int* rank, int* size) {
  if (const int code = MPI_Comm_rank(comm_of(comm), rank); code != MPI_SUCCESS) return code;
  return MPI_Comm_size(comm_of(comm), size);
}

int most_tag(mixcomm_mpi_handle /*comm*/, int* tag) {
  void* value = nullptr;
  int there = 0;
  const int code = MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, static_cast<void*>(&value), &there);
  *tag = code == MPI_SUCCESS && there != 0 ? *static_cast<int*>(value) : 32767;
  return code;
}

int begin_copy(mixcomm_mpi_handle comm, void** copy, mixcomm_mpi_handle* request) {
  auto* place = new MPI_Comm(MPI_COMM_NULL);  // MPI writes to it when the request is complete
  *copy = place;
  MPI_Request begun = MPI_REQUEST_NULL;
  const int code = MPI_Comm_idup(comm_of(comm), place, &begun);
  *request = wrap(begun);
  return code;
}

mixcomm_mpi_handle copied(void* copy) {
  auto* place = static_cast<MPI_Comm*>(copy);
  MPI_Comm_set_errhandler(*place, MPI_ERRORS_RETURN);
  const mixcomm_mpi_handle comm = wrap(*place);
  delete place;
  return comm;
}

void free_comm(mixcomm_mpi_handle* comm) {
  int ended = 0;
  MPI_Comm own = comm_of(*comm);
  if (MPI_Finalized(&ended) == MPI_SUCCESS && ended == 0 && own != MPI_COMM_NULL) MPI_Comm_free(&own);
  *comm = wrap(MPI_COMM_NULL);
}

int first_of_host(mixcomm_mpi_handle comm, int* rank) {
  int mine = 0;
  MPI_Comm_rank(comm_of(comm), &mine);
  MPI_Comm host = MPI_COMM_NULL;
  int code = MPI_Comm_split_type(comm_of(comm), MPI_COMM_TYPE_SHARED, mine, MPI_INFO_NULL, &host);
  if (code != MPI_SUCCESS) return code;
  MPI_Group all = MPI_GROUP_NULL;
  MPI_Group here = MPI_GROUP_NULL;
  MPI_Comm_group(comm_of(comm), &all);
  MPI_Comm_group(host, &here);
  const int zero = 0;  // ranks of the part are in the order of `mine`
  code = MPI_Group_translate_ranks(here, 1, &zero, all, rank);
  MPI_Group_free(&all);
  MPI_Group_free(&here);
  MPI_Comm_free(&host);
  return code;
}

void processor_name(char* text, size_t room) {
  char name[MPI_MAX_PROCESSOR_NAME] = {};
  int length = 0;
  MPI_Get_processor_name(name, &length);
  copy_text(name, text, room);
}

int send(mixcomm_mpi_handle comm, int to, int tag, const void* data, size_t bytes,
         mixcomm_mpi_handle* request) {
  if (bytes > INT_MAX) return MPI_ERR_COUNT;
  MPI_Request begun = MPI_REQUEST_NULL;
  const int code = MPI_Isend(data, static_cast<int>(bytes), MPI_BYTE, to, tag, comm_of(comm), &begun);
  *request = wrap(begun);
  return code;
}

int receive(mixcomm_mpi_handle comm, int from, int tag, void* data, size_t room,
            mixcomm_mpi_handle* request) {
  if (room > INT_MAX) return MPI_ERR_COUNT;
  MPI_Request begun = MPI_REQUEST_NULL;
  const int code = MPI_Irecv(data, static_cast<int>(room), MPI_BYTE, from, tag, comm_of(comm), &begun);
  *request = wrap(begun);
  return code;
}

size_t bytes_of(const MPI_Status& status) {
  int count = 0;
  MPI_Get_count(&status, MPI_BYTE, &count);
  return count > 0 ? static_cast<size_t>(count) : 0;
}

int test(mixcomm_mpi_handle* request, int* done, size_t* bytes) {
  auto own = unwrap<MPI_Request>(*request);
  MPI_Status status;
  const int code = MPI_Test(&own, done, &status);
  *request = wrap(own);
  if (code == MPI_SUCCESS && *done != 0) *bytes = bytes_of(status);
  return code;
}

int probe(mixcomm_mpi_handle comm, int tag, int* found, int* from) {
  MPI_Status status;
  const int code = MPI_Iprobe(MPI_ANY_SOURCE, tag, comm_of(comm), found, &status);
  if (code == MPI_SUCCESS && *found != 0) *from = status.MPI_SOURCE;
  return code;
}

constexpr mixcomm_mpi_table table{.table = MIXCOMM_MPI_TABLE,
                                  .comm_size = sizeof(MPI_Comm),
                                  .library = library,
                                  .describe = describe,
                                  .start = start,
                                  .abandon = abandon,
                                  .world = world,
                                  .comm_at = comm_at,
                                  .members = members,
                                  .most_tag = most_tag,
                                  .begin_copy = begin_copy,
                                  .copied = copied,
                                  .free_comm = free_comm,
                                  .first_of_host = first_of_host,
                                  .processor_name = processor_name,
                                  .send = send,
                                  .receive = receive,
                                  .test = test,
                                  .probe = probe};

}  // namespace

extern "C" [[gnu::visibility("default")]] const mixcomm_mpi_table* mixcomm_mpi() {
  return &table;
}
