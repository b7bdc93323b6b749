// The rules of a call, checked before anything is sent.
#pragma once

#include "call.hpp"

namespace mixcomm {

/// Throws InvalidArgument with the values, the rule and the way out.
[[nodiscard]] CheckedCall check_call(Op op, const ConstTensor& in, const Tensor& out, const RowCounts& rows,
                                     const Grid& grid, const Epilogue& epilogue = {});

}  // namespace mixcomm
