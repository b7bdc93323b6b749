#include "runner/bpe.hpp"

#include <fmt/format.h>

#include <functional>
#include <optional>
#include <queue>
#include <tuple>

#include "mixcomm/error.hpp"
#include "runner/byte_level.hpp"
#include "runner/utf8.hpp"

namespace mixcomm::runner {
namespace {

constexpr std::size_t none = static_cast<std::size_t>(-1);

/// A token of the word so far. Doubly linked, so that a merge costs the same in long and short words.
struct Symbol {
  int id;
  std::size_t previous;
  std::size_t next;
  bool merged_away = false;
};

/// A merge that can be made, or could when it was queued. Least rank first, then from the left.
struct Candidate {
  std::uint32_t rank;
  std::size_t position;
  int id;  // of the result

  friend bool operator>(const Candidate& a, const Candidate& b) {
    return std::tie(a.rank, a.position) > std::tie(b.rank, b.position);
  }
};

std::uint64_t pair_key(int left, int right) {
  return (std::uint64_t{static_cast<std::uint32_t>(left)} << 32U) | static_cast<std::uint32_t>(right);
}

int id_of(const Vocabulary& vocabulary, const std::string& token) {
  const auto found = vocabulary.find(token);
  if (found == vocabulary.end()) {
    throw InvalidArgument(
        fmt::format("model.merges needs the token {}, which is not in model.vocab", in_quotes(token)));
  }
  return found->second;
}

}  // namespace

// splitmix64's finisher: std::hash leaves integers as they are, and ids that count up would share buckets.
std::size_t Bpe::PairHash::operator()(std::uint64_t pair) const {
  pair = (pair ^ (pair >> 30U)) * 0xBF58476D1CE4E5B9U;
  pair = (pair ^ (pair >> 27U)) * 0x94D049BB133111EBU;
  return pair ^ (pair >> 31U);
}

Bpe::Bpe(const BpeModel& model) {
  for (unsigned byte = 0; byte < 256; ++byte) {
    std::string character;
    append_utf8(character, byte_level_character(static_cast<unsigned char>(byte)));
    const auto found = model.vocabulary.find(character);
    byte_ids_[byte] = found == model.vocabulary.end() ? -1 : found->second;
  }
  merges_.reserve(model.merges.size());
  std::uint32_t rank = 0;
  for (const auto& [left, right] : model.merges) {
    const Merge merge{.rank = rank++, .id = id_of(model.vocabulary, left + right)};
    merges_.insert_or_assign(pair_key(id_of(model.vocabulary, left), id_of(model.vocabulary, right)), merge);
  }
  if (model.ignore_merges) {
    for (const auto& [token, id] : model.vocabulary) {
      if (auto bytes = byte_level_bytes(token)) words_.emplace(std::move(*bytes), id);
    }
  }
}

const Bpe::Merge* Bpe::find_merge(int left, int right) const {
  const auto found = merges_.find(pair_key(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

void Bpe::encode(std::string_view word, std::vector<int>& ids) const {
  if (const auto whole = words_.find(word); whole != words_.end()) {
    ids.push_back(whole->second);
    return;
  }

  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  for (const char c : word) {
    const int id = byte_ids_[static_cast<unsigned char>(c)];
    if (id < 0) continue;
    const std::size_t at = symbols.size();
    symbols.push_back({.id = id, .previous = at == 0 ? none : at - 1, .next = at + 1});
  }
  if (symbols.empty()) return;
  symbols.back().next = none;

  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto consider = [&](std::size_t left) {
    if (left == none || symbols[left].next == none) return;
    if (const Merge* merge = find_merge(symbols[left].id, symbols[symbols[left].next].id)) {
      queue.push({.rank = merge->rank, .position = left, .id = merge->id});
    }
  };
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i) consider(i);

  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.position];
    if (left.merged_away || left.next == none) continue;
    Symbol& right = symbols[left.next];
    // The neighbours may have changed since. Whether the pair still gives the same token is the test that
    // `tokenizers` makes.
    const Merge* merge = find_merge(left.id, right.id);
    if (merge == nullptr || merge->id != best.id) continue;

    left.id = best.id;
    right.merged_away = true;
    left.next = right.next;
    if (left.next != none) symbols[left.next].previous = best.position;
    consider(left.previous);
    consider(best.position);
  }
  for (std::size_t i = 0; i != none; i = symbols[i].next) ids.push_back(symbols[i].id);
}

}  // namespace mixcomm::runner
