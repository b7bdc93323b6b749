/* The packets and lines of the CUDA backend: data that says itself that it has come, areas that alternate,
 * and nothing that is reset.
 *
 * scripts/check-model has spin look at every state that three ranks can reach in any sequence of passes, and
 * at mutants, each of which must be refuted. What is shown: no rank overwrites a packet that its receiver has
 * not read yet, and no rank waits for ever.
 *
 * Model                Code (cuda/message_context.cuh)
 * Rank                 Lane's loop over passes (cuda/lane.cuh, kernel_body.cuh): begin_pass, a body, end_pass
 * greets               MessageContext::prepare: a pair of ranks may have no data for each other
 * in_place, out_place  Area::in and Area::out of a parity (mixcomm/device/workspace.hpp), where a rank's
 *                      packets for another lie: in_area, out_offset
 * hello                hello()
 * send                 send(), store_all()
 * await                load_sum(), close(), end_pass(): until the packet's number is that of the pass
 * kind, wide, own      what a pass is. gathers, scatters: one_shot, in which the ranks in `wide` have rows,
 *                      which go to all, or which come from all. two_shot_gathers: the rows of the ranks in
 *                      `wide` are summed by all ranks, or those of the ranks in `own` by themselves; others
 *                      have none; all sums go to all. two_shot_scatters: all send to the ranks in `wide` or
 *                      `own`, which sum; sums of those in `wide` go to all, of those in `own` nowhere else.
 *                      The sets are any: blocks may be empty, and shares too
 *
 * Two configurations: passes that gather, in any sequence (default), or passes that scatter (SCATTERS).
 *
 * Lines: the model holds for them as well. A tile is one access, of one thread's 16 bytes or of eight
 * threads' 128. That it is never seen in part is assumed for both; of packets PTX's memory model promises it,
 * of lines nobody does, but NVLink keeps them together, and a stress test looks for the contrary. Hellos are
 * packets on either wire. Each wire has areas of its own, while numbers and hellos count the passes of both:
 * so between two uses of one place lie as many passes as here, or more, and in each of them every rank is
 * heard of.
 *
 * A rank sends no data to itself. Operations share an area out among the lanes that they have, so the bytes
 * of a place may be another lane's in the next operation: a rank begins that one only when all its lanes are
 * through with the last pass, in which each has heard of every other rank.
 *
 * Abstracted: one lane (within an operation lanes share nothing); a rank's packets for another, of one phase
 * of a pass, are one packet, and a rank's threads end a pass together. All packets of a phase are sent in one
 * step: a place that is taken when one of them comes was taken before, and a receiver that gets its one later
 * is one that looks later. They are read in one step, as late as may be. A packet is one access, of data and
 * number together, as in PTX's memory model. Numbers are 1 and 2 (64 bits in the code): a place's parity says
 * which packet lies in it, as long as none is overwritten unread. Deadlines and failures are left out.
 *
 * Mutants (-D): NO_HELLO, NO_HELLO_IN_TWO_SHOT, ONE_WORKSPACE; see where they stand below.
 */
#define N 3
#define everyone 7

mtype = { undecided, gathers, scatters, two_shot_gathers, two_shot_scatters };

/* Places of packets, by what they are for, parity, receiver and sender: the number of the pass that a packet
 * was sent in, 1 or 2, or 0: nothing, or a packet that has been read. In the code that one stays; its number
 * is never waited for again. */
#define in_place 0
#define out_place 1
#define hello 2
byte packet[3 * 2 * N * N];

#ifdef ONE_WORKSPACE
#define place(what, receiver, sender) packet[((what) * 2 * N + (receiver)) * N + (sender)]
#else
#define place(what, receiver, sender) packet[(((what) * 2 + number % 2) * N + (receiver)) * N + (sender)]
#endif

#ifdef SCATTERS
#define one_shot_pass scatters
#define two_shot_pass two_shot_scatters
#else
#define one_shot_pass gathers
#define two_shot_pass two_shot_gathers
#endif

#define has(set, rank) (((set) >> (rank)) & 1)
#define in_two_shots (kind == two_shot_gathers || kind == two_shot_scatters)

/* The program that all ranks run: whoever comes to a pass first decides it. No rank gets two passes ahead. */
#define PASSES 2
mtype pass_kind[PASSES] = undecided;
byte pass_wide[PASSES];
byte pass_own[PASSES];
byte takers[PASSES];

inline choose() {
  atomic {
    !has(takers[turn], me);
    if
    :: pass_kind[turn] == undecided ->
       select(wide : 0 .. everyone);
       if
       :: wide != 0 -> pass_kind[turn] = one_shot_pass /* a pass of nothing is not made */
       :: if
          :: wide != 0 -> own = 0
          :: wide == 0 -> select(own : 1 .. everyone)
          fi;
          pass_kind[turn] = two_shot_pass
       fi;
       pass_wide[turn] = wide;
       pass_own[turn] = own
    :: else
    fi;
    kind = pass_kind[turn];
    wide = pass_wide[turn];
    own = pass_own[turn];
    takers[turn] = takers[turn] | (1 << me);
    if
    :: takers[turn] == everyone -> takers[turn] = 0; pass_kind[turn] = undecided;
       pass_wide[turn] = 0; pass_own[turn] = 0
    :: else
    fi;
    turn = 1 - turn;
    number = 3 - number;
    greets = (in_two_shots || wide != everyone);
#ifdef NO_HELLO
    greets = false
#endif
#ifdef NO_HELLO_IN_TWO_SHOT
    greets = greets && !in_two_shots
#endif
  }
}

/* Who sends to whom, at first and then the sums. */
#define any_goes(to) (has(wide, 0) || has(wide, 1) || has(wide, 2) || has(own, to))
#define goes(what, from, to) \
  (what == hello || \
   (from != to && \
    ((what == in_place && \
      ((kind == gathers && has(wide, from)) || (kind == scatters && has(wide, to)) || \
       (kind == two_shot_gathers && has(wide, from)) || \
       (kind == two_shot_scatters && has(wide | own, to)))) || \
     (what == out_place && \
      ((kind == two_shot_gathers && any_goes(from)) || \
       (kind == two_shot_scatters && has(wide, from)))))))

inline send(what) {
  d_step {
    other = 0;
    do
    :: other < N ->
       if
       :: goes(what, me, other) ->
          assert(place(what, other, me) == 0); /* or a packet is lost that its receiver waits for */
          place(what, other, me) = number
       :: else
       fi;
       other++
    :: else -> break
    od;
    other = 0
  }
}

#define came(what, sender) (!(goes(what, sender, me)) || place(what, me, sender) == number)

inline await(what) {
  d_step {
    came(what, 0) && came(what, 1) && came(what, 2);
    do
    :: other < N -> if :: goes(what, other, me) -> place(what, me, other) = 0 :: else fi; other++
    :: else -> break
    od;
    other = 0
  }
}

proctype Rank(byte me) {
  byte number = 1; /* of the pass */
  byte turn = 0;
  byte wide = 0;
  byte own = 0;
  byte other = 0;
  bool greets = false;
  mtype kind = gathers;
  do
  :: choose();
     if :: greets -> send(hello) :: else fi;
     send(in_place);
     await(in_place);
     if :: in_two_shots -> send(out_place); await(out_place) :: else fi;
     if :: greets -> await(hello) :: else fi
  od
}

init {
  atomic { run Rank(0); run Rank(1); run Rank(2) }
}
