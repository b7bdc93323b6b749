// How an activation lies on the ranks: which rows each has, and which named team still owes a sum.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "mixcomm/grid.hpp"
#include "mixcomm/parallelism.hpp"
#include "mixcomm/portability.hpp"

namespace MIXCOMM_API mixcomm {

/// The teams that a module's author knows. Every rank is in one team of each name.
enum class TeamName : std::uint8_t { attn_tp, attn_dp, moe_tp, moe_ep, mlp_tp, world };

[[nodiscard]] std::string_view name(TeamName team);

/// A set of named teams, as in "moe_tp x moe_ep".
class Teams {
 public:
  constexpr Teams() = default;
  constexpr Teams(TeamName team) : bits_(bit(team)) {}  // NOLINT(google-explicit-constructor)

  [[nodiscard]] constexpr bool empty() const { return bits_ == 0; }
  [[nodiscard]] constexpr bool has(TeamName team) const { return (bits_ & bit(team)) != 0; }
  friend constexpr Teams operator|(Teams a, Teams b) {
    a.bits_ = static_cast<std::uint8_t>(a.bits_ | b.bits_);
    return a;
  }
  friend constexpr bool operator==(Teams, Teams) = default;

 private:
  static constexpr std::uint8_t bit(TeamName team) {
    return static_cast<std::uint8_t>(1U << static_cast<unsigned>(team));
  }
  std::uint8_t bits_ = 0;
};

/// No sum is owed.
inline constexpr Teams complete{};

/// The value is the sum of what the members of these teams hold: partial_over(TeamName::moe_tp,
/// TeamName::moe_ep).
template <class... More>
[[nodiscard]] constexpr Teams partial_over(TeamName team, More... more) {
  return (Teams(team) | ... | Teams(more));
}

/// How rows are spread.
enum class Rows : std::uint8_t {
  replicated,   ///< every rank has the rows of all DP ranks, sum(rows)
  by_dp_rank,   ///< rank (t, d) has the rows of DP rank d, rows[d]
  scattered,    ///< rank (t, d) has part t of attn_tp of the rows of DP rank d
  by_mlp_team,  ///< the ranks of an mlp_tp team have the rows that are scattered over them
};

[[nodiscard]] std::string_view name(Rows rows);

/// How an activation lies on the ranks.
struct Layout {
  Rows rows = Rows::by_dp_rank;
  Teams owed = complete;  ///< whose members' values are still to be summed
  Teams
      columns{};  ///< whose members have a slice of the columns each (a vocabulary-sharded LM head); else all

  friend constexpr bool operator==(const Layout&, const Layout&) = default;
};

/// "rows replicated, partial over moe_tp x moe_ep"
[[nodiscard]] std::string to_string(const Layout& layout);

/// A kind of team, in numbers: the ranks that differ in rank / begin % (end / begin) alone. begin divides
/// end, and end divides the number of ranks. attn_tp is {1, attn_tp}, attn_dp {attn_tp, world}. No team: {1,
/// 1}.
struct Span {
  int begin = 1;
  int end = 1;

  [[nodiscard]] constexpr int size() const { return end / begin; }
  [[nodiscard]] constexpr bool empty() const { return begin == end; }
  [[nodiscard]] constexpr int member(int rank) const { return rank / begin % size(); }
  [[nodiscard]] constexpr Team team_of(int rank) const {
    return {rank - member(rank) * begin, begin, size(), member(rank)};
  }
  /// Whether each team of `inner` lies in one of these.
  [[nodiscard]] constexpr bool holds(Span inner) const {
    return inner.empty() || (!empty() && inner.begin % begin == 0 && end % inner.end == 0);
  }
  friend constexpr bool operator==(Span, Span) = default;
};

/// A layout in numbers. Rows are scattered over all ranks in rank order at first; `width` neighbours then
/// have each other's: 1 is scattered, attn_tp by DP rank, world replicated.
struct Spread {
  int width = 1;
  Span owed;
  Span columns;

  friend constexpr bool operator==(const Spread&, const Spread&) = default;
};

/// The teams as one kind of team. Teams of one rank are left out. Throws InvalidArgument where together they
/// are no team: they overlap (a rank would owe twice), or leave ranks out in between.
[[nodiscard]] Span span_of(Teams teams, const Parallelism& parallelism);

/// Throws InvalidArgument for a layout that cannot be: a sum (or columns) over ranks that have different
/// rows; a sum that is owed by column-wise slices.
[[nodiscard]] Spread spread_of(const Layout& layout, const Parallelism& parallelism);

/// "attn_tp", "moe_tp x moe_ep (world)", or "ranks 1, 3, 5, ... of 2" for a team without a name.
[[nodiscard]] std::string name_of(Span span, const Parallelism& parallelism);

/// Of ranks that have the same value of a sum that `inner` owes: whether this one brings it into the sum that
/// `outer` owes. One of each team of `outer` does that has the same member in `inner`. `outer` must hold
/// `inner`.
[[nodiscard]] constexpr bool brings(Span inner, Span outer, int rank) {
  if (inner.empty()) return outer.member(rank) == 0;
  return Span{outer.begin, inner.begin}.member(rank) == 0 && Span{inner.end, outer.end}.member(rank) == 0;
}

}  // namespace mixcomm
