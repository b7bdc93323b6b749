#include "runner/added_tokens.hpp"

#include <algorithm>

namespace mixcomm::runner {
namespace {

std::uint64_t step_key(std::uint32_t node, char byte) {
  return (std::uint64_t{node} << 8U) | static_cast<unsigned char>(byte);
}

}  // namespace

AddedTokenFinder::AddedTokenFinder() : ids_(1, -1) {}

void AddedTokenFinder::add(std::string_view content, int id) {
  std::uint32_t node = 0;
  for (const char byte : content) {
    std::uint32_t& next =
        node == 0 ? first_step_[static_cast<unsigned char>(byte)] : steps_[step_key(node, byte)];
    if (next == 0) {
      next = static_cast<std::uint32_t>(ids_.size());
      ids_.push_back(-1);
    }
    node = next;
  }
  if (ids_[node] < 0) ids_[node] = id;
}

AddedTokenFinder::Match AddedTokenFinder::longest_at(std::string_view text) const {
  Match best;
  std::uint32_t node = first_step_[static_cast<unsigned char>(text[0])];
  for (std::size_t i = 1; node != 0; ++i) {
    if (ids_[node] >= 0) best = {.length_bytes = i, .id = ids_[node]};
    if (i == text.size()) break;
    const auto next = steps_.find(step_key(node, text[i]));
    node = next == steps_.end() ? 0 : next->second;
  }
  return best;
}

std::vector<TextPart> AddedTokenFinder::split(std::string_view text) const {
  std::vector<TextPart> parts;
  std::size_t begin = 0;  // of what no token has taken yet
  for (std::size_t at = 0; at < text.size();) {
    const Match match = longest_at(text.substr(at));
    if (match.length_bytes == 0) {
      ++at;
      continue;
    }
    if (begin < at) parts.push_back({.text = text.substr(begin, at - begin), .id = std::nullopt});
    parts.push_back({.text = text.substr(at, match.length_bytes), .id = match.id});
    at += match.length_bytes;
    begin = at;
  }
  if (begin < text.size()) parts.push_back({.text = text.substr(begin), .id = std::nullopt});
  return parts;
}

}  // namespace mixcomm::runner
