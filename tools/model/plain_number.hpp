// Decimal numbers in text, as answers of word problems have them.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace mixcomm::tools {

/// All three give a number in its one shortest form ("-12.5"), so that equal numbers are equal texts, exactly
/// and at any length. A number is: a sign ("-", "+", U+2212) and a currency sign ($, U+00A3, U+20AC), each or
/// none; digits, with a comma before each group of three or none at all; a fraction or none.

/// The number that `text` is, blanks around it and a full stop behind it aside; nothing for anything else:
/// "6/7", "6e3", "6:30", "6 1/2", "6,5", "six".
[[nodiscard]] std::optional<std::string> plain_number(std::string_view text);

/// The number behind the last "####" of a model's text. Words may follow it, but nothing that makes it
/// another number: "#### 6 apples." is 6; "#### 6/7", "#### 6e3", "#### 6:30", "#### 6 1/2" and "#### 6, 7"
/// are none.
[[nodiscard]] std::optional<std::string> marked_number(std::string_view text);

/// The last number that stands anywhere in the text. "-" is a sign only where no word or number ends before
/// it.
[[nodiscard]] std::optional<std::string> last_number(std::string_view text);

}  // namespace mixcomm::tools
