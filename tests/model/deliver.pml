/* The end of an execution and the delivery that it owes: written at once, sent at least once, settled by who holds it.

   Dispatchers die between any two steps, or are slow until their lease has run out; receivers take what they get and
   are not heard, or refuse it. What is left out, and how to read a counterexample: docs/concepts/claim-protocol.md.

   guard PLAN_AT_ONCE: finish.settle `await _announced(conn, bucket` -> told_at_last
   guard PLAN_AFTER_END: finish.END `join gone g on g.id = d.execution_id` -> told_what_is_true
   guard DUE_PENDING: deliver.CLAIM_DUE `and state = 'pending'` -> one_sends
   guard DUE_LOCK: deliver.CLAIM_DUE `for update skip locked` -> one_sends
   guard DUE_COUNTS: deliver.CLAIM_DUE `attempt = attempt + 1` -> settled_by_its_holder
   guard SETTLE_ATTEMPT: deliver.SETTLE `and d.attempt = s.attempt` -> settled_by_its_holder
   guard SETTLE_LEASED: deliver.SETTLE `and d.state = 'leased'` -> settled_by_its_holder
   guard RECLAIM_LEASED: deliver.RECLAIM `and state = 'leased'` -> delivered_is_the_end
   guard RECLAIM_LAPSED: deliver.RECLAIM `and lease_until < clock()` -> one_sends
   guard RECLAIM_ALL: deliver.reclaim `RECLAIM` -> told_at_last
*/

#define GUARDS PLAN_AT_ONCE, PLAN_AFTER_END, DUE_PENDING, DUE_LOCK, DUE_COUNTS, SETTLE_ATTEMPT, SETTLE_LEASED, \
  RECLAIM_LEASED, RECLAIM_LAPSED, RECLAIM_ALL
#define RULES told_at_last, told_what_is_true, one_sends, settled_by_its_holder, delivered_is_the_end
#include "rules.pml"

#ifndef DISPATCHERS
#define DISPATCHERS 2
#endif
#ifndef TROUBLES /* dispatchers that die or are slow, a server that dies within a transaction */
#define TROUBLES 2
#endif
#ifndef ATTEMPTS_MAX
#define ATTEMPTS_MAX 2
#endif

mtype = { unplanned, pending, leased, delivered, dead };

/* the outcome, and the delivery that belongs to it */
bool ended;
mtype state = unplanned;
byte attempt, charged;
/* `holder`: whose lease it is, from 1 on; `lapsed`: its time is over */
byte holder;
bool lapsed;
/* what the receiver has got, how often it was said to be settled, how many leases there were */
byte received, leases, wrong;

#define may_fail (wrong < TROUBLES)
#define settled (state == delivered || state == dead)

/* An execution ends. Its server may die in the middle; then the attempt is reported again. */
active proctype Finisher() {
  do
  :: atomic { may_fail && !ended && !left_out(PLAN_AFTER_END) -> wrong++ } /* rolled back */
  :: atomic { /* finish.END */
      !left_out(PLAN_AT_ONCE) && !left_out(PLAN_AFTER_END) -> ended = true;
      state = pending;
      break
    }
  :: left_out(PLAN_AT_ONCE) -> ended = true;
    if
    :: may_fail -> wrong++; break
    :: state = pending; break
    fi
  :: left_out(PLAN_AFTER_END) -> state = pending; ended = true; break
  od
}

/* A replica's dispatcher: it claims, gives the connection back, sends, and settles; or takes back what another left. */
active [DISPATCHERS] proctype Dispatcher() {
  byte a, lease;
  bool taken;

#define due (guard(DUE_PENDING, state == pending) && state != unplanned && !settled)
#define abandoned (!left_out(RECLAIM_ALL) && guard(RECLAIM_LEASED, state == leased) && guard(RECLAIM_LAPSED, lapsed) && leases > 0)

end_of_all:
  do
  :: due ->
    atomic { /* deliver.CLAIM_DUE */
      if
      :: due || left_out(DUE_LOCK) && !settled ->
        must(one_sends, state == pending || lapsed);
        must(told_what_is_true, ended);
        state = leased;
        attempt = attempt + !left_out(DUE_COUNTS);
        leases++;
        a = attempt;
        lease = leases;
        holder = _pid;
        lapsed = false;
        printf("dispatcher %d: claims attempt %d\n", _pid, a)
      :: else -> lease = 0
      fi
    }
    if
    :: lease == 0
    :: atomic { lease != 0 && may_fail -> wrong++; lapsed = lapsed || lease == leases; printf("dispatcher %d: dies\n", _pid) }
    :: lease != 0 ->
      if
      :: atomic { may_fail -> wrong++; lapsed = lapsed || lease == leases; printf("dispatcher %d: its lease runs out\n", _pid) }
      :: true
      fi;
      if /* webhook.send: the connection was given back */
      :: received++; taken = true
      :: received++; taken = false /* its answer is not heard */
      :: taken = false
      fi;
      atomic { /* deliver.SETTLE */
        if
        :: guard(SETTLE_ATTEMPT, attempt == a) && guard(SETTLE_LEASED, state == leased) ->
          must(settled_by_its_holder, lease == leases && state == leased);
          charged = charged + !taken;
          holder = 0;
          if
          :: taken -> state = delivered
          :: !taken && charged >= ATTEMPTS_MAX -> state = dead
          :: else -> state = pending
          fi;
          printf("dispatcher %d: settles attempt %d, now %e\n", _pid, a, state)
        :: else
        fi;
        taken = false;
        a = 0;
        lease = 0
      }
    fi
  :: atomic { /* deliver.RECLAIM */
      abandoned ->
      must(delivered_is_the_end, !settled);
      must(one_sends, lapsed);
      state = pending;
      holder = 0;
      lapsed = false;
      printf("dispatcher %d: takes attempt %d back\n", _pid, attempt)
    }
  od
}

/* When nobody has anything left to do, the receiver has been told, or the delivery says that it was given up. */
active proctype Oracle() {
  do
  :: timeout ->
    must(told_at_last, ended && (state == delivered && received > 0 || state == dead && charged >= ATTEMPTS_MAX));
    break
  od
}
