// The symmetric memory that a backend has given out, and which addresses lie in it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "backend.hpp"

namespace mixcomm {

/// `Where`: what tells a backend where the other ranks' slices of an allocation are.
template <class Where>
class Allocations {
 public:
  struct Entry {
    std::weak_ptr<void> owner;
    const std::byte* mine = nullptr;  ///< this rank's slice
    std::size_t bytes = 0;
    Where where;
    std::uint64_t id = 0;
  };

  /// Every rank adds the same allocations in the same order, so that they have the same numbers.
  SymmetricMemory add(std::shared_ptr<void> owner, std::byte* mine, std::size_t bytes, const Where& where) {
    std::erase_if(entries_, [](const Entry& entry) { return entry.owner.expired(); });
    entries_.push_back({owner, mine, bytes, where, ++added_});
    return {std::move(owner), mine};
  }

  /// The allocation that place() has found, or null for a plain buffer.
  [[nodiscard]] const Entry* of(const Placement& placement) const {
    if (placement.kind == Placement::Kind::plain) return nullptr;
    for (const Entry& entry : entries_)
      if (entry.id == placement.allocation && !entry.owner.expired()) return &entry;
    return nullptr;
  }

  /// Those that this rank has not released.
  [[nodiscard]] std::vector<Entry> living() const {
    std::vector<Entry> living = entries_;
    std::erase_if(living, [](const Entry& entry) { return entry.owner.expired(); });
    return living;
  }

  /// Where [data, data + bytes) lies.
  [[nodiscard]] Placement place(const void* data, std::size_t bytes) const {
    const auto* begin = static_cast<const std::byte*>(data);
    for (const Entry& entry : entries_)
      if (begin >= entry.mine && bytes <= entry.bytes &&
          begin - entry.mine <= static_cast<std::ptrdiff_t>(entry.bytes - bytes) && !entry.owner.expired())
        return {Placement::Kind::symmetric, entry.id, static_cast<std::uint64_t>(begin - entry.mine)};
    return {};
  }

 private:
  std::vector<Entry> entries_;
  std::uint64_t added_ = 0;
};

}  // namespace mixcomm
