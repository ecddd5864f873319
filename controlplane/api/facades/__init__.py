"""`/jobs`, `/ws/{session_id}` and `/agent` as two published texts print them, in front of executions of ours.

Off unless a setting names the reasoner that serves them. docs/howto/seed-facades.md has the whole table.
"""
