// Marks functions that algorithms call on the host and on a GPU.
#pragma once

#if defined(__CUDACC__)
#define MIXCOMM_HD __host__ __device__
#else
#define MIXCOMM_HD
#endif
