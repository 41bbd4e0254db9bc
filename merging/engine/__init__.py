"""Running a plan: engines make its shards."""
