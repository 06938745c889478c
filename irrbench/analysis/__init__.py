"""Results of a benchmark from per-image tables: leaderboard, comparisons, verdicts, seeds, subgroups, blind floor."""
