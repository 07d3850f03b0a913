"""What runs inside a lab guest: workloads that pin memory for real, and scenarios made of them."""
