// Two levels. What is sent follows from where ranks are: see AcrossNodes and docs/plan.md.
#include "plan/across_nodes.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

namespace mixcomm {
namespace {

/// The operation as one of its teams runs it, and where these teams are.
struct Teams {
  Operation one;  ///< its tp, dp and stride are the team's
  int count = 1;

  [[nodiscard]] int ranks() const { return one.tp * one.dp; }
  /// Teams whose ranks lie between each other's begin side by side.
  [[nodiscard]] int first(int team) const {
    return team % one.stride + team / one.stride * (one.stride * ranks());
  }
};

Teams teams_of(const Operation& operation) {
  const Grid team = grid_of(Grid::of(operation.tp, operation.dp, 0), shape_of(operation.op).team);
  Teams teams{.one = operation};
  teams.one.tp = team.tp.size;
  teams.one.dp = team.dp.size;
  if (shape_of(operation.op).team == TeamKind::dp) teams.one.stride = operation.stride * operation.tp;
  const int grid = operation.stride * operation.tp * operation.dp;
  teams.count = std::max(operation.world, grid) / teams.ranks();
  return teams;
}

/// What of a team lies on one node.
struct NodePart {
  int node = 0;
  int members = 0;
  int groups = 0;    ///< TP groups of which it has ranks
  double home = 0;   ///< of all blocks: the part that is at home here. Of a group on several nodes each has a
                     ///< part of the block, as its ranks are of the group's
  double lacks = 0;  ///< of the groups' blocks: what is at home elsewhere
  double copies = 0;  ///< of what is at home here: what other nodes of its group have or need
  friend bool operator==(const NodePart&, const NodePart&) = default;
};

struct Team {
  std::vector<NodePart> parts;
  bool whole_groups = true;  ///< each TP group is on one node
};

/// Its ranks ascend, and so do their nodes.
Team team_at(int first, const Operation& o, int per_node) {
  Team team;
  for (int d = 0; d < o.dp; ++d) {
    std::vector<std::pair<int, int>> group;  // a node, and how many ranks it has of this one
    for (int t = 0; t < o.tp; ++t) {
      const int node = (first + o.stride * (d * o.tp + t)) / per_node;
      if (group.empty() || group.back().first != node) group.emplace_back(node, 0);
      ++group.back().second;
    }
    team.whole_groups = team.whole_groups && group.size() == 1;
    for (const auto& [node, members] : group) {
      if (team.parts.empty() || team.parts.back().node != node) team.parts.push_back({.node = node});
      NodePart& part = team.parts.back();
      const double share = static_cast<double>(members) / o.tp / o.dp;
      part.members += members;
      ++part.groups;
      part.home += share;
      part.lacks += 1.0 / o.dp - share;
      part.copies += static_cast<double>(group.size() - 1) * share;
    }
  }
  return team;
}

/// Of a node in one direction.
struct Traffic {
  double partial = 0;  ///< bytes
  double finished = 0;
  int ranks = 0;
};

using Traffics = std::vector<Traffic>;  ///< by node

class TwoLevels {
 public:
  TwoLevels(const Operation& operation, const CostModel& model, Algorithm algorithm)
      : op_(operation), model_(model), algorithm_(algorithm), teams_(teams_of(operation)) {}

  Prediction predict() {
    Traffics out(nodes());
    Traffics in(nodes());
    AcrossNodes& across = result_.across;
    std::vector<NodePart> last;
    for (int t = 0; t < teams_.count; ++t) {
      const Team team = team_at(teams_.first(t), teams_.one, model_.per_node);
      add_traffic(team, out, in);
      across.nodes = std::max(across.nodes, static_cast<int>(team.parts.size()));
      whole_ = whole_ && team.whole_groups;
      std::vector<NodePart> shape = team.parts;
      for (NodePart& each : shape) each.node = 0;
      if (std::exchange(last, shape) != shape) inside(team);
    }
    between(out, in);
    across.whole_groups = whole_;
    across.not_yet = not_yet();
    across.before = before_.text();
    across.before_us = before_.cost.us;
    across.after = after_.text();
    across.after_us = after_.cost.us;
    result_.algorithm = (before_.cost.us > 0 ? before_ : after_).cost.algorithm;
    result_.waits = before_.cost.waits + hops_ + after_.cost.waits;
    result_.bytes_per_rank = before_.cost.bytes_per_rank + received_ + after_.cost.bytes_per_rank;
    result_.us = across.before_us + across.us + across.after_us;
    return result_;
  }

 private:
  [[nodiscard]] bool gathers() const { return shape_of(op_.op).body == Body::gather; }
  [[nodiscard]] std::size_t nodes() const {
    const int last = (teams_.count * teams_.ranks() - 1) / model_.per_node;
    return static_cast<std::size_t>(last) + 1;
  }
  [[nodiscard]] double bytes() const { return static_cast<double>(op_.bytes); }

  void add_traffic(const Team& team, Traffics& out, Traffics& in) const {
    const double f32 = 4.0 / static_cast<double>(size_of(op_.dtype));
    const auto others = static_cast<double>(team.parts.size() - 1);
    for (const NodePart& part : team.parts) {
      Traffic& sent = out[static_cast<std::size_t>(part.node)];
      Traffic& received = in[static_cast<std::size_t>(part.node)];
      sent.ranks += part.members;
      received.ranks += part.members;
      if (gathers()) {
        sent.partial += part.lacks * bytes() * f32;
        received.partial += part.copies * bytes() * f32;
        sent.finished += others * part.home * bytes();
        received.finished += (1 - part.home) * bytes();
      } else {
        sent.partial += (1 - part.home) * bytes() * f32;
        received.partial += others * part.home * bytes() * f32;
        sent.finished += part.copies * bytes();
        received.finished += part.lacks * bytes();
      }
    }
  }

  /// Nodes that are alike, and how many there are.
  using Kinds = std::vector<std::pair<NodePart, int>>;

  /// A part of the operation within a node: `count` operations on `tp` x `dp` of its ranks.
  struct Inside {
    Prediction cost{};
    Op op = Op::all_gather;
    int tp = 1;
    int dp = 1;
    int count = 1;
    void add(int times, const Inside& other) {
      cost.algorithm = other.cost.algorithm;
      cost.us += times * other.cost.us;
      cost.waits += times * other.cost.waits;
      cost.bytes_per_rank += times * other.cost.bytes_per_rank;
    }
    void keep_longer(const Inside& other) {
      if (other.cost.us > cost.us) *this = other;
    }
    [[nodiscard]] std::string text() const {
      if (cost.us == 0) return "";
      if (count == 1) return fmt::format("{} on {}x{}", name(op), tp, dp);
      return fmt::format("{} {}s on {}x{}, one for each {}node", count, name(op), tp, dp,
                         op == Op::all_gather ? "other " : "");
    }
  };

  /// What the nodes of a team do within them, of the team that it takes longest. Most are alike.
  void inside(const Team& team) {
    Kinds kinds;
    for (NodePart part : team.parts) {
      part.node = 0;
      const auto same = std::ranges::find(kinds, part, &std::pair<NodePart, int>::first);
      if (same == kinds.end())
        kinds.emplace_back(part, 1);
      else
        ++same->second;
    }
    Inside first;
    Inside last;
    for (const auto& [part, count] : kinds) {
      first.keep_longer(before(part, kinds, team));
      last.keep_longer(after(part, kinds, team));
    }
    if (first.cost.us + last.cost.us <= before_.cost.us + after_.cost.us) return;
    before_ = first;
    after_ = last;
  }

  [[nodiscard]] Inside before(const NodePart& part, const Kinds& kinds, const Team& team) const {
    const Operation& one = teams_.one;
    const double block = bytes() / one.dp;
    if (gathers() && team.whole_groups) return here(op_.op, one.tp, part.groups, block * part.groups);
    // Groups on several nodes are no schedule yet: taken as one sum.
    if (!team.whole_groups && gathers())
      return here(Op::reduce_scatter, 1, std::min(part.members, one.tp), block * part.groups);
    if (!team.whole_groups) return here(Op::reduce_scatter, 1, part.members, bytes());
    Inside all{.op = Op::reduce_scatter, .dp = part.members, .count = static_cast<int>(team.parts.size())};
    for (const auto& [other, count] : kinds)
      all.add(count, here(Op::reduce_scatter, 1, part.members, other.home * bytes(), Algorithm::one_shot));
    return all;
  }

  [[nodiscard]] Inside after(const NodePart& part, const Kinds& kinds, const Team& team) const {
    const Operation& one = teams_.one;
    // What each rank of a TP group has finished of its block.
    if (!gathers()) return here(Op::all_gather, 1, one.tp, bytes() / one.dp);
    if (!team.whole_groups) return here(Op::all_gather, 1, part.members, bytes());
    Inside all{.dp = part.members, .count = static_cast<int>(team.parts.size()) - 1};
    for (const auto& [other, count] : kinds)
      all.add(other == part ? count - 1 : count, here(Op::all_gather, 1, part.members, other.home * bytes()));
    return all;
  }

  void between(const Traffics& out, const Traffics& in) {
    AcrossNodes& across = result_.across;
    double bytes_us = 0;
    bool partial = false;
    bool finished = false;
    for (const auto* direction : {&out, &in})
      for (const Traffic& traffic : *direction) {
        if (traffic.ranks == 0) continue;
        const double all = traffic.partial + traffic.finished;
        const int nics =
            model_.nics_per_node == 0 ? traffic.ranks : std::min(model_.nics_per_node, traffic.ranks);
        const double rank = all / traffic.ranks;
        partial = partial || traffic.partial > 0;
        finished = finished || traffic.finished > 0;
        bytes_us = std::max(bytes_us, all / nics / (model_.network.gbps * 1000));
        across.bytes_per_rank = std::max(across.bytes_per_rank, rank);
        across.bytes_per_node = std::max(across.bytes_per_node, all);
        across.partial_bytes_per_node = std::max(across.partial_bytes_per_node, traffic.partial);
        if (direction == &in) received_ = std::max(received_, rank);
      }
    hops_ = (partial ? 1 : 0) + (finished ? 1 : 0);
    across.messages = hops_ * (across.nodes - 1);
    across.us = hops_ * model_.network.wait_us + bytes_us + 2 * across.messages * model_.network.call_us;
  }

  [[nodiscard]] std::string not_yet() const {
    if (!whole_) return "a TP group on several nodes";
    return "";
  }

  [[nodiscard]] Inside here(Op op, int tp, int dp, double bytes) const {
    return here(op, tp, dp, bytes, algorithm_);
  }
  [[nodiscard]] Inside here(Op op, int tp, int dp, double bytes, Algorithm algorithm) const {
    const Operation operation{.op = op,
                              .tp = tp,
                              .dp = dp,
                              .bytes = static_cast<std::size_t>(std::llround(bytes)),
                              .dtype = op_.dtype};
    return {predict_on_one_node(operation, model_, algorithm), op, tp, dp};
  }

  const Operation& op_;
  const CostModel& model_;
  Algorithm algorithm_;
  Teams teams_;
  Prediction result_;
  Inside before_;
  Inside after_;
  int hops_ = 0;
  double received_ = 0;
  bool whole_ = true;
};

}  // namespace

bool lies_on_one_node(const Operation& operation, const CostModel& model) {
  const Teams teams = teams_of(operation);
  const int span = teams.one.stride * (teams.one.tp * teams.one.dp - 1);
  for (int t = 0; t < teams.count; ++t)
    if (teams.first(t) / model.per_node != (teams.first(t) + span) / model.per_node) return false;
  return true;
}

Prediction predict_across_nodes(const Operation& operation, const CostModel& model, Algorithm algorithm) {
  return TwoLevels(operation, model, algorithm).predict();
}

}  // namespace mixcomm
