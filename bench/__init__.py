"""Speed and memory, measured beside mergekit in one run."""
