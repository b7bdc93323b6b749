/* What a small library that is built for one MPI gives to libmixcomm, which links none. C, so that the two
   may be built by different compilers. Functions return 0, or a code that describe() puts into words; none of
   them throws. */
#ifndef MIXCOMM_MPI_TABLE_H
#define MIXCOMM_MPI_TABLE_H

#include <stddef.h>
#include <stdint.h>

/* Raised whenever the struct changes: libraries of another number are refused. */
#define MIXCOMM_MPI_TABLE 1

/* An MPI_Comm or an MPI_Request, as large as the larger MPI's. */
typedef struct {
  uint64_t word;
} mixcomm_mpi_handle;

typedef struct {
  uint32_t table;     /* MIXCOMM_MPI_TABLE */
  uint32_t comm_size; /* sizeof(MPI_Comm) */

  /* "Open MPI v4.1.4, ..." */
  void (*library)(char* text, size_t room);
  void (*describe)(int code, char* text, size_t room);

  /* Initializes MPI unless it is; `ours` says whether this library did. It then also ends MPI, when the
     process exits, unless abandon() was called, and if all ranks come to that within 10 s. */
  int (*start)(int* ours);
  /* Something went wrong: MPI is not ended by this library, which would wait for all ranks. */
  void (*abandon)(void);

  /* MPI_COMM_WORLD, or *address, which is an MPI_Comm. */
  mixcomm_mpi_handle (*world)(void);
  mixcomm_mpi_handle (*comm_at)(const void* address);
  /* Rank and size. */
  int (*members)(mixcomm_mpi_handle comm, int* rank, int* size);
  /* The highest tag. */
  int (*most_tag)(mixcomm_mpi_handle comm, int* tag);
  /* Begins a copy of `comm`, of which errors return: it is there when `request` is complete. */
  int (*begin_copy)(mixcomm_mpi_handle comm, void** copy, mixcomm_mpi_handle* request);
  /* Once complete. */
  mixcomm_mpi_handle (*copied)(void* copy);
  void (*free_comm)(mixcomm_mpi_handle* comm);
  /* The lowest rank of those that share memory with this one (MPI_Comm_split_type). Collective, blocks. */
  int (*first_of_host)(mixcomm_mpi_handle comm, int* rank);
  void (*processor_name)(char* text, size_t room);

  int (*send)(mixcomm_mpi_handle comm, int to, int tag, const void* data, size_t bytes,
              mixcomm_mpi_handle* request);
  int (*receive)(mixcomm_mpi_handle comm, int from, int tag, void* data, size_t room,
                 mixcomm_mpi_handle* request);
  /* `done` 1 once it is complete; `bytes` are those received then. */
  int (*test)(mixcomm_mpi_handle* request, int* done, size_t* bytes);
  /* Whether a message with that tag is there, and whose. */
  int (*probe)(mixcomm_mpi_handle comm, int tag, int* found, int* from);
} mixcomm_mpi_table;

/* The one symbol of the library: mixcomm_mpi(). */
typedef const mixcomm_mpi_table* (*mixcomm_mpi_function)(void);

#endif
