#define MIXCOMM_ISA avx512_bf16
#include "cpu/kernels_body.hpp"  // NOLINT(misc-include-cleaner)
