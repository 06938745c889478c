"""From per-image tables to what may be said of them: leaderboard, comparisons, verdicts, subgroups."""
