#define MIXCOMM_ISA baseline
#include "cpu/kernels_body.hpp"  // NOLINT(misc-include-cleaner)
