/* What every model here is written with.

   guard(NAME, condition)   a condition that the product checks; the line `guard NAME` at the head of a model says where.
                            -DWITHOUT=NAME leaves it out (and -DALSO=NAME another)
   must(RULE, condition)    what has to be true at this place; -DIGNORED=RULE looks away from it

   An atomic { } is one statement, or several between which the row stays locked. Between two of them anything else may
   happen: another replica, a process that was thought dead, the death of the server. A list called GUARDS and one called
   RULES, without which this file means nothing, stand in each model before it is included. */

#ifndef WITHOUT
#define WITHOUT nothing
#endif
#ifndef ALSO
#define ALSO nothing
#endif
#ifndef IGNORED
#define IGNORED nothing
#endif

mtype = { nothing, GUARDS, RULES };

#define left_out(name) (WITHOUT == name || ALSO == name)
#define guard(name, condition) (left_out(name) || (condition))
#define must(rule, condition) \
  if \
  :: (condition) || rule == IGNORED \
  :: else -> printf("BROKEN %e\n", rule); assert(false) \
  fi
