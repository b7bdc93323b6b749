#define MIXCOMM_ISA avx2
#include "cpu/epilogue_body.hpp"  // NOLINT(misc-include-cleaner)
