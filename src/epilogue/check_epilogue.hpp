// The rules of an epilogue, checked before anything is sent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "mixcomm/epilogue.hpp"

namespace mixcomm {

/// What an epilogue is passed with. All but `own_rows` are the same on all ranks.
struct EpilogueCall {
  std::string_view what;  ///< the operation, for errors
  ConstTensor in;
  Tensor out;
  std::size_t own_rows = 0;  ///< that residual and residual_out have
};

/// Throws InvalidArgument with the values, the rule and the way out.
void check_epilogue(const Epilogue& epilogue, const EpilogueCall& call);

/// The same for apply().
void check_apply(const Epilogue& epilogue, const ConstTensor& in, const Tensor& out);

/// All that ranks must share of an epilogue, in one word; 0 for none.
[[nodiscard]] std::uint64_t record_of(const Epilogue& epilogue);
/// "add, rms_norm (eps 1e-06), per_token" of such a word.
[[nodiscard]] std::string describe_epilogue(std::uint64_t record);

}  // namespace mixcomm
