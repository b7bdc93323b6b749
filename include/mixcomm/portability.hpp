// What differs between compilers, and between those that build the library and those that use it.
#pragma once

/// On the namespace of a public header: what it declares can be linked to. All else that the library defines
/// is hidden.
#define MIXCOMM_API [[gnu::visibility("default")]]

/// Marks functions that algorithms call on the host and on a GPU.

#if defined(__CUDACC__)
#define MIXCOMM_HD __host__ __device__
#else
#define MIXCOMM_HD
#endif

/// Before a loop of few turns: on a GPU its code shall not be repeated.
#if defined(__CUDA_ARCH__)
#define MIXCOMM_ROLLED _Pragma("unroll 1")
#else
#define MIXCOMM_ROLLED
#endif
