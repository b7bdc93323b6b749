/* The passes of the CPU backend: flags, barriers and alternating areas, for any number of calls.
 *
 * scripts/check-model has spin look at every state that this model can reach, and at mutants of it, each of
 * which must be refuted. What is shown: whatever the ranks' speeds, (1) what a rank reads of another is what
 * that one wrote for this very pass, neither older nor newer; (2) members of a team are never more than one
 * point apart, so comparing points that wrap around is sound; (3) no rank waits for ever.
 *
 * Model              Code
 * barrier()          Channel::barrier, ::arrived, ::first_missing   cpu/channel.cpp
 * flag, point        Flag::value (its low half), Channel::point_    cpu/shared_state.hpp, cpu/channel.hpp
 * in_area, out_area  CpuBackend::area, passes_                      cpu/cpu_backend.cpp
 * whose()            the same: areas change hands
 * one_shot_pass      CpuContext::publish; the bodies                cpu/context.hpp, algorithms/one_shot.hpp
 * two_shot_pass      CpuContext::share, open, close; the bodies     cpu/context.hpp, algorithms/two_shot.hpp
 * direct_pass        the same with symmetric buffers, which the     CpuBackend::direct; the bodies
 *                    caller writes before and reads after the call
 * choose()           all ranks of a team make the same calls in the same order
 *
 * Configurations:
 *   CHANNELS=1  3 ranks and one communicator, with any sequence of the three kinds of passes.
 *   CHANNELS=2  3 ranks and two communicators that take turns, with any sequence of one_shot and staged
 *               two_shot passes on either.
 *   TEAMS       4 ranks as a grid of 2 x 2: calls on the world and on TP teams, in any sequence; the second
 *               TP team takes as many passes as it likes. one_shot passes only.
 *
 * Abstracted: the data of a rank's pass is one number, the pass it was written in; a sum is the reads of all
 * members' numbers, one by one. Counters are modulo 4 (points, passes), so that the number of calls is
 * unbounded. A rank that finds a flag missing waits for it: once a member has arrived it has arrived until
 * this rank goes on, so looking again at those before it changes nothing; sleeping and waking up is bell.pml.
 * Memory is sequentially consistent: flags are (seq_cst), and data is only read behind the flag that says
 * that it was written. Calls that disagree, failures and deadlines are not modelled. A rank may start one
 * call that another has not taken yet.
 *
 * Mutants (-D): ONE_AREA, NO_WAIT_1, NO_WAIT_2, EXACT, SHARED_AREAS, ONE_FLAG; see where they stand below.
 */
#ifdef TEAMS
#define N 4
#define CHANNELS 2
#define member_of(channel, me, other) (channel == 0 || me / 2 == other / 2)
#else
#define N 3
#ifndef CHANNELS
#define CHANNELS 2
#endif
#define member_of(channel, me, other) true
#endif

mtype = { undecided, one_shot, two_shot, direct };

/* By channel (a team kind of a communicator) and rank. */
byte flag[CHANNELS * N];
/* What was written: 1 + the pass modulo 4; 0: nothing yet. By channel, parity, whose area, and for outputs by
 * writer. */
byte in_area[CHANNELS * 2 * N];
byte out_area[CHANNELS * 2 * N * N];
byte in_buffer[CHANNELS * N];
byte out_buffer[CHANNELS * N * N];

/* The program that all ranks run: whoever comes to a call first decides it. */
#define CALLS 2
mtype call_kind[CALLS] = undecided;
byte call_channel[CALLS];
byte takers[CALLS]; /* bit r: rank r has taken this call */

#ifdef TEAMS
/* ... and for a call of TP teams, whether the second team makes another pass; by parity of the pass. */
byte passes_left[2]; /* 0 undecided, 1 no more, 2 another */
byte pass_takers[2];
#endif

/* Whose area a rank uses in a pass. */
#ifdef TEAMS
#define mirrored(channel, rank) (channel == 0 -> N - 1 - (rank) : (rank) + 1 - 2 * ((rank) % 2))
#else
#define mirrored(channel, rank) (N - 1 - (rank))
#endif
#define whose(channel, pass, rank) ((pass) / 2 % 2 == 0 -> (rank) : mirrored(channel, rank))

#ifdef SHARED_AREAS /* both communicators, or all team kinds, in the same areas, each with its parity */
#define area(channel, pass, rank) (((pass) % 2) * N + whose(channel, pass, rank))
#elif defined(ONE_AREA) /* areas do not alternate */
#define area(channel, pass, rank) (((channel) * 2) * N + whose(channel, pass, rank))
#else
#define area(channel, pass, rank) (((channel) * 2 + (pass) % 2) * N + whose(channel, pass, rank))
#endif

#ifdef ONE_FLAG /* one flag for all team kinds */
#define counter(channel) 0
#else
#define counter(channel) (channel)
#endif
#define flag_of(channel, rank) (counter(channel) * N + (rank))

#define tag(pass) ((pass) + 1)

/* How far another's flag is ahead of my point, modulo 4: 0 or 1, or 3, which is one behind. */
#define ahead(channel, rank) ((flag[flag_of(channel, rank)] + 4 - point[counter(channel)]) % 4)
#ifdef EXACT /* a member that has gone on does not count as arrived */
#define arrived(channel, rank) (ahead(channel, rank) == 0)
#else
#define arrived(channel, rank) (ahead(channel, rank) <= 1)
#endif

/* For each member m of my team. */
#define each_member(step) \
  m = 0; do :: m < N -> if :: member_of(channel, me, m) -> step :: else fi; m++ :: else -> break od; m = 0

/* Here all four, as there are at most four ranks. */
#define has_arrived(rank) (rank >= N || !member_of(channel, me, rank) || rank == me || arrived(channel, rank))
#define all_arrived (has_arrived(0) && has_arrived(1) && has_arrived(2) && has_arrived(3))

inline barrier() {
  atomic {
    point[counter(channel)] = (point[counter(channel)] + 1) % 4;
    flag[flag_of(channel, me)] = point[counter(channel)]
  }
  atomic {
    all_arrived;
    each_member(assert(ahead(channel, m) != 2))
  }
}

inline barrier_1() {
#ifndef NO_WAIT_1
  barrier()
#else
  skip
#endif
}

inline barrier_2() {
#ifndef NO_WAIT_2
  barrier()
#else
  skip
#endif
}

#define now tag(pass[channel])
#define in_of(rank) in_area[area(channel, pass[channel], rank)]
#define out_of(rank, writer) out_area[area(channel, pass[channel], rank) * N + writer]
#define direct_in_of(rank) in_buffer[channel * N + rank]
#define direct_out_of(rank, writer) out_buffer[(channel * N + rank) * N + writer]

/* What a rank does before its first barrier. */
inline write_input() {
  if
  :: kind == direct -> /* the caller still uses its output: no peer may write there yet */
     direct_in_of(me) = now;
     each_member(direct_out_of(me, m) = 0)
  :: else -> in_of(me) = now
  fi
}

/* What it does behind it. */
inline one_shot_pass() {
  barrier_1();
  atomic { each_member(assert(in_of(m) == now)); next_pass() }
}

inline two_shot_pass() {
  barrier_1();
  atomic { each_member(assert(in_of(m) == now)); each_member(out_of(m, me) = now) }
  barrier_2();
  atomic { each_member(assert(out_of(me, m) == now); out_of(me, m) = 0); next_pass() }
}

inline direct_pass() {
  barrier_1();
  atomic { each_member(assert(direct_in_of(m) == now)); each_member(direct_out_of(m, me) = now) }
  barrier_2();
  atomic { each_member(assert(direct_out_of(me, m) == now); direct_out_of(me, m) = 0); next_pass() }
}

inline next_pass() {
  pass[channel] = (pass[channel] + 1) % 4
}

/* What the next call is. */
inline choose() {
  !(takers[call] & (1 << me)); /* else it is still the call of a round before */
  if
  :: call_kind[call] == undecided ->
     select(channel : 0 .. CHANNELS - 1);
     call_channel[call] = channel;
#ifdef TEAMS
     call_kind[call] = one_shot
#else
     if
     :: call_kind[call] = one_shot
     :: call_kind[call] = two_shot
     :: CHANNELS == 1 -> call_kind[call] = direct
     fi
#endif
  :: else
  fi;
  kind = call_kind[call];
  channel = call_channel[call];
  takers[call] = takers[call] | (1 << me);
  if
  :: takers[call] == (1 << N) - 1 -> takers[call] = 0; call_kind[call] = undecided; call_channel[call] = 0
  :: else
  fi;
  call = (call + 1) % CALLS
}

#ifdef TEAMS
/* Whether my team makes another pass of this call: the same for both of its members. */
inline choose_passes() {
  atomic {
    slot = pass[channel] % 2;
    !(pass_takers[slot] & (1 << me));
    if
    :: passes_left[slot] == 0 -> if :: passes_left[slot] = 1 :: passes_left[slot] = 2 fi
    :: else
    fi;
    again = passes_left[slot] == 2;
    if
    :: pass_takers[slot] != 0 -> pass_takers[slot] = 0; passes_left[slot] = 0
    :: else -> pass_takers[slot] = 1 << me
    fi;
    slot = 0
  }
}
#endif

proctype Rank(byte me) {
  byte point[CHANNELS];
  byte pass[CHANNELS];
  byte call = 0;
  byte channel = 0;
  byte m = 0;
  mtype kind = one_shot;
#ifdef TEAMS
  byte slot = 0;
  bool again = false;
#endif
  do
  :: atomic { choose(); write_input() }
#ifdef TEAMS
     do
     :: one_shot_pass();
        if
        :: channel == 0 || me < 2 -> break
        :: else -> choose_passes(); if :: again -> write_input() :: else -> break fi
        fi
     od
#else
     if
     :: kind == one_shot -> one_shot_pass()
     :: kind == two_shot -> two_shot_pass()
     :: kind == direct -> direct_pass()
     fi
#endif
  od
}

init {
  byte r = 0;
  atomic {
    do
    :: r < N -> run Rank(r); r++
    :: else -> break
    od
  }
}
