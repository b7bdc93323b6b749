#include "measure/exchange_long.hpp"

#include <algorithm>
#include <charconv>

#include "bootstrap/socket.hpp"

namespace mixcomm::tools {

std::vector<std::string> exchange_long(Bootstrap& bootstrap, std::string_view step, std::string_view mine) {
  const std::size_t piece = max_exchange_bytes;
  std::size_t longest = 0;
  for (const std::string& text : bootstrap.exchange(step, std::to_string(mine.size()))) {
    std::size_t size = 0;
    std::from_chars(text.data(), text.data() + text.size(), size);
    longest = std::max(longest, size);
  }
  std::vector<std::string> all(static_cast<std::size_t>(bootstrap.world()));
  for (std::size_t begin = 0; begin < longest; begin += piece) {
    const auto pieces = bootstrap.exchange(step, mine.substr(std::min(begin, mine.size()), piece));
    for (std::size_t r = 0; r < all.size(); ++r) all[r] += pieces[r];
  }
  return all;
}

}  // namespace mixcomm::tools
