"""What known faults would answer, level by level.

Each function yields pairs (cause, answer): first None with what the plain formula gives, then for each fault that is
known to happen, its name and what a side that has it would give. A fault is named only when it reproduces the numbers:
see `diagnose`. The answers stand under the names the level's question uses."""
