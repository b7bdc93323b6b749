#include "call.hpp"

#include "backend.hpp"
#include "epilogue/check_epilogue.hpp"

namespace mixcomm {
bool CheckedCall::in_place(Body body, const Grid& team) const {
  const ConstTensor constant_out = out;
  const ConstTensor& all = body == Body::gather ? constant_out : in;
  const ConstTensor& one = body == Body::gather ? in : constant_out;
  if (all.data == nullptr || one.bytes() == 0) return false;
  if (rows.device() != nullptr && team.dp.size > 1) return false;  // where the block begins is not known here
  const std::size_t skipped = rows.total(team.dp.member) * all.hidden * size_of(all.dtype);
  return one.data == static_cast<const std::byte*>(all.data) + skipped;
}

void Call::set_algorithm(Algorithm chosen, const Backend& backend) {
  algorithm = chosen;
  record.algorithm = chosen;
  reads_in_place = chosen == Algorithm::one_shot && backend.reads_in_place(*this);
  const bool looks = chosen != Algorithm::one_shot || reads_in_place;
  record.all_blocks = looks ? all_blocks() : Placement{};
  record.one_block = looks ? one_block() : Placement{};
}

Call make_call(Op op, const CheckedCall& checked, const Grid& grid, const Backend& backend, void* stream) {
  const OpShape shape = shape_of(op);
  const bool gathers = shape.body == Body::gather;
  const Grid team = grid_of(grid, shape.team);
  const ConstTensor& in = checked.in;
  const Tensor& out = checked.out;
  Call call{.body = shape.body,
            .team = shape.team,
            .by_rank = false,
            .dtype = in.dtype,
            .in = in.data,
            .out = out.data,
            .in_placement = {},
            .out_placement = {},
            .blocks = Blocks(team.dp.size, [&](int d) { return checked.rows[d] * in.hidden; }),
            .device_rows = checked.rows.device(),
            .hidden = in.hidden,
            .most_rows = gathers ? out.rows : in.rows,
            .stream = stream,
            .epilogue = checked.epilogue,
            .shape = {},
            .record = {}};
  // An all-reduce has one block, that of this DP rank.
  if (op == Op::all_reduce && call.device_rows != nullptr) call.device_rows += grid.dp.member;

  const ConstTensor constant_out = out;
  const ConstTensor& all = gathers ? constant_out : in;
  const ConstTensor& one = gathers ? in : constant_out;
  const Placement all_placement = backend.place(all.data, all.bytes());
  Placement one_placement = backend.place(one.data, one.bytes());
  if (all_placement.kind == Placement::Kind::symmetric && checked.in_place(shape.body, team))
    one_placement = {Placement::Kind::in_place, 0, 0};
  // A rank without rows has no such tensor, and so cannot tell where its peers have theirs.
  for (int d = 0; d < team.dp.size; ++d)
    if (checked.rows[d] == 0) one_placement = {};
  (gathers ? call.out_placement : call.in_placement) = all_placement;
  (gathers ? call.in_placement : call.out_placement) = one_placement;

  CallRecord& record = call.record;
  record.op = op;
  record.dtype = in.dtype;
  record.hidden = in.hidden;
  record.epilogue = record_of(checked.epilogue);
  record.row_blocks = static_cast<std::uint64_t>(team.dp.size);
  for (int d = 0; d < team.dp.size; ++d) {
    if (static_cast<std::size_t>(d) < CallRecord::listed_rows) record.rows[d] = checked.rows[d];
    record.rows_hash = fold(record.rows_hash, checked.rows[d]);
  }
  if (call.device_rows != nullptr) {
    record.rows_on_device = 1;
    record.rows_hash = fold(record.rows_hash, call.most_rows);
  }
  return call;
}

}  // namespace mixcomm
