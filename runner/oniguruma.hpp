// Patterns of tokenizer.json are Oniguruma's; here they run in PCRE2.
#pragma once

#include <string>
#include <string_view>

namespace mixcomm::runner {

/// The PCRE2 pattern (UTF, UCP, multiline) that matches what `pattern` matches in Oniguruma's Ruby syntax.
/// Throws InvalidArgument, with the construct, for those that the two read differently and that are not
/// translated: rather no tokenizer than one that splits differently.
[[nodiscard]] std::string pcre2_from_oniguruma(std::string_view pattern);

}  // namespace mixcomm::runner
