// The rules of a call, checked before anything is sent.
#pragma once

#include "backend.hpp"
#include "mixcomm/communicator.hpp"

namespace mixcomm {

/// Arguments that keep the rules of their operation.
struct CheckedCall {
  ConstTensor in;
  Tensor out;
  RowCounts rows;
  Epilogue epilogue{};
};

/// Throws InvalidArgument with the values, the rule and the way out.
[[nodiscard]] CheckedCall check_call(Op op, const ConstTensor& in, const Tensor& out, const RowCounts& rows,
                                     const Grid& grid, const Epilogue& epilogue = {});

/// What the backend runs. The record's number is left to the caller.
[[nodiscard]] Call make_call(Op op, const CheckedCall& checked, Algorithm algorithm, const Grid& grid,
                             const Backend& backend, void* stream);

}  // namespace mixcomm
