// Marks functions that algorithms call on the host and on a GPU.
#pragma once

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
