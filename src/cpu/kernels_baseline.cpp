#define MIXCOMM_ISA baseline
#include "cpu/epilogue_body.hpp"  // NOLINT(misc-include-cleaner)
