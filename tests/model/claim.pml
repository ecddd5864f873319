/* The claim protocol: claim, renew, expire, complete, checkpoint and cancel, with their fences.

   Nodes crash, are cut off, and come back as zombies. Requests arrive twice, or long after. Servers die in the middle
   of a transaction, and answers are lost. What is left out, and how to read the counterexample of a guard:
   docs/concepts/claim-protocol.md.

   What the product checks, where it does, and the rule that breaks when it does not:

   guard CLAIM_READY: lease.CLAIM `and state = 'ready'` -> not_robbed
   guard CLAIM_LOCK: lease.CLAIM `for update skip locked` -> not_robbed
   guard CLAIM_COUNTS: lease.CLAIM `attempt = attempt + 1` -> in_order
   guard NAMED: expire.release_unnamed `not in known` -> not_robbed
   guard STILL_UNNAMED: expire.UNNAMED `and q.attempt = u.attempt` with NODES 1 REPLICAS 2 -> not_robbed
   guard ARRIVED: expire.LEASED_LONG `and leased_at < clock() - make_interval(secs => $3)` -> not_robbed
   guard RENEW_OPEN: renew.EXTEND `and s.closed_at is null` -> not_robbed
   guard CLOSE_LAPSED: expire.CLOSE_EXPIRED `and expires_at < clock()` -> not_robbed
   guard CLOSE_LOCK: expire.CLOSE_EXPIRED `for update skip locked` -> not_robbed
   guard SWEEP_CLOSED: expire._closed_holders `if row["open"]:` -> not_robbed
   guard SWEEP_HOLDERS: expire.HOLDERS `from queue` -> nothing_lost
   guard SWEEP_LOCK: expire.ORPHANED `for update skip locked` -> not_robbed
   guard REPORT_LOCK: hold.LOCK `for update` -> fenced
   guard REPORT_ATTEMPT: complete._holds `if held.attempt != item.fence.attempt:` -> in_order
   guard REPORT_LEASE: complete._holds `return held.session_id is not None or late` -> fenced
   guard SEEN_VERSION: finish.END `q.xmin = i.version` -> fenced
   guard END_GONE: finish.END `join gone g on g.id = i.id` -> ended_once
   guard REPEAT_KNOWN: complete._recorded_before `READ_OUTCOMES` -> told_the_truth
   guard REPEAT_ATTEMPT: complete._recorded_before `if fence in answers:` -> told_the_truth
   guard CHECKPOINT_ATTEMPT: hold._fenced `if fence in wanted` -> in_order
   guard CHECKPOINT_LEASE: hold.SHARE `and session_id is not null` -> fenced
   guard CHECKPOINT_LOCK: hold.SHARE `for share` -> in_order
   guard CANCEL_LOCK: hold.LOCK `for update` -> cancel_decides
   guard CANCEL_DECIDES: complete._settlement `if held.cancel_requested:` -> cancel_decides
   guard CANCEL_RETRY: complete._ends `if held.cancel_requested or` -> cancel_decides
   guard CANCEL_EXPIRY: expire._free `if held.cancel_requested or` -> cancel_decides

   Second walls. Without one of these alone no rule breaks; without the guard in front of it as well, this one does:

   wall END_ATTEMPT: finish.END `and q.attempt = i.attempt` behind REPORT_LOCK -> in_order
   wall RETRY_ATTEMPT: complete.RETRY `and q.attempt = r.attempt` behind REPORT_LOCK -> in_order
*/

#define GUARDS CLAIM_READY, CLAIM_LOCK, CLAIM_COUNTS, NAMED, STILL_UNNAMED, ARRIVED, RENEW_OPEN, CLOSE_LAPSED, CLOSE_LOCK, \
  SWEEP_CLOSED, SWEEP_HOLDERS, SWEEP_LOCK, REPORT_LOCK, REPORT_ATTEMPT, REPORT_LEASE, SEEN_VERSION, END_GONE, REPEAT_KNOWN, REPEAT_ATTEMPT, \
  CHECKPOINT_ATTEMPT, CHECKPOINT_LEASE, CHECKPOINT_LOCK, CANCEL_LOCK, CANCEL_DECIDES, CANCEL_RETRY, CANCEL_EXPIRY, \
  END_ATTEMPT, RETRY_ATTEMPT
#define RULES fenced, in_order, ended_once, not_robbed, told_the_truth, cancel_decides, nothing_lost
#include "rules.pml"

#ifndef EXECUTIONS
#define EXECUTIONS 2
#endif
#ifndef NODES
#define NODES 2
#endif
#ifndef REPLICAS /* of the control plane: each with a reaper, and each may be hearing a heartbeat */
#define REPLICAS 1
#endif
#ifndef TROUBLES /* how much may go wrong in one run: a process dies or is cut off, a server dies, a message is lost */
#define TROUBLES 2
#endif
#ifndef RETRIES
#define RETRIES 1
#endif
#define SESSIONS (NODES + TROUBLES)

mtype = { ready, leased, gone };
mtype = { succeeded, failed, cancelled };
mtype = { unheard, recorded, lost };

/* queue, and the locks of its rows */
mtype state[EXECUTIONS] = ready;
byte session[EXECUTIONS], attempt[EXECUTIONS], failures[EXECUTIONS], shares[EXECUTIONS];
bool cancelling[EXECUTIONS], locked[EXECUTIONS];
/* outcomes; the events execution.retrying, a bit for each attempt; who wrote the memory of a run */
byte ended, ended_at[EXECUTIONS], retried[EXECUTIONS], memory[EXECUTIONS];
/* sessions, from 1 on. `promised`: the lease that the last heartbeat was promised has not run out */
byte opened = NODES;
bool closed[SESSIONS + 1], promised[SESSIONS + 1];
/* nodes: the session of each, the execution (from 1 on) that it runs, the one that a claim is about to bring */
bool alive[NODES] = true;
byte living = NODES, uses[NODES], runs[NODES], runs_attempt[NODES], arriving[NODES];
/* how much has gone wrong so far, and a report that arrives a second time */
byte wrong;
chan late = [1] of { byte, byte, byte, mtype };
/* how many leases there were: the truth that the attempt number has to tell */
byte leases[EXECUTIONS];

#define none 255
#define all_ended (ended == EXECUTIONS)
#define may_fail (wrong < TROUBLES && !all_ended)
#define unlocked(x) (!locked[x] && shares[x] == 0)
#define any(test) (test(0) || test(EXECUTIONS / 2) || test(EXECUTIONS - 1))
#define each_of(one, many, test) test(0) -> one = 0 :: many > 1 && test(1 % many) -> one = 1 :: many > 2 && test(2 % many) -> one = 2
#define claimable(x) (unlocked(x) && (state[x] == ready || left_out(CLAIM_READY) && state[x] == leased))
#define named(n, x) (runs[n] == x + 1 && runs_attempt[n] == attempt[x])
#define held_by(s, x) (state[x] == leased && session[x] == s)
#define arrived(n, x) (arriving[n] != x + 1)
#define forgotten_by(n, x) (held_by(uses[n], x) && guard(ARRIVED, arrived(n, x)) && guard(NAMED, !named(n, x)))
#define forgotten(x) forgotten_by(n, x)
#define beats(n) (alive[n] && !all_ended && (!promised[uses[n]] || forgotten_by(n, 0) || forgotten_by(n, EXECUTIONS - 1)))
#define dies(n) (may_fail && alive[n] && living > 1)
#define is_cut_off(n) (may_fail && alive[n] && promised[uses[n]])
#define was_recorded(x, a) ((retried[x] & (1 << a)) != 0 || state[x] == gone && ended_at[x] == a)
#define lapsed(s) (!all_ended && s <= opened && !closed[s] && guard(CLOSE_LAPSED, !promised[s]))
#define unwritten(x, at) (attempt[x] == at && state[x] == leased && !cancelling[x])
#define orphaned(x) (state[x] == leased && guard(SWEEP_CLOSED, closed[session[x]]))

inline open_session(n) { /* register.OPEN */
  opened++;
  uses[n] = opened;
  promised[opened] = true;
  printf("node %d: opens session %d\n", n, opened)
}

/* What a node writes in the name of its lease, the `lease`th of this execution. */
inline write_fenced(x, lease) {
  must(in_order, leases[x] == lease);
  must(fenced, state[x] == leased)
}

inline finish(x, at, how) { /* finish.END: the row leaves the queue and the outcome is there, at once */
  must(ended_once, state[x] != gone);
  must(cancel_decides, !cancelling[x] || how == cancelled);
  state[x] = gone;
  session[x] = 0;
  cancelling[x] = false;
  ended_at[x] = at;
  ended++;
  printf("  %d ends as %e, at attempt %d\n", x, how, at)
}

inline take_back(x) { /* expire._free */
  if
  :: cancelling[x] && !left_out(CANCEL_EXPIRY) -> finish(x, attempt[x], cancelled)
  :: else -> /* expire.RELEASE */
    must(cancel_decides, !cancelling[x]);
    printf("  attempt %d of %d is taken back from session %d\n", attempt[x], x, session[x]);
    state[x] = ready;
    session[x] = 0
  fi
}

inline report(x, a, lease, verdict, answer) { /* complete.report */
  atomic {
    if
    :: verdict == succeeded && state[x] != gone && !cancelling[x] -> seen = true /* finish.LOOK, or domain/begun.py */
    :: unlocked(x) || left_out(REPORT_LOCK) -> skip /* hold.LOCK */
    fi;
    at = attempt[x];
    flagged = cancelling[x];
    live = state[x] != gone && guard(REPORT_ATTEMPT, at == a) && guard(REPORT_LEASE, session[x] != 0);
    again = verdict == failed && failures[x] < RETRIES && (!flagged || left_out(CANCEL_RETRY));
    mine = state[x] != gone && !seen && !left_out(REPORT_LOCK);
    printf("attempt %d of %d is reported as %e\n", a, x, verdict);
    locked[x] = locked[x] || mine
  }
  atomic {
    mine || unlocked(x);
    answer = unheard;
    if
    :: may_fail -> wrong++; printf("  the server dies\n") /* all is rolled back */
    :: live && again ->
      if
      :: state[x] != gone && guard(RETRY_ATTEMPT, attempt[x] == at) -> /* complete.RETRY */
        write_fenced(x, lease);
        must(cancel_decides, !cancelling[x]);
        state[x] = ready;
        session[x] = 0;
        failures[x]++;
        retried[x] = retried[x] | (1 << a);
        printf("  %d is tried again\n", x);
        answer = recorded
      :: else /* it goes another way when it is said again */
      fi
    :: live && !again ->
      if
      :: left_out(END_GONE) || state[x] != gone && guard(END_ATTEMPT, attempt[x] == at) && (!seen || guard(SEEN_VERSION, unwritten(x, at))) ->
        must(ended_once, state[x] != gone);
        write_fenced(x, lease);
        if
        :: flagged && !left_out(CANCEL_DECIDES) -> finish(x, at, cancelled)
        :: else -> finish(x, at, verdict)
        fi;
        answer = recorded
      :: else /* Raced, or written since it was seen: nothing of it stays, and it is done again, with a lock */
      fi
    :: !live -> /* complete.READ_RETRIED, complete.READ_OUTCOMES */
      if
      :: !left_out(REPEAT_KNOWN) && (was_recorded(x, a) || left_out(REPEAT_ATTEMPT) && state[x] == gone) ->
        answer = recorded
      :: else -> answer = lost
      fi
    fi;
    must(told_the_truth, answer == unheard || (answer == recorded) == was_recorded(x, a));
    locked[x] = locked[x] && !mine;
    mine = false;
    live = false;
    again = false;
    flagged = false;
    seen = false;
    at = 0;
    if
    :: may_fail && answer != unheard -> wrong++; answer = unheard; printf("  its answer is lost\n")
    :: true
    fi
  }
}

inline checkpoint(x, a, lease, answer) { /* checkpoint.write */
  atomic { /* hold.SHARE */
    !locked[x];
    live = state[x] != gone && guard(CHECKPOINT_ATTEMPT, attempt[x] == a) && guard(CHECKPOINT_LEASE, session[x] != 0);
    mine = live && !left_out(CHECKPOINT_LOCK);
    shares[x] = shares[x] + mine
  }
  atomic { /* checkpoint.STORE */
    if
    :: live -> write_fenced(x, lease); must(in_order, lease >= memory[x]); memory[x] = lease; answer = recorded; printf("attempt %d of %d writes a checkpoint\n", a, x)
    :: else -> answer = lost
    fi;
    shares[x] = shares[x] - mine;
    mine = false;
    live = false
  }
}

inline take(n, x, by) { /* the write of lease.CLAIM */
  must(not_robbed, state[x] == ready);
  state[x] = leased;
  session[x] = by;
  attempt[x] = attempt[x] + !left_out(CLAIM_COUNTS);
  leases[x]++;
  a = attempt[x];
  lease = leases[x];
  arriving[n] = x + 1;
  printf("node %d: claims %d as attempt %d, with session %d\n", n, x, a, by)
}

/* A process of a node: it claims, works, perhaps writes a checkpoint, and reports until it is heard. That its lease is
   lost it learns from the answers alone, so it may be a zombie at any moment. What it sent may arrive after its death. */
proctype Node(byte n) {
  byte x, a, lease, by, at;
  bool flagged, live, again, mine, seen;
  mtype verdict, answer;

end_of_all:
  do
  :: atomic { /* lease.OPEN_SESSIONS */
      alive[n] && any(claimable) && !closed[uses[n]] -> by = uses[n]
    }
    atomic { /* lease.CLAIM */
      if
      :: each_of(x, EXECUTIONS, claimable)
      :: else -> x = none
      fi;
      if
      :: x == none || left_out(CLAIM_LOCK)
      :: else -> take(n, x, by)
      fi
    }
    if
    :: left_out(CLAIM_LOCK) && x != none ->
      atomic {
        unlocked(x);
        if
        :: state[x] != gone -> take(n, x, by)
        :: else -> x = none
        fi
      }
    :: else
    fi;
    if
    :: x == none || !alive[n]
    :: atomic { x != none && may_fail -> wrong++; arriving[n] = 0; printf("  its answer is lost\n") }
    :: atomic {
        x != none && alive[n] -> arriving[n] = 0;
        runs[n] = x + 1;
        runs_attempt[n] = a
      }
      if
      :: checkpoint(x, a, lease, answer)
      :: answer = recorded
      fi;
      if
      :: answer == lost || !alive[n]
      :: atomic { answer == recorded ->
          if
          :: verdict = succeeded
          :: verdict = failed
          fi;
          if
          :: may_fail && empty(late) -> wrong++; late!x, a, lease, verdict; printf("a report will arrive twice\n")
          :: true
          fi
        }
        do
        :: report(x, a, lease, verdict, answer);
          if
          :: answer == unheard && alive[n]
          :: else -> break
          fi
        od
      fi
    fi;
    atomic {
      arriving[n] = 0;
      runs[n] = 0;
      runs_attempt[n] = 0;
      x = 0;
      a = 0;
      by = 0;
      lease = 0;
      verdict = 0;
      answer = 0
    }
  od
}

/* Nothing is lost: when nobody has anything left to do, all has ended. */
proctype Oracle() {
  do
  :: timeout -> must(nothing_lost, all_ended); break
  od
}

/* The heartbeats of all processes. Each names what its process runs; what it does not name, and what no answer can
   still be about to bring, is taken back. */
proctype Heart() {
  byte n, s, x, a;

end_of_all:
  do
  :: atomic { /* renew.EXTEND */
      if
      :: each_of(n, NODES, beats)
      fi;
      s = uses[n];
      if
      :: guard(RENEW_OPEN, !closed[s]) -> promised[s] = true
      :: else -> open_session(n); s = 0; n = 0 /* session_closed */
      fi
    }
    if
    :: s == 0
    :: else ->
      atomic { /* expire.LEASED_LONG */
        if
        :: s == uses[n] && any(forgotten) ->
          if
          :: each_of(x, EXECUTIONS, forgotten)
          fi;
          a = attempt[x]
        :: else -> s = 0; n = 0
        fi
      }
      atomic { /* expire.UNNAMED */
        if
        :: s != 0 && held_by(s, x) && guard(STILL_UNNAMED, attempt[x] == a) && unlocked(x) ->
          must(not_robbed, !alive[n] || !named(n, x) && arrived(n, x));
          take_back(x)
        :: else
        fi;
        n = 0;
        s = 0;
        x = 0;
        a = 0
      }
    fi
  od
}

/* Processes die, all but one; and the lease of one that lives may run out. */
proctype World() {
  byte n;

end_of_all:
  do
  :: atomic {
      if
      :: each_of(n, NODES, dies)
      fi;
      wrong++;
      living--;
      alive[n] = false;
      promised[uses[n]] = false;
      printf("node %d: dies\n", n);
      n = 0
    }
  :: atomic {
      if
      :: each_of(n, NODES, is_cut_off)
      fi;
      wrong++;
      promised[uses[n]] = false;
      printf("node %d: its lease runs out\n", n);
      n = 0
    }
  od
}

inline close_seen() {
  for (s : 1 .. SESSIONS) {
    if
    :: (seen & (1 << s)) != 0 -> must(not_robbed, !promised[s]); closed[s] = true; printf("session %d is closed\n", s)
    :: else
    fi
  }
  seen = 0;
  s = 0
}

/* A replica's reaper: it closes the sessions that have run out, and frees what closed ones hold. */
proctype Reaper() {
  byte s, x, seen, mine;

end_of_all:
  do
  :: atomic { /* expire.CLOSE_EXPIRED */
      lapsed(1) || lapsed(2) || lapsed(3) || lapsed(SESSIONS - 1) || lapsed(SESSIONS) -> seen = 0;
      for (s : 1 .. SESSIONS) {
        seen = seen | (lapsed(s) << s)
      }
      if
      :: left_out(CLOSE_LOCK)
      :: left_out(SWEEP_HOLDERS) -> x = seen; close_seen(); seen = x; x = 0
      :: else -> close_seen()
      fi
    }
    if
    :: left_out(CLOSE_LOCK) -> atomic { close_seen() }
    :: left_out(SWEEP_HOLDERS) -> goto sweep
    :: else
    fi
  :: atomic { /* expire.HOLDERS, expire.READ_SESSIONS */
      !left_out(SWEEP_HOLDERS) && any(orphaned) -> seen = 0;
      for (x : 0 .. EXECUTIONS - 1) {
        seen = seen | (orphaned(x) << session[x])
      }
      x = 0
    }
sweep:
    atomic { /* expire.ORPHANED */
      mine = 0;
      for (x : 0 .. EXECUTIONS - 1) {
        if
        :: state[x] == leased && (seen & (1 << session[x])) != 0 && unlocked(x) ->
          mine = mine | (1 << x);
          locked[x] = !left_out(SWEEP_LOCK)
        :: else
        fi
      }
      seen = 0;
      x = 0
    }
    atomic { /* hold.LOCK, and what comes of it */
      for (x : 0 .. EXECUTIONS - 1) {
        if
        :: (mine & (1 << x)) != 0 && state[x] == leased && (unlocked(x) || !left_out(SWEEP_LOCK)) ->
          must(not_robbed, closed[session[x]] && !promised[session[x]]);
          take_back(x)
        :: else
        fi;
        locked[x] = locked[x] && ((mine & (1 << x)) == 0 || left_out(SWEEP_LOCK))
      };
      mine = 0;
      x = 0;
      s = 0
    }
  od
}

/* Somebody cancels the first execution, or does not. */
proctype Caller() {
  bool resting, live;

  if
  :: true
  :: atomic { /* hold.LOCK */
      unlocked(0) || left_out(CANCEL_LOCK);
      live = state[0] != gone;
      resting = session[0] == 0;
      locked[0] = live && !left_out(CANCEL_LOCK)
    }
    atomic {
      unlocked(0) || !left_out(CANCEL_LOCK);
      if
      :: live && resting && (state[0] == ready || left_out(END_ATTEMPT)) -> finish(0, attempt[0], cancelled)
      :: live && !resting && state[0] != gone -> /* cancel.FLAG */
        must(cancel_decides, session[0] != 0);
        cancelling[0] = true;
        printf("0 is being cancelled\n")
      :: else
      fi;
      locked[0] = locked[0] && !(live && !left_out(CANCEL_LOCK))
    }
  fi
}

/* A report that comes a second time, or after the death of its process. */
proctype Network() {
  byte x, a, lease, at;
  bool flagged, live, again, mine, seen;
  mtype verdict, answer;

end_of_waiting:
  late?x, a, lease, verdict;
  report(x, a, lease, verdict, answer)
}

init {
  atomic {
    byte one;
    for (one : 0 .. NODES - 1) {
      uses[one] = one + 1;
      promised[one + 1] = true;
      run Node(one)
    }
    for (one : 1 .. REPLICAS) {
      run Heart();
      run Reaper()
    }
    run World();
    run Caller();
    run Network();
    run Oracle()
  }
}
