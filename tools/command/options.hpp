// Flags that several subcommands have, and how their values are read.
#pragma once

#include <fmt/format.h>

#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "measure/grid_size.hpp"
#include "measure/split.hpp"
#include "mixcomm/mixcomm.hpp"
#include "tools/command/command.hpp"

namespace mixcomm::tools {

/// A flag whose value is a name, read by one of the library's *_from_name functions.
template <class T>
Flag add_named(Flags& flags, const std::string& names, T& value, T (*from_name)(std::string_view),
               const std::string& help) {
  return flags.value(names, "NAME", help,
                     [&value, from_name](const std::string& text) { value = from_name(text); });
}

/// A flag whose value is `all`, or names with commas in between.
template <class T>
struct NamesFlag {
  std::string flag;
  std::string help;
  T (*from_name)(std::string_view);
  std::vector<T> all;  ///< what `all` means
};

template <class T>
Flag add_names(Flags& flags, const NamesFlag<T>& names, std::vector<T>& values) {
  return flags.value(names.flag, "NAME,...|all", names.help, [names, &values](const std::string& text) {
    values.clear();
    if (text == "all") {
      values = names.all;
      return;
    }
    for (const std::string& name : split(text)) try {
        values.push_back(names.from_name(name));
      } catch (const InvalidArgument& error) {
        throw InvalidArgument(fmt::format("{}; or: all", error.what()));
      }
  });
}

/// --op and --algorithm, as several subcommands have them.
[[nodiscard]] NamesFlag<Op> op_flag();
[[nodiscard]] NamesFlag<Algorithm> algorithms_flag();

inline constexpr int most_rows = 1 << 24;

/// How ranks are started, and how long they wait.
struct RankFlags {
  bool processes = false;
  double timeout_s = 30;
  [[nodiscard]] Milliseconds timeout() const;
};
void add_rank_flags(Flags& flags, RankFlags& values);

/// --rows 1,4,16 (a sweep of equal counts per DP rank), or --uneven 3,0,5 (one count per DP rank).
struct RowFlags {
  std::vector<std::size_t> equal;
  std::vector<std::size_t> uneven;

  /// One list of counts per DP rank for each point of the sweep. Throws InvalidArgument if --uneven has
  /// another number of counts than there are DP ranks.
  [[nodiscard]] std::vector<std::vector<std::size_t>> per_dp_rank(int dp) const;
};
void add_row_flags(Flags& flags, RowFlags& values);

/// tp * dp, if that many ranks can be. Throws InvalidArgument.
[[nodiscard]] int world_of(int tp, int dp, int most = max_ranks);

/// The grids of --grids 4x2,2x4. Throws InvalidArgument for what is none.
[[nodiscard]] std::vector<GridSize> grids_from_texts(const std::vector<std::string>& texts);
/// --grids, which excludes those.
void add_grids_flag(Flags& flags, std::vector<std::string>& texts, std::initializer_list<Flag> excluded);

}  // namespace mixcomm::tools
