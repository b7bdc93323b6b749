// Parts of a sum over DP ranks that lie on several hosts: plain arithmetic, the same on all ranks.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <vector>

namespace mixcomm {

/// DP ranks [first, first + count) whose sum is a node of the tree of neighbours over all of them.
struct Subtree {
  int first = 0;
  int count = 1;
  [[nodiscard]] int end() const { return first + count; }
  friend bool operator==(const Subtree&, const Subtree&) = default;
};

/// The fewest subtrees of the tree over `all` DP ranks that are [first, first + count), in their order. A
/// node begins at a multiple of a power of two, and has as many members, or ends where all do.
[[nodiscard]] inline std::vector<Subtree> subtrees_of(int first, int count, int all) {
  std::vector<Subtree> nodes;
  const int end = first + count;
  while (first < end) {
    int size = 1;
    while (first % (2 * size) == 0 && size < end - first && std::min(first + 2 * size, all) <= end) size *= 2;
    const Subtree node{first, std::min(size, all - first)};
    nodes.push_back(node);
    first = node.end();
  }
  return nodes;
}

/// Of `nodes` that are next to each other and together the whole tree: those whose own tree of neighbours, in
/// their order, is the whole sum. Where that is another tree, some are added up before, by add(some), which
/// leaves their sum, by their tree of neighbours, in the first of them.
template <class Add>
[[nodiscard]] std::vector<std::size_t> neighbours_of(const std::vector<Subtree>& nodes, const Add& add) {
  const auto as_one = [&](std::vector<std::size_t>& some) {
    if (some.size() > 1) add(some);
    some.resize(1);
  };
  // Of nodes [begin, end), which are below one node.
  const auto below = [&](std::size_t begin, std::size_t end, const auto& self) -> std::vector<std::size_t> {
    if (end - begin == 1) return {begin};
    const int first = nodes[begin].first;
    const auto members = static_cast<unsigned>(nodes[end - 1].end() - first);
    const int half = static_cast<int>(std::bit_floor(members - 1));
    std::size_t middle = begin;
    while (nodes[middle].first - first < half) ++middle;
    std::vector<std::size_t> left = self(begin, middle, self);
    std::vector<std::size_t> right = self(middle, end, self);
    if (left.size() != std::bit_floor(left.size() + right.size() - 1)) {
      as_one(left);
      as_one(right);
    }
    left.insert(left.end(), right.begin(), right.end());
    return left;
  };
  return below(0, nodes.size(), below);
}

}  // namespace mixcomm
