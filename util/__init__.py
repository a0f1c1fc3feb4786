"""Small files that everyone may use, and a room for each thing that a person does: training, inference,
deployment, demo, benchmark. Rooms import downwards only; none but `benchmark` and `demo` imports another."""
