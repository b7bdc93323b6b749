#define MIXCOMM_ISA avx512
#include "cpu/epilogue_body.hpp"  // NOLINT(misc-include-cleaner)
