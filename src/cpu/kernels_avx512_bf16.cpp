#define MIXCOMM_ISA avx512_bf16
#include "cpu/epilogue_body.hpp"  // NOLINT(misc-include-cleaner)
