/* The lanes of the CPU backend: calls of one lane and of several, which share a workspace.
 *
 * scripts/check-model has spin look at every state that this model can reach, and at mutants of it, each of which
 * must be refuted. passes.pml shows that one lane reads what was written for its pass; here, that this holds for all
 * lanes of a call, whatever their speeds, and from a call to the next, which may cut the areas into other slices.
 *
 * Model              Code
 * slice              CpuBackend::area, its `slice`: with one lane the whole area, else that lane's part   cpu/cpu_backend.cpp
 * first, passes      passes_, Passes::of_lane: all lanes of a call make as many passes                    cpu/cpu_backend.cpp
 * flag, point        Flag::value, Channel::point_: each lane has its own                                  cpu/channel.cpp
 * step()             CpuBackend::go_on: a lane goes on, or is left where others have not arrived          cpu/cpu_backend.cpp
 * the end of a call  Helpers::run: the caller goes on when all lanes are through
 *
 * RANKS ranks (2 unless defined) and one team; calls of one or two lanes, of one or two passes, one_shot or two_shot with
 * staging, in any sequence. Abstracted as in passes.pml. Who carries a lane on is of no matter: a rank's lanes are
 * carried on in any order, a step at a time.
 *
 * Mutants (-D): ONE_AREA, ONE_SLICE, ONE_FLAG, NO_JOIN, OTHER_PARITY; see where they stand below.
 */
#ifndef RANKS
#define RANKS 2
#endif
#define LANES 2

/* What was written: 1 + the pass modulo 4, of which lane; 0: nothing yet. By parity, rank, and half of the area. */
byte in_area[2 * RANKS * 2];
byte out_area[2 * RANKS * 2];
/* Points modulo 4, by rank and lane. */
byte flag[RANKS * LANES];

/* The program that all ranks run: whoever comes to a call first decides it. */
#define CALLS 2
byte call_lanes[CALLS];
byte call_passes[CALLS];
bool call_two_shot[CALLS];
byte takers[CALLS];

#define parity(number) ((number) % 2)
#ifdef ONE_AREA /* areas do not alternate */
#undef parity
#define parity(number) 0
#endif

#ifdef ONE_FLAG /* lanes share a flag */
#define flag_of(rank, lane) ((rank) * LANES)
#else
#define flag_of(rank, lane) ((rank) * LANES + (lane))
#endif

#define tag(lane) (1 + (made + pass[lane]) % 4 + 4 * (lane))
#define number(lane) ((first + pass[lane]) % 4)
#define at(rank, lane, half) (parity(number(lane)) * RANKS * 2 + (rank) * 2 + (half))

/* Which halves a lane has. */
#ifdef ONE_SLICE /* all lanes have the first one */
#define has(lane, half) (lanes == 1 || (half) == 0)
#else
#define has(lane, half) (lanes == 1 || (half) == (lane))
#endif

#define write(where, lane) \
  half = 0; do :: half < 2 -> if :: has(lane, half) -> where[at(me, lane, half)] = tag(lane) :: else fi; half++ \
  :: else -> break od; half = 0
#define check_one(where, lane, rank, half) (!has(lane, half) || where[at(rank, lane, half)] == tag(lane))
#define check(where, lane) \
  r = 0; do :: r < RANKS -> assert(check_one(where, lane, r, 0) && check_one(where, lane, r, 1)); r++ :: else -> break od; r = 0

#define ahead(rank, lane) ((flag[flag_of(rank, lane)] + 4 - point[lane]) % 4)
#define arrived(rank, lane) ((rank) >= RANKS || ahead(rank, lane) <= 1)
#define met(lane) (arrived(0, lane) && arrived(1, lane) && arrived(2, lane))

inline arrive(lane) {
  point[lane] = (point[lane] + 1) % 4;
  flag[flag_of(me, lane)] = point[lane]
}

mtype = { stage, first_meeting, second_meeting, through };

/* A lane goes on: does what there is to do up to the next meeting, or passes one at which all have arrived. */
inline step(lane) {
  if
  :: atomic { at_step[lane] == stage -> write(in_area, lane); arrive(lane); at_step[lane] = first_meeting }
  :: atomic { at_step[lane] == first_meeting && met(lane) ->
       check(in_area, lane);
       if
       :: two_shot -> write(out_area, lane); arrive(lane); at_step[lane] = second_meeting
       :: else -> pass_ends(lane)
       fi
     }
  :: atomic { at_step[lane] == second_meeting && met(lane) -> check(out_area, lane); pass_ends(lane) }
  fi
}

inline pass_ends(lane) {
  pass[lane]++;
  at_step[lane] = (pass[lane] == passes -> through : stage)
}

/* What the next call is. */
inline choose() {
  !(takers[call] & (1 << me));
  if
  :: call_lanes[call] == 0 ->
     select(r : 1 .. LANES); call_lanes[call] = r;
     select(r : 1 .. 2); call_passes[call] = r; r = 0;
     if :: call_two_shot[call] = true :: call_two_shot[call] = false fi
  :: else
  fi;
  lanes = call_lanes[call];
  passes = call_passes[call];
  two_shot = call_two_shot[call];
  takers[call] = takers[call] | (1 << me);
  if
  :: takers[call] == (1 << RANKS) - 1 -> takers[call] = 0; call_lanes[call] = 0; call_passes[call] = 0; call_two_shot[call] = false
  :: else
  fi;
  call = (call + 1) % CALLS
}

proctype Rank(byte me) {
  byte point[LANES];
  byte pass[LANES];
  mtype at_step[LANES] = through;
  byte first = 0; /* the number of the call's first pass, by which areas alternate */
  byte made = 0;  /* passes behind, modulo 4 */
  byte lanes = 0;
  byte passes = 0;
  bool two_shot = false;
  byte call = 0;
  byte half = 0;
  byte r = 0;
  do
  :: atomic {
       choose();
       pass[0] = 0; pass[1] = 0;
       at_step[0] = stage;
       at_step[1] = (lanes == 2 -> stage : through)
     };
     do
     :: step(0)
     :: step(1)
#ifdef NO_JOIN /* the call ends when the first lane is through */
     :: atomic { at_step[0] == through -> break }
#else
     :: atomic { at_step[0] == through && at_step[1] == through -> break }
#endif
     od;
     atomic {
       made = (made + passes) % 4;
#ifdef OTHER_PARITY /* a call counts as one pass */
       first = (first + 1) % 4
#else
       first = made
#endif
     }
  od
}

init {
  byte i = 0;
  atomic {
    do
    :: i < RANKS -> run Rank(i); i++
    :: else -> break
    od
  }
}
