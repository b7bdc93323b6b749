#define MIXCOMM_ISA avx512
#include "cpu/kernels_body.hpp"  // NOLINT(misc-include-cleaner)
