/* How ranks of the CPU backend sleep and wake up: no wake-up is lost.
 *
 * scripts/check-model has spin look at every state of three ranks that make one barrier after the other, each
 * at its own pace, without end, and at mutants, each of which must be refuted. What is shown: no rank sleeps
 * for ever, so the slices of sleep_until_all_arrived() are there for failures alone; and nobody leaves a
 * barrier before all have come.
 *
 * Model            Code (cpu/channel.cpp; Bell in cpu/shared_state.hpp)
 * Rank             Channel::barrier
 * look_on          Channel::wait: spinning and yielding, for as long as one likes
 * sleep            Channel::sleep_until_all_arrived, futex_wait
 * first_missing    Channel::first_missing: flags are read one after the other
 * ring             ring(): rings, then FUTEX_WAKE
 *
 * Abstracted: memory is sequentially consistent, as all accesses to flags, `sleepers` and `rings` are. Points
 * are modulo 3: passes.pml shows that members are never more than one apart. Rings are modulo 5: from a look
 * at `rings` to the sleep there come at most four, two of each other rank (with modulo 4, spin finds how that
 * deadlocks). The look at the flags before sleeping is given up at any time. The futex sleeps if, in one
 * step, `rings` is what it was, and sleeps until it is woken. Deadlines, failures, and ranks that share a
 * processor are left out, as all of them only make ranks wake up sooner.
 *
 * Mutants (-D): RING_TOO_EARLY, NO_RING, NO_LAST_LOOK, RINGS_TOO_LATE, NO_SLEEPER; see where they stand
 * below.
 */
#define N 3

byte flag[N];
byte sleepers;
byte rings;
bool asleep[N];

#define arrived(rank) ((flag[rank] + 3 - point) % 3 <= 1)

#define all_arrived (arrived(0) && arrived(1) && arrived(2))

/* next: the first member at or after `next`, counted from my successor, that has not arrived, or N. */
inline first_missing(from) {
  next = from;
  do
  :: next < N && arrived((me + next) % N) -> next++
  :: else -> break
  od
}

inline ring() {
  rings = (rings + 1) % 5;
  d_step { asleep[0] = false; asleep[1] = false; asleep[2] = false }
}

/* The last one to come wakes up who sleeps. */
inline ring_if_last() {
  if
  :: sleepers > 0 ->
     first_missing(1);
     if
#ifndef NO_RING
     :: next == N -> ring()
#endif
     :: else
     fi
  :: else
  fi
}

inline sleep() {
#ifndef NO_SLEEPER
  sleepers++;
#endif
  do
  :: 
#ifndef RINGS_TOO_LATE
     heard = rings;
#endif
#ifndef NO_LAST_LOOK
     first_missing(1);
     if :: next == N -> next = 0; break :: else -> next = 0 fi;
#endif
#ifdef RINGS_TOO_LATE
     heard = rings;
#endif
     atomic { if :: rings == heard -> asleep[me] = true :: else fi };
     !asleep[me];
#ifdef NO_LAST_LOOK
     first_missing(1);
     if :: next == N -> break :: else fi
#endif
  od;
#ifndef NO_SLEEPER
  sleepers--
#endif
}

proctype Rank(byte me) {
  byte point = 0;
  byte next = 0;
  byte heard = 0;
  do
  :: point = (point + 1) % 3;
#ifdef RING_TOO_EARLY
     ring_if_last();
     flag[me] = point;
#else
     flag[me] = point;
     ring_if_last();
#endif
     if /* look_on */
     :: all_arrived
     :: sleep()
     fi;
     atomic { heard = 0; next = 0; assert(all_arrived) }
  od
}

init {
  atomic { run Rank(0); run Rank(1); run Rank(2) }
}
