#define MIXCOMM_ISA avx2
#include "cpu/kernels_body.hpp"  // NOLINT(misc-include-cleaner)
